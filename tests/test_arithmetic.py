"""Sub-volumes, symmetries, splits and plans: pure arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.augment import SYMMETRIES, apply_symmetry, variant
from pipeline.config import Recipe
from pipeline.deposit import get_scheme
from pipeline.errors import InputError, SnapshotError
from pipeline.field import fill_counts
from pipeline.plan import make_plan
from pipeline.snapshot import Snapshot, SnapshotHeader
from pipeline.split import assign_splits
from pipeline.subvolume import join_subvolumes, split_cube, subvolume_indices
from pipeline.survey import SurveyedUniverse
from tests.ensembles_made import recipe_data

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


@given(k=st.integers(1, 4), side=st.integers(1, 4), channels=st.integers(1, 3))
def test_subvolumes_are_where_their_index_says(k: int, side: int, channels: int) -> None:
    n = k * side
    cube = np.arange(n**3 * channels).reshape(n, n, n, channels)
    samples = split_cube(cube, k)
    for (ix, iy, iz), sample in zip(subvolume_indices(k), samples, strict=True):
        here = cube[ix * side :, iy * side :, iz * side :][:side, :side, :side]
        np.testing.assert_array_equal(sample, here)
        np.testing.assert_array_equal(sample, samples[k * k * ix + k * iy + iz])
    np.testing.assert_array_equal(join_subvolumes(samples), cube)


def test_a_division_that_does_not_work_is_refused() -> None:
    with pytest.raises(ValueError, match="not divisible"):
        split_cube(np.zeros((8, 8, 8, 1)), 3)


def test_the_symmetries_are_the_group_of_the_cube() -> None:
    cube = np.random.default_rng(0).random((3, 3, 3, 2))
    images = [apply_symmetry(cube, s) for s in range(len(SYMMETRIES))]
    keys = {image.tobytes() for image in images}
    assert len(keys) == 48
    assert images[0].tobytes() == cube.tobytes()
    for a, b in itertools.product((5, 17, 40), range(48)):
        assert apply_symmetry(images[a], b).tobytes() in keys


@given(number=st.integers(0, 47), seed=st.integers(0, 5), shifts=st.booleans())
def test_variants_keep_the_mass_and_follow_from_their_names(
    number: int, seed: int, shifts: bool
) -> None:
    cube = np.random.default_rng(1).poisson(1.0, (4, 4, 4, 2))
    one = variant(cube, seed, "u7", number, shifts)
    np.testing.assert_array_equal(one, variant(cube, seed, "u7", number, shifts))
    np.testing.assert_array_equal(one.sum((0, 1, 2)), cube.sum((0, 1, 2)))
    if number == 0:
        np.testing.assert_array_equal(one, cube)


def test_variants_of_one_universe_differ() -> None:
    cube = np.random.default_rng(1).random((3, 3, 3, 1))
    assert len({variant(cube, 0, "u", n).tobytes() for n in range(48)}) == 48


def universes(n: int, seed: int = 0) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    return {f"u{i:04d}": {"Omega_m": rng.random(), "sigma_8": rng.random()} for i in range(n)}


@given(n=st.integers(10, 200), seed=st.integers(0, 10))
@settings(deadline=None)
def test_split_sizes_and_independence_of_order(n: int, seed: int) -> None:
    given_universes = universes(n, seed)
    splits = assign_splits(given_universes, FRACTIONS, seed)
    assert splits.keys() == given_universes.keys()
    for name, share in FRACTIONS.items():
        assert abs(list(splits.values()).count(name) - share * n) <= 1 + 1e-9
    backwards = dict(reversed(given_universes.items()))
    assert assign_splits(backwards, FRACTIONS, seed) == splits


def test_splits_cover_the_parameters() -> None:
    """Means of a stratified test split scatter less than those of a random one."""
    given_universes = universes(400)
    values = {u: p["Omega_m"] for u, p in given_universes.items()}
    means = []
    for seed in range(40):
        splits = assign_splits(given_universes, FRACTIONS, seed)
        means.append(np.mean([values[u] for u, s in splits.items() if s == "test"]))
    random_scatter = np.std(list(values.values())) / np.sqrt(40)
    assert np.std(means) < 0.6 * random_scatter
    assert len({round(m, 9) for m in means}) > 30, "the seed matters"


def test_too_few_universes_for_the_splits() -> None:
    with pytest.raises(InputError, match=r"3 universes are too few.*would be empty.*at least 10"):
        assign_splits(universes(3), FRACTIONS, 0)
    assert set(assign_splits(universes(3), {"train": 1.0}, 0).values()) == {"train"}


@given(
    n=st.integers(10, 40),
    subvolumes=st.sampled_from([1, 2]),
    variants=st.sampled_from([1, 2, 3]),
    shard_factor=st.sampled_from([0.25, 0.5, 1, 2, 5]),
)
@settings(deadline=None)
def test_every_sample_is_in_one_shard(
    n: int, subvolumes: int, variants: int, shard_factor: float
) -> None:
    per_shard = max(1, int(variants * subvolumes**3 * shard_factor))
    data = recipe_data(
        split__subvolumes=subvolumes,
        split__fractions=FRACTIONS,
        augment={"offline": {"symmetries": variants}},
        output__samples_per_shard=per_shard,
    )
    try:
        recipe = Recipe.model_validate(data)
    except ValueError:
        return  # this combination would cut a universe; refused by the recipe
    parameters = universes(n)
    surveyed = [SurveyedUniverse(u, {**p, "n_s": 1.0}, ()) for u, p in parameters.items()]
    plan = make_plan(recipe, surveyed)
    for split in plan.splits:
        tasks = [t for t in plan.tasks if t.split == split]
        numbers = [
            i
            for task in tasks
            for shard in task.shards
            for i in range(shard.first_sample, shard.first_sample + shard.samples)
        ]
        assert numbers == list(range(plan.n_samples(split)))
        assert [u.id for t in tasks for u in t.universes] == [u.id for u in plan.splits[split]]
        for task in tasks:
            held = len(task.universes) * recipe.samples_per_universe(split)
            assert sum(s.samples for s in task.shards) == held
            assert all(0 < s.samples <= per_shard for s in task.shards)
    paths = [s.path for t in plan.tasks for s in t.shards]
    assert len(set(paths)) == len(paths)


class Crowd(Snapshot):
    """40,000 particles at one place."""

    def iter_positions(self, chunk_particles: int = 1000) -> Iterator[np.ndarray]:
        for begin in range(0, 40_000, chunk_particles):
            yield np.full((min(chunk_particles, 40_000 - begin), 3), 3.3)


def test_a_cell_too_full_for_the_type_is_refused() -> None:
    """Fault row 22."""
    crowd = Crowd(SnapshotHeader((Path("crowd"),), "made", 10.0, 0.0, 40_000, "Mpc/h"))
    for dtype in (np.uint16, np.int32, np.float32):
        cells = np.empty((4, 4, 4), dtype)
        assert fill_counts(crowd, cells, get_scheme("ngp"), "cell").maximum == 40_000
        assert cells.max() == cells.sum() == 40_000
    with pytest.raises(SnapshotError, match=r"40000 particles, more than int16 can \(32767\)"):
        fill_counts(crowd, np.empty((4, 4, 4), np.int16), get_scheme("ngp"), "cell")


def test_paths_stay_in_the_data_set(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(recipe_data(split__fractions={"train": 1.0}))
    surveyed = [SurveyedUniverse("../../etc", {"Omega_m": 0.3, "sigma_8": 0.8, "n_s": 1.0}, ())]
    for task in make_plan(recipe, surveyed).tasks:
        for shard in task.shards:
            assert (tmp_path / shard.path).resolve().is_relative_to(tmp_path)
