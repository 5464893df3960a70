"""Faults of the input as a build and ``check`` meet them: rows 18 to 26 from end to end.

The readers' own tests make the same faults in more ways (docs/faults.md lists all).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.config import load_recipe
from pipeline.deposit import get_scheme, scheme_names
from pipeline.errors import CosmoflowError, InputError, RecipeError, SnapshotError
from pipeline.readers import get_reader, open_snapshot, reader_names
from pipeline.snapshot import ReadOptions
from pipeline.stream_check import PositionFacts, stream
from pipeline.survey import Refusal, try_survey
from pipeline.universes import list_universes
from tests.deposits_made import deposit_snapshot
from tests.ensembles_made import BOX_SIZE, write_recipe
from tests.snapshots_made import random_positions, write_gadget_binary, write_gadget_hdf5

WRITERS = {"gadget_hdf5": write_gadget_hdf5, "gadget_binary": write_gadget_binary}
BOX = 100.0
TABLE = "id,Omega_m,sigma_8,n_s\n" + "".join(f"u{i},0.3,0.8,1.0\n" for i in range(3))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three universes of one snapshot in three parts each, and a recipe."""
    for number in range(3):
        write_gadget_hdf5(
            tmp_path / f"sims/u{number}/snap.hdf5",
            random_positions(300, seed=number),
            n_files=3,
        )
    (tmp_path / "cosmology.csv").write_text(TABLE)
    recipe(tmp_path)
    return tmp_path


def recipe(root: Path, **inputs: Any) -> Path:
    return write_recipe(
        root,
        input={"universes": "sims", "parameters": "cosmology.csv", **inputs},
        grid__redshifts=[0.0],
        split__fractions={"train": 1.0},
    )


def reasons(root: Path, **inputs: Any) -> dict[str, str]:
    """Refusals by universe, as ``check`` prints them."""
    loaded = load_recipe(recipe(root, **inputs))
    results = [try_survey(universe, loaded) for universe in list_universes(loaded, root)]
    assert len(results) == 3
    return {r.id: r.reason for r in results if isinstance(r, Refusal)}


def test_a_missing_part_stops_a_build_before_it_writes(root: Path, cluster: ClusterChoice) -> None:
    """Fault row 18."""
    (root / "sims/u1/snap.1.hdf5").unlink()
    with pytest.raises(InputError) as caught:
        build(root / "recipe.yaml", cluster, strict=True)
    for part in ("1 of 3 universes", "sims/u1/snap.0.hdf5", "expected 3 parts (300 particles)"):
        assert part in str(caught.value)
    assert "snap.1.hdf5 is missing" in str(caught.value)
    assert not (root / "out").exists()


