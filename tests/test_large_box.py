"""Universes in parts: sums of tiles, blocks of cubes, scratch files, and whole data sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import worker_memory
from pipeline.augment import variant, variant_block
from pipeline.boxes import BoxOptions
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.config import load_recipe
from pipeline.deposit import Assigned, assign, get_scheme, scheme_names
from pipeline.deposit.assign import square_divisor
from pipeline.deposit.parts import PARTICLES, Assignment, Binner, joined, sum_tiles
from pipeline.errors import BuildError, InputError, OutputError, RecipeError
from pipeline.readers import open_snapshot
from pipeline.rounds import Progress
from pipeline.scratch import FOLDER
from pipeline.scratch_cube import CubeFile, ScratchChannel, ScratchCube
from pipeline.subvolume import split_cube, subvolume_indices
from pipeline.tile_file import Record, ScratchDamagedError, TileFile, write_tiles
from pipeline.verify import verify
from tests.boxes_made import box_recipe, content, crowded, write_boxes
from tests.snapshots_made import random_positions, write_gadget_binary, write_gadget_hdf5

BOX_SIZE = 100.0
ALWAYS, NEVER = BoxOptions("always"), BoxOptions("never")


# ---------------------------------------------------------------- sums of tiles


def in_parts(
    how: Assignment,
    chunks: list[tuple[np.ndarray, np.ndarray]],
    folder: Path,
    dtype: np.dtype,
    unit: float | None,
    n_owners: int,
    bin_bytes: int,
) -> tuple[np.ndarray, Assigned, set[str]]:
    """Grid, measurements and kinds of records, each chunk binned by itself."""
    files: list[Path] = []
    read = not_finite = 0
    for number, (positions, amounts) in enumerate(chunks):
        place = [folder / f"{number}-{k}" for k in range(500)]
        binner = Binner(how, place.__getitem__, len(positions), 1, bin_bytes)
        with binner.running():
            binner.add(positions, amounts)
            binner.flush()
            read, not_finite = read + binner.read, not_finite + binner.not_finite
        files += place[: binner.files]
    tiling = how.tiling
    cuts = [tiling.n_tiles * i // n_owners for i in range(n_owners + 1)]
    grid, sums = np.empty((how.n_grid,) * 3, dtype), []
    owned = [(a, b) for a, b in pairwise(cuts) if a < b]
    cells = [CubeFile(folder / f"cells-{a}", a, b) for a, b in owned]
    sums = [sum_tiles(how, files, (c.begin, c.end), c.path, dtype, unit) for c in cells]
    ScratchChannel(tiling, dtype, cells).block((0, 0, 0), how.n_grid, grid)
    records = [r for f in files for r in TileFile(f, 0, tiling.n_tiles).records(0, tiling.n_tiles)]
    kinds = {"particles" if r.kind == PARTICLES else "sums" for r in records if r.data}
    divisor = square_divisor(dtype, how.scheme, unit)
    return grid, joined(sums).assigned(read, not_finite, divisor), kinds


@given(
    seed=st.integers(0, 99),
    scheme=st.sampled_from(scheme_names()),
    weighted=st.booleans(),
    n_grid=st.integers(4, 70),
    n_chunks=st.integers(1, 3),
    n_owners=st.integers(1, 5),
    bin_bytes=st.sampled_from([1 << 24, 1 << 30]),
    dtype=st.sampled_from(["f4", "f8", "i8"]),
    n=st.sampled_from([0, 5, 3000, 40_000]),
)
@settings(deadline=None, max_examples=60)
def test_parts_add_up_to_the_bits_of_one_deposit(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    scheme: str,
    weighted: bool,
    n_grid: int,
    n_chunks: int,
    n_owners: int,
    bin_bytes: int,
    dtype: str,
    n: int,
) -> None:
    positions = crowded(seed, n)
    if n:
        positions[0, 1] = np.nan
    amounts = np.random.default_rng(seed).integers(-(1 << 30), 1 << 30, n)
    unit = 12345.5 if weighted else None
    how = Assignment(n_grid, BOX_SIZE, get_scheme(scheme), "node", weighted)
    expected = np.empty((n_grid,) * 3, dtype)
    whole = [(positions, amounts)] if weighted else [positions]
    once = assign(
        whole, expected, BOX_SIZE, how.scheme, origin="node", weighted=weighted, unit=unit
    )
    pieces = [(positions[i::n_chunks], amounts[i::n_chunks]) for i in range(n_chunks)]
    folder = tmp_path_factory.mktemp("parts")
    found, again, _ = in_parts(how, pieces, folder, np.dtype(dtype), unit, n_owners, bin_bytes)
    np.testing.assert_array_equal(found, expected)
    assert again == once


@pytest.mark.parametrize("scheme", scheme_names())
def test_the_smaller_of_particles_and_sums_is_shipped(tmp_path: Path, scheme: str) -> None:
    """A crowd in one tile comes as sums, which take less; a few particles come as they are."""
    how = Assignment(70, 70.0, get_scheme(scheme))
    crowd = np.random.default_rng(0).uniform(1, 30, (400_000, 3))
    few = np.random.default_rng(1).uniform(0, 70, (200, 3))
    positions = np.concatenate([crowd, few])
    chunks = [(positions, np.empty(0, np.int64))]
    grid, found, kinds = in_parts(how, chunks, tmp_path, np.dtype("f4"), None, 2, 1 << 30)
    assert kinds == {"particles", "sums"}
    expected = np.empty_like(grid)
    assert found == assign([positions], expected, 70.0, how.scheme)
    np.testing.assert_array_equal(grid, expected)
    shipped = sum(path.stat().st_size for path in tmp_path.glob("0-*"))
    assert shipped < len(positions) * (2 if scheme == "ngp" else 12)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_damage_of_a_scratch_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, where: float, bit: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("damage") / "tiles"
    records = [(t, Record(memoryview(bytes(range(10 * t))), t, 2)) for t in (1, 2, 5, 7)]
    n_bytes = write_tiles(path, 9, records)
    whole = TileFile(path, 0, 9).records(0, 9)
    assert [bytes(whole[t].data) for t, _ in records] == [bytes(r.data) for _, r in records]
    raw = bytearray(path.read_bytes())
    assert len(raw) == n_bytes
    place = int(where * len(raw))
    if cut:
        path.write_bytes(raw[:place])
    else:
        raw[place] ^= 1 << bit
        path.write_bytes(raw)
    with pytest.raises(ScratchDamagedError, match="tiles: a scratch file is missing or damaged"):
        TileFile(path, 0, 9).records(0, 9)
    path.unlink()
    with pytest.raises(ScratchDamagedError):
        TileFile(path, 0, 0)


@given(
    seed=st.integers(0, 1000),
    subvolumes=st.integers(1, 4),
    side=st.integers(1, 10),
    shifts=st.booleans(),
    number=st.integers(0, 47),
)
@settings(deadline=None)
def test_a_block_of_a_variant_is_the_variants_sub_volume(
    seed: int, subvolumes: int, side: int, shifts: bool, number: int
) -> None:
    n = subvolumes * side
    cube = np.random.default_rng(seed).integers(0, 1 << 30, (n, n, n, 2))

    def read(first: tuple[int, ...]) -> np.ndarray:
        x, y, z = (np.arange(start, start + side) % n for start in first)
        return cube[np.ix_(x, y, z)]

    expected = split_cube(variant(cube, seed, "u", number, shifts), subvolumes)
    for place, sample in zip(subvolume_indices(subvolumes), expected, strict=True):
        first = tuple((place * side).tolist())
        found = variant_block(
            read, n, first, side, seed=seed, universe="u", number=number, shifts=shifts
        )
        np.testing.assert_array_equal(found, sample)


@given(first=st.tuples(*[st.integers(0, 74)] * 3), side=st.integers(1, 75), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=25)
def test_blocks_of_a_cube_in_scratch_files(
    tmp_path_factory: pytest.TempPathFactory, first: tuple[int, int, int], side: int, seed: int
) -> None:
    tiling = Assignment(75, 1.0, get_scheme("ngp")).tiling
    cube = np.random.default_rng(seed).integers(0, 1 << 16, (75, 75, 75, 2)).astype("u2")
    folder = tmp_path_factory.mktemp("cube")
    channels = []
    for channel in range(2):
        cells = [
            np.ascontiguousarray(cube[x:x_end, y:y_end, z:z_end, channel]).data.cast("B")
            for x, x_end, y, y_end, z, z_end in tiling.bounds
        ]
        half = tiling.n_tiles // 2
        files = [CubeFile(folder / f"{channel}-{a}", a, b) for a, b in ((0, half), (half, 12345))]
        files[1] = CubeFile(files[1].path, half, tiling.n_tiles)
        for file in files:
            numbered = ((t, Record(cells[t])) for t in range(file.begin, file.end))
            write_tiles(file.path, file.end, numbered)
        channels.append(ScratchChannel(tiling, cube.dtype, files))
    x, y, z = (np.arange(start, start + side) % 75 for start in first)
    found = ScratchCube(75, channels, cube.dtype).block(first, side)
    np.testing.assert_array_equal(found, cube[np.ix_(x, y, z)])


@pytest.mark.parametrize("most", [1, 2, 3, 5, 50])
@pytest.mark.parametrize("write", [write_gadget_hdf5, write_gadget_binary])
def test_sections_are_the_snapshot_in_order(tmp_path: Path, write: object, most: int) -> None:
    [first, *_] = write(tmp_path / "snap.hdf5", random_positions(5000), n_files=5)  # type: ignore[operator]
    snapshot = open_snapshot(first)
    sections = snapshot.sections(most)
    assert len(sections) == min(most, 5)
    whole = [chunk.copy() for chunk in snapshot.iter_positions()]
    apart = [chunk.copy() for section in sections for chunk in section.iter_positions()]
    assert [len(chunk) for chunk in apart] == [len(chunk) for chunk in whole]
    np.testing.assert_array_equal(np.concatenate(apart), np.concatenate(whole))
    weighed = [m.copy() for section in sections for _, m in section.iter_weighted()]
    expected = [m.copy() for _, m in snapshot.iter_weighted()]
    np.testing.assert_array_equal(np.concatenate(weighed), np.concatenate(expected))
    assert len(snapshot.sections(1)) == 1


# ---------------------------------------------------------------- data sets


CASES = {
    "ngp": {},
    "tsc-variants": {
        "grid__scheme": "tsc",
        "augment": {"offline": {"symmetries": 3, "shifts": True}},
    },
    "cic-mass": {"grid__scheme": "cic", "grid__weight": "mass", "output__samples_per_shard": 16},
    "ngp-mass-records": {
        "grid__weight": "mass",
        "output__format": "tfrecord",
        "output__dtype": "float32",
        "output__samples_per_shard": 2,
    },
}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxes")
    write_boxes(root)
    return root


@pytest.mark.parametrize("case", CASES)
def test_a_data_set_in_parts_is_the_one_workers(
    boxes: Path, cluster: ClusterChoice, case: str
) -> None:
    whole = build(box_recipe(boxes, f"whole-{case}", **CASES[case]), cluster, boxes=NEVER)
    parts = build(box_recipe(boxes, f"parts-{case}", **CASES[case]), cluster, boxes=ALWAYS)
    assert "sum tiles" in parts.stages
    assert "sum tiles" not in whole.stages
    assert content(parts.output) == content(whole.output)
    assert len(parts.manifest.universes) == 2
    assert verify(parts.output).passed
    assert not (parts.output / FOLDER).exists()


def test_for_three_workers_and_another_scratch_folder(boxes: Path, cluster: ClusterChoice) -> None:
    reference = build(box_recipe(boxes, "two"), cluster, boxes=NEVER).output
    scratch = boxes / "elsewhere"
    options = BoxOptions("always", scratch)
    found = build(box_recipe(boxes, "three"), ClusterChoice(workers=3), boxes=options).output
    assert content(found) == content(reference)
    assert list(scratch.iterdir()) == []


def test_damaged_scratch_files_are_made_again(boxes: Path, cluster: ClusterChoice) -> None:
    reference = build(box_recipe(boxes, "sound"), cluster, boxes=NEVER).output
    recipe, damaged = box_recipe(boxes, "damaged"), set[str]()

    def damage(progress: Progress) -> None:
        """One file of each stage, once it is made and before it is read."""
        pattern = {"bin": "c0-section-*.tiles", "sum": "c1-cells-*.tiles"}.get(progress.stage)
        if pattern is None or progress.done < progress.total or pattern in damaged:
            return
        for path in sorted((boxes / "damaged" / FOLDER).glob(f"*/{pattern}"))[:1]:
            raw = bytearray(path.read_bytes())
            raw[10] ^= 1
            path.write_bytes(raw)
            damaged.add(pattern)

    found = build(recipe, cluster, report=damage, boxes=ALWAYS).output
    assert damaged == {"c0-section-*.tiles", "c1-cells-*.tiles"}
    assert content(found) == content(reference)


def test_scratch_that_is_damaged_again_and_again_is_an_error(
    boxes: Path, cluster: ClusterChoice
) -> None:
    def damage(progress: Progress) -> None:
        if progress.stage == "bin":
            for path in (boxes / "hopeless" / FOLDER).glob("*/c0-section-*.tiles"):
                path.write_bytes(b"")

    with pytest.raises(OutputError, match="5 scratch files were damaged") as caught:
        build(box_recipe(boxes, "hopeless"), cluster, report=damage, boxes=ALWAYS)
    assert "--scratch DIR" in str(caught.value)


def test_universes_that_cannot_be_used_are_quarantined_as_always(
    tmp_path: Path, cluster: ClusterChoice
) -> None:
    write_boxes(tmp_path, n_universes=3, n_particles=4000)
    positions = crowded(5, 4000)
    positions[7] = np.nan
    write_gadget_hdf5(tmp_path / "sims/u1/snap_0.hdf5", positions, Omega_m=0.2 + 0.2 / 3)
    outputs = []
    for name, options in (("by-one", NEVER), ("in-parts", options_with(tmp_path))):
        result = build(box_recipe(tmp_path, name), cluster, boxes=options)
        assert [q.id for q in result.manifest.quarantined] == ["u1"]
        outputs.append(content(result.output))
    assert outputs[0] == outputs[1]
    assert list((tmp_path / "scratch").iterdir()) == []
    with pytest.raises(InputError, match=r"1 of 4000 positions are NaN"):
        build(box_recipe(tmp_path, "strict"), cluster, boxes=ALWAYS, strict=True)


def options_with(root: Path) -> BoxOptions:
    return BoxOptions("always", root / "scratch")


# ---------------------------------------------------------------- when, and refusals


def test_what_does_not_fit_is_refused_before_the_start(boxes: Path) -> None:
    with small_workers("1GiB") as choice:
        recipe = box_recipe(boxes, "too-large", grid__n_grid=400, grid__scheme="cic")
        with pytest.raises(BuildError, match=r"up to \d+ bytes .* and has 1073741824;") as caught:
            build(recipe, choice, boxes=NEVER)
        for advice in ("--split-boxes never", "--memory-limit", "--workers"):
            assert advice in str(caught.value)
        recipe = box_recipe(boxes, "far-too-large", grid__n_grid=2048, grid__scheme="cic")
        parts = r"\d+ bytes even for universes in parts, and has 1073741824"
        with pytest.raises(BuildError, match=parts):
            build(recipe, choice)
    assert not (boxes / "too-large").exists()
    assert not (boxes / "far-too-large").exists()


@contextmanager
def small_workers(memory: str) -> Iterator[ClusterChoice]:
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=memory,
    ) as local:
        yield ClusterChoice(local.scheduler_address)


def test_auto_makes_in_parts_what_does_not_fit(boxes: Path) -> None:
    """Just too small a limit, and twice as much."""
    recipe_path = box_recipe(boxes, "just", grid__n_grid=96, grid__scheme="cic")
    needed = worker_memory.whole(load_recipe(recipe_path), 60_000)
    limit = int(needed / worker_memory.FIT)
    stages = []
    for number, bytes_ in enumerate((limit - 1, 2 * limit)):
        recipe = box_recipe(boxes, f"auto-{number}", grid__n_grid=96, grid__scheme="cic")
        with small_workers(f"{bytes_}B") as choice:
            stages.append(set(build(recipe, choice).stages))
    assert ["sum tiles" in names for names in stages] == [True, False]
    assert content(boxes / "auto-0") == content(boxes / "auto-1")


def test_a_data_set_at_a_url_needs_a_scratch_folder(boxes: Path, cluster: ClusterChoice) -> None:
    recipe = box_recipe(boxes, "url", output__path="memory://large-box/set")
    with pytest.raises(RecipeError, match="give one with --scratch DIR"):
        build(recipe, cluster, boxes=ALWAYS)


def test_unknown_ways_to_split_are_refused() -> None:
    with pytest.raises(RecipeError, match="expected auto, always, never"):
        BoxOptions("sometimes")  # type: ignore[arg-type]