def test_a_part_cut_after_the_survey_leaves_no_partial_cube(
    root: Path, cluster: ClusterChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault row 18: the file is whole when it is surveyed and cut when it is read."""
    path = root / "sims/u2/snap.2.hdf5"
    whole = path.read_bytes()
    from pipeline import rounds

    planned = rounds.make_plan

    def cut(*arguments: Any) -> Any:
        path.write_bytes(whole[: len(whole) // 2])
        return planned(*arguments)

    monkeypatch.setattr(rounds, "make_plan", cut)
    with pytest.raises((SnapshotError, InputError), match=r"u2/snap\.2\.hdf5"):
        build(root / "recipe.yaml", cluster, strict=True)
    assert not list((root / "out").rglob("*.tmp"))
    assert not (root / "out/manifest.json").exists()


@pytest.mark.parametrize("field", ["NumPart_ThisFile", "NumPart_Total"])
def test_2_to_the_40_particles(root: Path, field: str) -> None:
    """Fault row 19."""
    with h5py.File(root / "sims/u0/snap.0.hdf5", "r+") as file:
        file["Header"].attrs[field] = np.array([0, 2**40], "u8")
    found = reasons(root)
    assert list(found) == ["u0"]
    assert "u0/snap.0.hdf5" in found["u0"] or "u0/snap.1.hdf5" in found["u0"]


EDGES = np.array(
    [0.0, BOX, -1e-30, -1e-6, np.nextafter(np.float32(BOX), 0), np.nextafter(BOX, 200), -BOX],
)
EDGES = np.concatenate([EDGES, [3 * BOX, -2.5 * BOX, 1e7, BOX / 2, BOX * (1 - 2**-25)]])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("format", WRITERS)
def test_positions_on_and_beyond_the_edges(tmp_path: Path, format: str, dtype: str) -> None:
    """Fault row 20: finite positions are wrapped and none of their mass is lost."""
    positions = np.stack(np.meshgrid(EDGES, EDGES, EDGES), -1).reshape(-1, 3)
    [path] = WRITERS[format](tmp_path / "s", positions, length_unit="Mpc/h", dtype=dtype)
    for name in scheme_names():
        scheme = get_scheme(name)
        grid = deposit_snapshot(open_snapshot(path), 8, scheme, "cell")
        assert int(grid.sum()) == len(positions) * scheme.unit
        assert grid.min() >= 0
    found = stream(open_snapshot(path))
    stored = positions.astype(dtype)
    expected = int(((stored < 0) | (stored >= BOX)).any(axis=1).sum())
    assert found == PositionFacts(len(positions), expected, 1e7 - BOX)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("format", WRITERS)
def test_positions_that_are_not_finite_are_counted(tmp_path: Path, format: str, bad: float) -> None:
    """Fault row 20."""
    positions = random_positions(500)
    positions[[3, 77, 77], [0, 1, 2]] = bad
    [path] = WRITERS[format](tmp_path / "s", positions)
    for read in (stream, lambda s: deposit_snapshot(s, 8, get_scheme("cic"), "cell")):
        with pytest.raises(SnapshotError, match="2 of 500 positions are NaN or infinite"):
            read(open_snapshot(path))


@pytest.mark.parametrize(("written", "taken"), [("kpc/h", "Mpc/h"), ("Mpc/h", "kpc/h")])
def test_a_unit_slip_in_the_recipe_refuses_every_universe(
    root: Path, written: str, taken: str
) -> None:
    """Fault row 21: one line for each universe, with the unit that it probably is."""
    for number in range(3):
        write_gadget_hdf5(
            root / f"sims/u{number}/snap.hdf5",
            random_positions(300, seed=number),
            n_files=3,
            length_unit=written,
        )
    assert reasons(root) == {}
    found = reasons(root, length_unit=taken)
    assert sorted(found) == ["u0", "u1", "u2"]
    for reason in found.values():
        assert f"set input.length_unit: {written}" in reason
        assert "\n" not in reason


# --- overrides that contradict the header (row 21) --------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "recorded"),
    [
        ("box_size", 101.0, "box_size = 100 Mpc/h"),
        ("box_size", 50.0, "box_size = 100 Mpc/h"),
        ("Omega_m", 0.31, "Omega_m = 0.3"),
        ("h", 0.67, "h = 0.7"),
    ],
)
@pytest.mark.parametrize("format", WRITERS)
def test_a_recipe_that_contradicts_the_header(
    tmp_path: Path, format: str, key: str, value: float, recorded: str
) -> None:
    [path] = WRITERS[format](tmp_path / "s", random_positions())
    given = {"length_unit": "kpc/h", key: value}
    with pytest.raises(SnapshotError) as caught:
        open_snapshot(path, ReadOptions(**given))
    for part in (f"{path}: records {recorded}", f"input.{key}: {value:g}", f"drop input.{key}"):
        assert part in str(caught.value)
    assert "input.override: true" in str(caught.value)
    overridden = ReadOptions(**given, override=True)
    if value == 50.0:  # eight times the density, which no override makes right
        with pytest.raises(SnapshotError, match="times the mean matter density"):
            open_snapshot(path, overridden)
    else:
        assert getattr(open_snapshot(path, overridden).header, key) == value


@pytest.mark.parametrize("format", WRITERS)
def test_a_recipe_that_agrees_with_the_header(tmp_path: Path, format: str) -> None:
    [path] = WRITERS[format](tmp_path / "s", random_positions())
    options = ReadOptions(box_size=BOX * 1.0005, h=0.7003, Omega_m=0.2998)
    header = open_snapshot(path, options).header
    assert (header.box_size, header.h, header.Omega_m) == (BOX * 1.0005, 0.7003, 0.2998)


def test_what_a_header_lacks_does_not_hide_what_it_contradicts(tmp_path: Path) -> None:
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions(), cosmology_in="Header")
    with h5py.File(path, "r+") as file:
        file["Header"].attrs["BoxSize"] = 0.0
    given = {"box_size": BOX, "length_unit": "kpc/h"}
    assert open_snapshot(path, ReadOptions(**given)).header.box_size == BOX
    with pytest.raises(SnapshotError, match=r"records Omega_m = 0\.3.*input\.Omega_m: 0\.32"):
        open_snapshot(path, ReadOptions(**given, Omega_m=0.32))


def test_an_override_of_the_recipe_reaches_the_reader(root: Path) -> None:
    found = reasons(root, Omega_m=0.29)
    assert sorted(found) == ["u0", "u1", "u2"]
    assert all("drop input.Omega_m" in reason for reason in found.values())
    found = reasons(root, Omega_m=0.29, override=True)
    assert all("in the parameter table" in reason for reason in found.values())
    assert reasons(root, h=0.71, override=True) == {}


# --- pickles (row 24) --------------------------------------------------------------------------


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "exploded"))


def armed(folder: Path) -> tuple[Path, list[Path]]:
    """A file that any unpickling makes, and files that hold the bomb."""
    mark = folder / "exploded"
    bomb = np.array([Bomb(mark)] * 24, dtype=object)
    pickle.loads(pickle.dumps(bomb))
    assert mark.exists(), "the bomb is no bomb"
    mark.unlink()
    np.save(folder / "a.npy", bomb, allow_pickle=True)
    np.savez(folder / "b.npz", px=bomb, py=bomb, pz=bomb, pos=bomb)
    np.save(folder / "df_m_64_z=0.npy", bomb.reshape(2, 3, 4), allow_pickle=True)
    (folder / "c.pkl").write_bytes(pickle.dumps(bomb))
    return mark, sorted(p for p in folder.iterdir() if p.is_file())


@pytest.mark.parametrize("format", reader_names())
def test_pickles_are_never_loaded(tmp_path: Path, format: str) -> None:
    """Fault row 24, for every format that there is."""
    mark, files = armed(tmp_path)
    reader = get_reader(format)
    refusals = 0
    for path in files:
        reader.sniff(path)
        for positions in ("pos", ("px", "py", "pz")):
            options = ReadOptions(
                format=format,
                box_size=BOX,
                redshift=0.0,
                length_unit="Mpc/h",
                Omega_m=0.3,
                h=0.7,
                positions=positions,
            )
            try:
                list(open_snapshot(path, options).iter_positions())
            except CosmoflowError:
                refusals += 1
    assert refusals == 2 * len(files)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.pkl", "t.pickle"])
def test_a_pickle_is_no_parameter_table(root: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="neither 'header' nor a table"):
        load_recipe(recipe(root, parameters=name))


# --- links, names and paths (rows 23 and 25) -----------------------------------------------------


def test_external_links_refuse_a_universe_by_name(root: Path) -> None:
    """Fault row 23."""
    with h5py.File(root / "sims/u1/snap.2.hdf5", "r+") as file:
        del file["PartType1"]
        file["PartType1"] = h5py.ExternalLink(str(root / "sims/u0/snap.2.hdf5"), "/PartType1")
    found = reasons(root)
    assert list(found) == ["u1"]
    assert "is an external link" in found["u1"]


def test_a_snapshot_linked_from_outside_refuses_its_universe(
    root: Path, tmp_path_factory: Any
) -> None:
    """Fault row 25."""
    path = root / "sims/u1/snap.1.hdf5"
    elsewhere = tmp_path_factory.mktemp("elsewhere") / path.name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    found = reasons(root)
    assert list(found) == ["u1"]
    assert f"leads to {elsewhere}" in found["u1"]


def test_box_sizes_that_differ_refuse_a_universe(root: Path) -> None:
    write_gadget_hdf5(root / "sims/u0/other.hdf5", random_positions(), box_size=2 * BOX_SIZE)
    found = reasons(root)
    assert list(found) == ["u0"]
    assert "one universe has one box" in found["u0"]
