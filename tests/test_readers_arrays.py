"""Plain arrays of positions in npy, npz, HDF5 and Zarr: every variant, damaged and hostile ones."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import InputSection, load_recipe
from pipeline.errors import RecipeError, SnapshotError
from pipeline.readers import open_snapshot, sniff
from pipeline.readers.chunk_claim import claimed_bytes
from pipeline.readers.discover import find_snapshots
from pipeline.readers.fingerprint import fingerprint
from pipeline.snapshot import ReadOptions
from pipeline.survey import survey
from pipeline.universes import list_universes
from tests.formats_made import outcome, read_all, read_weighted, with_options

OPTIONS = ReadOptions(format="arrays", box_size=100.0, length_unit="Mpc/h", redshift=0.5)
N = 500

fuzz = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def positions(dtype: str = "f4", n: int = N) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 100.0, (n, 3)).astype(dtype)


def columns(dtype: str = "f4") -> dict[str, np.ndarray]:
    return {name: positions(dtype)[:, k].copy() for k, name in enumerate(("px", "py", "pz"))}


def masses(n: int = N) -> np.ndarray:
    return np.random.default_rng(2).uniform(1, 2, n)


def write_zarr(
    path: Path, arrays: Mapping[str, np.ndarray], *, zarr_format: int = 3, **how: object
) -> Path:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    for name, array in arrays.items():
        shaped = {
            key: (value, *array.shape[1:]) if key in ("chunks", "shards") else value
            for key, value in how.items()
        }
        group.create_array(name, data=array, **shaped)
    return path


def refused(path: Path, match: str, options: ReadOptions = OPTIONS, **changes: object) -> None:
    with pytest.raises(SnapshotError, match=match) as caught:
        read_weighted(open_snapshot(path, with_options(options, **changes)))
    assert path.name in str(caught.value)


# --- every kind of file ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
def test_npy(tmp_path, dtype):
    path = tmp_path / "positions.npy"
    np.save(path, positions(dtype))
    snapshot = open_snapshot(path, OPTIONS)
    for chunk in (1, 99, 10_000):
        found = read_all(snapshot, chunk)
        assert found.dtype == dtype[1:]
        assert found.tobytes() == positions(dtype[1:]).tobytes()
    header = snapshot.header
    assert (header.n_particles, header.box_size, header.redshift) == (N, 100.0, 0.5)
    assert header.files == (path,)


@pytest.mark.parametrize("shape", [(N,), (5, 10, 10), (50, 10)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_npz_of_three_columns(tmp_path, dtype, save, shape):
    """Also in the shape of their grid, as particle-mesh codes have them."""
    path = tmp_path / "sim.npz"
    save(path, **{name: array.reshape(shape) for name, array in columns(dtype).items()})
    for names in (None, ("px", "py", "pz")):
        snapshot = open_snapshot(path, with_options(OPTIONS, positions=names))
        for chunk in (1, 99, 10_000):
            assert read_all(snapshot, chunk).tobytes() == positions(dtype[1:]).tobytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_one_array(tmp_path, save):
    path = tmp_path / "sim.npz"
    save(path, pos=positions())
    assert read_all(open_snapshot(path, OPTIONS)).tobytes() == positions().tobytes()
    save(path, pos=positions(), velocity=positions(), m=masses())
    refused(path, r"which of its arrays.*\(has m, pos, velocity\); give input\.positions")
    options = with_options(OPTIONS, positions="pos", masses="m")
    found, weights = read_weighted(open_snapshot(path, options))
    assert found.tobytes() == positions().tobytes()
    assert weights.tobytes() == masses().tobytes()


@pytest.mark.parametrize(
    "how", [{}, {"chunks": True}, {"compression": "gzip", "chunks": 64}, {"shuffle": True}]
)
def test_hdf5(tmp_path, how):
    path = tmp_path / "sim.hdf5"

    def add(file: h5py.File, name: str, array: np.ndarray) -> None:
        chunks = how.get("chunks")
        options = {**how, "chunks": (chunks, *array.shape[1:])} if chunks == 64 else how
        file.create_dataset(name, data=array, **options)

    with h5py.File(path, "w") as file:
        add(file, "particles/dark/pos", positions(">f4"))
        for name, array in columns().items():
            add(file, name, array)
        add(file, "m", masses())
    for names in ("particles/dark/pos", "/particles/dark/pos", ("px", "py", "pz")):
        options = with_options(OPTIONS, positions=names, masses="m")
        snapshot = open_snapshot(path, options)
        for chunk in (10, 99, 10_000):
            found, weights = read_weighted(snapshot, chunk)
            assert found.tobytes() == positions().tobytes()
            assert weights.tobytes() == masses().tobytes()
            assert read_all(snapshot, chunk).tobytes() == positions().tobytes()


ZARRS = [
    {},
    {"chunks": 64},
    {"chunks": 50, "shards": 200},
    {"chunks": 64, "compressors": None},
    {"zarr_format": 2, "chunks": 64},
    {"zarr_format": 2, "chunks": 500, "compressors": None},
]


@pytest.mark.parametrize("how", ZARRS)
def test_zarr(tmp_path, how):
    path = write_zarr(
        tmp_path / "sim.zarr", {"deep/pos": positions(), **columns(), "m": masses()}, **how
    )
    for names in ("deep/pos", ("px", "py", "pz")):
        options = with_options(OPTIONS, positions=names, masses="m")
        snapshot = open_snapshot(path, options)
        for chunk in (10, 99, 10_000):
            found, weights = read_weighted(snapshot, chunk)
            assert found.tobytes() == positions().tobytes()
            assert weights.tobytes() == masses().tobytes()
    files = {file for file in path.rglob("*") if file.is_file()}
    assert set(snapshot.header.files) == files
    assert snapshot.header.files[0].parent == path  # so that messages name the folder
    inside = path / "px" / ("zarr.json" if how.get("zarr_format", 3) == 3 else ".zarray")
    assert open_snapshot(inside, options).header.files == snapshot.header.files


def test_zarr_array_that_is_the_whole_folder(tmp_path):
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "pos.zarr"
    zarr.create_array(path, data=positions(), chunks=(100, 3))
    assert read_all(open_snapshot(path, OPTIONS)).tobytes() == positions().tobytes()


def test_units(tmp_path):
    path = tmp_path / "p.npy"
    np.save(path, positions() * np.float32(1000))
    options = with_options(OPTIONS, length_unit="kpc", h=0.7, box_size=70.0)
    expected = positions() * np.float32(1000) * (0.7 * 1e-3)
    assert read_all(open_snapshot(path, options)).tobytes() == expected.tobytes()
    refused(path, r"lengths in kpc need h", options, h=None)
    np.save(path, positions() / np.float32(100))
    boxes = with_options(OPTIONS, length_unit="box")
    found = read_all(open_snapshot(path, boxes))
    assert found.tobytes() == (positions() / np.float32(100) * 100.0).tobytes()
    refused(path, "expected them to fill the box", boxes, length_unit="kpc/h")


# --- finding them ---------------------------------------------------------------------------


def test_never_recognised_by_itself(tmp_path):
    np.savez(tmp_path / "sim.npz", **columns())
    np.save(tmp_path / "sim.npy", positions())
    write_zarr(tmp_path / "sim.zarr", columns())
    with h5py.File(tmp_path / "sim.hdf5", "w") as file:
        file["pos"] = positions()
    names = ("sim.npz", "sim.npy", "sim.hdf5", "sim.zarr/zarr.json")
    assert [sniff(tmp_path / name) for name in names] == [None] * 4
    assert find_snapshots(tmp_path) == []
    with pytest.raises(SnapshotError, match=r"name the format with input\.format"):
        open_snapshot(tmp_path / "sim.npz")


def test_discovery(tmp_path):
    np.savez(tmp_path / "a.npz", **columns())
    np.save(tmp_path / "b.npy", positions())
    with h5py.File(tmp_path / "c.hdf5", "w") as file:
        file["pos"] = positions()
    store = write_zarr(tmp_path / "d.zarr", columns(), chunks=100)
    (tmp_path / "notes.txt").write_text("z = 0")
    found = find_snapshots(tmp_path, format="arrays")
    assert [parts[0].name for parts in found] == ["a.npz", "b.npy", "c.hdf5", "zarr.json"]
    inside = {path for path in store.rglob("*") if path.is_file()}
    assert set(found[3]) == inside
    for pattern in ("*.zarr", "d.zarr/zarr.json", "**/*.zarr"):
        assert find_snapshots(tmp_path, pattern, "arrays") == [found[3]]
    before = fingerprint(found[3])
    chunk = max(inside, key=lambda path: path.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\0")
    assert fingerprint(found[3]) != before


def test_redshift_by_name(tmp_path):
    options = with_options(OPTIONS, redshift=None, redshift_pattern="z=([0-9.]+)")
    paths = [tmp_path / "sim_z=0.5.npz", tmp_path / "z=3" / "sim.npz"]
    paths[1].parent.mkdir()
    for path in paths:
        np.savez(path, **columns())
    assert [open_snapshot(path, options).header.redshift for path in paths] == [0.5, 3.0]
    store = write_zarr(tmp_path / "z=1.5" / "sim.zarr", {"pos": positions(), **columns()})
    refused(store, r"\(has pos, px, py, pz\); give input\.positions", options)
    named = with_options(options, positions="pos")
    assert open_snapshot(store, named).header.redshift == 1.5
    refused(paths[0], r"give input\.redshift", options, redshift_pattern=None)
    assert open_snapshot(paths[0], with_options(options, redshift=2.0)).header.redshift == 2.0


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_survey_of_universes_with_several_redshifts(tmp_path, kind):
    for universe in ("a", "b"):
        for number, redshift in enumerate((0.0, 0.5, 3.0)):
            folder = tmp_path / "sims" / universe
            folder.mkdir(parents=True, exist_ok=True)
            moved = {name: x + np.float32(number) for name, x in columns().items()}
            moved["px"] += np.float32(len(universe) + ord(universe))
            path = folder / f"snap_{number}_z={redshift}.{kind}"
            np.savez(path, **moved) if kind == "npz" else write_zarr(path, moved, chunks=100)
    (tmp_path / "p.csv").write_text("id,Omega_m\na,0.3\nb,0.31\n")
    (tmp_path / "recipe.yaml").write_text(
        "name: arrays\ninput:\n  universes: 'sims/*/'\n  parameters: p.csv\n"
        "  format: arrays\n  positions: [px, py, pz]\n  box_size: 100\n  length_unit: Mpc/h\n"
        "  redshift_pattern: '_z=([0-9.]+)'\n"
        "grid: {n_grid: 8, redshifts: [3, 0.5, 0]}\ntargets: {Omega_m: [0.1, 0.5]}\n"
        "output: {path: out}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    surveyed = [survey(u, recipe) for u in list_universes(recipe, tmp_path)]
    assert [u.id for u in surveyed] == ["a", "b"]
    for universe in surveyed:
        assert [c.header.redshift for c in universe.channels] == [3.0, 0.5, 0.0]
        again = [
            open_snapshot(c.header.files, recipe.input.read_options()) for c in universe.channels
        ]
        assert [s.header for s in again] == [c.header for c in universe.channels]


# --- what the recipe says -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("box_size", r"expected input\.box_size"),
        ("length_unit", r"expected input\.length_unit"),
        ("redshift", r"give input\.redshift in the recipe, or input\.redshift_pattern"),
    ],
)
def test_the_recipe_lacks_something(tmp_path, missing, message):
    path = tmp_path / "p.npy"
    np.save(path, positions())
    refused(path, message, **{missing: None})


def section(**keys: object) -> InputSection:
    return InputSection(universes="sims/*/", parameters="p.csv", **keys)


def test_recipe_keys():
    options = section(
        format="arrays",
        positions=["px", "py", "pz"],
        masses="m",
        redshift_pattern=r"_z(?P<z>[0-9.]+)_(\w+)",
    ).read_options()
    assert options.positions == ("px", "py", "pz")
    assert options.masses == "m"
    assert options.redshift_pattern == r"_z(?P<z>[0-9.]+)_(\w+)"
    assert section(positions="PartType1/Coordinates").read_options().positions is not None
    assert section().read_options().redshift_pattern is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("redshift_pattern", "'z=([0-9'", "is not a regular expression"),
        ("redshift_pattern", "'z=[0-9]+'", "has 0 groups, expected one"),
        ("redshift_pattern", "'(z)=([0-9]+)'", "has 2 groups, expected one"),
        ("redshift_pattern", "'(" + "a" * 300 + ")'", "at most 200 characters"),
        ("positions", "[x, y]", "positions"),
        ("positions", "3", "positions"),
        ("positions", "''", "positions"),
        ("masses", "[m]", "masses"),
        ("position", "x", "did you mean 'positions'"),
    ],
)
def test_wrong_recipe_keys_are_refused_with_their_line(tmp_path, key, value, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: a\ninput:\n  universes: 'sims/*/'\n  parameters: p.csv\n"
        f"  {key}: {value}\n"
        "grid: {n_grid: 8, redshifts: [0]}\ntargets: {Omega_m: [0.1, 0.5]}\noutput: {path: out}\n"
    )
    with pytest.raises(RecipeError, match=rf"recipe\.yaml:5: .*{message}"):
        load_recipe(path)


# --- shapes, types, names -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"px": positions()}, r"px: has the shape \(500, 3\) .*expected one coordinate"),
        ({"px": masses(499).astype("f4")}, r"expected one coordinate .* like px: \(499,\)"),
        ({"pz": masses(499).astype("f4")}, r"pz: has the shape \(499,\)"),
        ({"py": masses()}, r"py: has the shape .* of float64, expected .* float32"),
        ({"pz": np.arange(N)}, "pz.* float32 or float64"),
        ({"px": np.zeros(N, "f2")}, "px.* float32 or float64"),
        ({"m": np.zeros(N, "i4")}, "/?m.* float32 or float64"),
        ({"m": masses(499)}, r"m: has the shape \(499,\), expected one mass for each of the 500"),
        ({"m": positions()}, "expected one mass for each"),
    ],
)
@pytest.mark.parametrize("kind", ["npz", "hdf5", "zarr"])
def test_arrays_that_do_not_go_together(tmp_path, kind, arrays, message):
    content = {**columns(), "m": masses(), **arrays}
    path = tmp_path / f"sim.{kind}"
    if kind == "npz":
        np.savez(path, **content)
    elif kind == "zarr":
        write_zarr(path, content)
    else:
        with h5py.File(path, "w") as file:
            for name, array in content.items():
                file[name] = array
    if kind == "zarr":  # whose arrays are folders, so that their names are in the path
        message = message.replace("like px", "like ")
    refused(path, message, positions=("px", "py", "pz"), masses="m")


@pytest.mark.parametrize("kind", ["npz", "hdf5", "zarr", "npy"])
def test_arrays_that_are_not_there(tmp_path, kind):
    path = tmp_path / f"sim.{kind}"
    if kind == "npz":
        np.savez(path, **columns())
    elif kind == "npy":
        np.save(path, positions())
    elif kind == "zarr":
        write_zarr(path, columns())
    else:
        with h5py.File(path, "w") as file:
            file.create_group("px/group")
    refused(path, r"input\.positions", positions="none/such")
    if kind != "npy":
        refused(path, r"input\.(positions|masses)|is a group", masses="m", positions="px/group")
    if kind == "zarr":
        for name in ("../sim.zarr/px", "/px", "px/", ".", "a//b"):
            refused(path, "is not the name of an array inside it", positions=name)


@pytest.mark.parametrize("shape", [(N, 2), (3, N), (N,), (N, 3, 1), ()])
def test_positions_of_another_shape(tmp_path, shape):
    path = tmp_path / "p.npy"
    np.save(path, np.zeros(shape, "f4"))
    refused(path, r"has the shape .*, expected \(n, 3\) for positions")


def test_no_particles(tmp_path):
    path = tmp_path / "p.npy"
    np.save(path, np.zeros((0, 3), "f4"))
    refused(path, "no particles")


def test_columns_first_in_memory(tmp_path):
    path = tmp_path / "p.npy"
    np.save(path, np.asfortranarray(positions()))
    refused(path, r"column by column \(Fortran order\)")


def test_masses_that_are_not_named(tmp_path):
    path = tmp_path / "p.npy"
    np.save(path, positions())
    refused(path, r"names no array of masses; give input\.masses")


def test_other_files(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("1 2 3\n" * 100)
    refused(path, "expected npy, npz, HDF5 or Zarr")
    np.save(tmp_path / "a.npy", positions())
    with pytest.raises(SnapshotError, match="expected one file"):
        open_snapshot([tmp_path / "a.npy", path], OPTIONS)


# --- pickles and bombs (row 24) -------------------------------------------------------------


class Program:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_pickles_are_refused(tmp_path, kind):
    trace = tmp_path / "trace"
    objects = np.array([Program(trace)] * N, dtype=object)
    path = tmp_path / f"p.{kind[:3]}"
    save = {"npy": np.save, "npz": np.savez, "compressed": np.savez_compressed}[kind]
    names = None
    if kind == "npy":
        save(path, objects)
    else:
        path = tmp_path / "p.npz"
        save(path, **{**columns(), "px": objects})
        names = ("px", "py", "pz")
    refused(path, "Python objects .*pickles are refused", positions=names)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Program(trace)))
    assert trace.exists()  # so it would have left one


def test_a_pickle_in_place_of_an_array(tmp_path):
    path = tmp_path / "p.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pos.npy", pickle.dumps(np.zeros((N, 3))))
    refused(path, "expected an array that np.save wrote")


def test_pickles_in_zarr_are_refused(tmp_path):
    path = write_zarr(tmp_path / "p.zarr", {"pos": positions()}, zarr_format=2, chunks=N)
    metadata = path / "pos" / ".zarray"
    trace = tmp_path / "trace"
    for change in ({"compressor": {"id": "pickle"}}, {"filters": [{"id": "pickle"}]}):
        content = json.loads(metadata.read_text())
        metadata.write_text(json.dumps(content | change))
        (path / "pos" / "0.0").write_bytes(pickle.dumps(Program(trace)))
        refused(path, "'?pickle'?, expected|filters .*pickle", positions="pos")
    metadata.write_text(json.dumps(content | {"filters": None, "dtype": "|O"}))
    refused(path, "dtype is not that of an array of float32", positions="pos")
    assert not trace.exists()


def header_of(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(2**40, 3), (2**62, 3), (10**30, 3), (N + 1, 3)])
def test_npy_of_more_than_there_is(tmp_path, shape):
    path = tmp_path / "p.npy"
    path.write_bytes(header_of(shape) + positions().tobytes())
    assert "it is truncated or damaged" in outcome(path, OPTIONS)


@pytest.mark.parametrize(
    "literal",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 3)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (5.0, 3)}",
        b"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (5,)}",
        b"{'descr': '<f4', 'fortran_order': False}",
        b"{'descr': '" + b"(" * 500 + b"', 'fortran_order': False, 'shape': (5, 3)}",
        b"(" * 5000,
        b"__import__('os').getcwd()",
        b"{'descr': '<f4', 'fortran_order': 0, 'shape': (5, 3)}",
        b"\xff\xfe\x00",
        b"",
    ],
)
def test_npy_headers_that_are_no_headers(tmp_path, literal):
    path = tmp_path / "p.npy"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + len(literal).to_bytes(2, "little") + literal + bytes(60)
    )
    assert outcome(path, OPTIONS)


def test_npy_header_without_end(tmp_path):
    path = tmp_path / "p.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b" " * 100_000)
    assert "expected at most 10000" in outcome(path, OPTIONS)
    path.write_bytes(b"\x93NUMPY\x09\x00" + bytes(100))
    assert "npy, version 1 or 2" in outcome(path, OPTIONS)


def test_zip_bomb_in_a_header(tmp_path):
    """A header of 256 MiB of blanks in less than 1 MiB: it is not even unpacked."""
    path = tmp_path / "p.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("pos.npy", "w") as member,
    ):
        member.write(b"\x93NUMPY\x02\x00" + (1 << 28).to_bytes(4, "little"))
        for _ in range(16):
            member.write(b" " * (1 << 24))
    assert path.stat().st_size < 1 << 20
    assert "expected at most 10000" in outcome(path, OPTIONS)


def test_zip_that_says_that_it_holds_more(tmp_path):
    path = tmp_path / "p.npz"
    np.savez_compressed(path, pos=positions())
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    assert "damaged or hostile" in outcome(path, OPTIONS)


def test_zeros_that_compress_well_are_read_in_bounded_memory(tmp_path):
    """12 MB in some kilobytes may be read (zeros are positions), but never at once."""
    path = tmp_path / "p.npz"
    array = np.zeros((1_000_000, 3), "f4")
    array[:100] = positions()[:100]
    np.savez_compressed(path, pos=array)
    assert path.stat().st_size < 100_000
    assert outcome(path, OPTIONS) is None


def test_other_compression_and_encryption(tmp_path):
    path = tmp_path / "p.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("pos.npy", header_of((N, 3)) + positions().tobytes())
    assert "compressed by method 12, expected none or deflate" in outcome(path, OPTIONS)
    np.savez(path, pos=positions())
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + offset] |= 1
    path.write_bytes(data)
    assert "is encrypted" in outcome(path, OPTIONS)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name(tmp_path):
    path = tmp_path / "p.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            archive.writestr("pos.npy", header_of((N, 3)) + positions().tobytes())
    assert "two arrays of one name" in outcome(path, OPTIONS)


# --- damaged files --------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_flipped_byte_of_an_npz_is_found_or_harmless(tmp_path, save):
    path = tmp_path / "p.npz"
    save(path, pos=positions(n=20))
    whole = path.read_bytes()
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << (at % 8)
        path.write_bytes(data)
        if outcome(path, OPTIONS) is None:  # dates, versions, attributes: not the numbers
            found = read_all(open_snapshot(path, OPTIONS))
            assert found.tobytes() == positions(n=20).tobytes()


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "hdf5"])
def test_cut_at_any_offset(tmp_path, kind):
    path = tmp_path / "p"
    stream = io.BytesIO()
    if kind == "hdf5":
        with h5py.File(stream, "w") as file:
            file["pos"] = positions(n=20)
    elif kind == "npy":
        np.save(stream, positions(n=20))
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(stream, pos=positions(n=20))
    whole = stream.getvalue()
    options = with_options(OPTIONS, positions=None if kind == "npy" else "pos")
    for size in range(0, len(whole), 1 if kind != "hdf5" else 13):
        path.write_bytes(whole[:size])
        assert outcome(path, options)
    path.write_bytes(whole)
    assert outcome(path, options) is None


def test_npy_with_something_behind_it(tmp_path):
    path = tmp_path / "p.npy"
    np.save(path, positions())
    with path.open("ab") as stream:
        np.save(stream, positions())
    refused(path, "bytes, expected 6128 for the shape")


@pytest.mark.parametrize("kind", ["npy", "npz", "hdf5", "zarr"])
def test_cut_after_it_was_opened(tmp_path, kind):
    path = tmp_path / f"p.{kind}"
    large = positions(n=100_000)
    if kind == "npy":
        np.save(path, large)
    elif kind == "npz":
        np.savez_compressed(path, pos=large)
    elif kind == "hdf5":
        with h5py.File(path, "w") as file:
            file["pos"] = large
    else:
        write_zarr(path, {"pos": large}, chunks=10_000)
    options = with_options(OPTIONS, positions=None if kind == "npy" else "pos")
    snapshot = open_snapshot(path, options)
    os.truncate(path if kind != "zarr" else path / "pos/c/5/0", 1000)
    with pytest.raises(SnapshotError, match=rf"p\.{kind}"):
        list(snapshot.iter_positions())


@pytest.mark.parametrize("how", ZARRS[1:])
def test_a_chunk_of_zarr_that_is_missing(tmp_path, how):
    path = write_zarr(tmp_path / "p.zarr", {"pos": positions()}, **how)
    options = with_options(OPTIONS, positions="pos")
    snapshot = open_snapshot(path, options)
    chunks = [f for f in path.rglob("*") if f.is_file() and f.name.replace(".", "").isdigit()]
    before = chunks[-1].read_bytes()
    chunks[-1].unlink()
    refused(path, f"{chunks[-1].name}: missing, expected {len(chunks)} chunks", options)
    with pytest.raises(SnapshotError, match="has other files than"):
        open_snapshot(snapshot.header.files, options)
    chunks[-1].write_bytes(before[: len(before) // 2])
    refused(path, "p.zarr", options)


def test_a_chunk_of_a_shard_that_is_missing(tmp_path):
    """Zarr does not write chunks that are all zeros, and reads missing ones as zeros."""
    array = positions()
    array[250:300] = 0
    path = write_zarr(tmp_path / "p.zarr", {"pos": array}, chunks=50, shards=200)
    refused(path, "1 of its 4 chunks are missing; zarr would read zeros", positions="pos")


@pytest.mark.parametrize("target", ["pos/c/0/0", "pos/zarr.json", "pos"])
def test_links_in_zarr(tmp_path, target):
    path = write_zarr(tmp_path / "p.zarr", {"pos": positions()})
    elsewhere = tmp_path / "elsewhere"
    shutil.move(path / target, elsewhere)
    (path / target).symlink_to(elsewhere)
    refused(path, "is a link, expected all of a Zarr folder in itself", positions="pos")


@pytest.mark.parametrize("name", ["Blosc", "Zstd", "LZ4", "Zlib", "GZip"])
def test_compressors_of_zarr_2(tmp_path, name):
    """All are read; of those that tell a size, none is believed."""
    codec = getattr(pytest.importorskip("numcodecs"), name)()
    path = write_zarr(
        tmp_path / "p.zarr", {"pos": positions()}, zarr_format=2, chunks=128, compressors=codec
    )
    options = with_options(OPTIONS, positions="pos")
    assert read_all(open_snapshot(path, options)).tobytes() == positions().tobytes()
    chunk = path / "pos" / "2.0"
    whole = chunk.read_bytes()
    if name in ("Blosc", "Zstd", "LZ4"):
        at = {"Blosc": 4, "Zstd": 5, "LZ4": 0}[name]
        chunk.write_bytes(whole[:at] + b"\x00\x08" + whole[at + 2 :])
        refused(path, r"2\.0: a chunk at byte 0 says that .* expected 1536", options)
    chunk.write_bytes(whole + bytes(10_000))
    refused(path, r"bytes of a chunk at byte 0 .* expected at most 5632", options)
    chunk.write_bytes(b"")
    refused(path, "p.zarr", options)


def test_claims_of_zstd_against_the_library():
    zstd = pytest.importorskip("numcodecs").Zstd()
    for n in (1, 100, 255, 256, 300, 65_535, 65_791, 65_792, 70_000, 1_000_000):
        assert claimed_bytes("zstd", bytes(zstd.encode(bytes(n)))[:18]) == n
    assert claimed_bytes("zstd", b"\x28\xb5\x2f\xfd\x00\x58") is None  # of unknown size
    assert claimed_bytes("zstd", b"") is None
    assert claimed_bytes("blosc", bytes(15)) is None


def test_zarr_of_one_chunk_that_is_almost_empty(tmp_path):
    """96 MB in some kilobytes would be decoded at once."""
    array = np.zeros((8_000_000, 3), "f4")
    array[:1000] = positions(n=1000)
    path = write_zarr(tmp_path / "p.zarr", {"pos": array}, chunks=len(array))
    message = outcome(path, with_options(OPTIONS, positions="pos"))
    assert "expected smaller ones" in message


ZARR_CHANGES = [
    ({"shape": [10**18, 3]}, "chunks of"),
    ({"shape": [-1, 3]}, "shape"),
    ({"shape": [N, 3, 1]}, r"shape|damaged"),
    ({"data_type": "int32"}, "data_type"),
    ({"codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle"}]}, r"numcodecs\.pickle, expected"),
    ({"chunk_grid": {"name": "odd", "configuration": {}}}, "chunk_grid"),
    (
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**12, 3]}}},
        "says that zstd made it of 6000 bytes, expected 12000000000000",
    ),
    (
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 3]}}},
        "greater than 0",
    ),
    ({"storage_transformers": [{"name": "odd"}]}, "stored with the codecs"),
    ({"node_type": "group"}, "node_type"),
    ({"zarr_format": 4}, "zarr_format"),
]


@pytest.mark.parametrize(("change", "message"), ZARR_CHANGES)
def test_metadata_of_zarr_that_are_refused(tmp_path, change, message):
    path = write_zarr(tmp_path / "p.zarr", {"pos": positions()}, chunks=N)
    metadata = path / "pos" / "zarr.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | change))
    found = outcome(path, with_options(OPTIONS, positions="pos"))
    assert found is not None
    assert re.search(message, found)


def test_links_in_hdf5(tmp_path):
    path, other = tmp_path / "p.hdf5", tmp_path / "other.hdf5"
    with h5py.File(other, "w") as file:
        file["group/pos"] = positions()
    with h5py.File(path, "w") as file:
        file["group"] = h5py.ExternalLink(other, "/group")
        file["pos"] = h5py.ExternalLink(other, "/group/pos")
    for name in ("pos", "group/pos"):
        refused(path, "is an external link", positions=name)


# --- fuzzing --------------------------------------------------------------------------------

changes = st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1, max_size=8)


def damage(data: bytes, where: list[tuple[int, int]], cut: int | None) -> bytes:
    changed = bytearray(data)
    for at, value in where:
        changed[at % len(changed)] = value
    return bytes(changed[:cut])


@fuzz
@given(
    where=changes,
    cut=st.none() | st.integers(0, 2000),
    kind=st.sampled_from(["npy", "npz", "compressed"]),
)
def test_fuzzed_bytes(tmp_path, where, cut, kind):
    path = tmp_path / "p"
    stream = io.BytesIO()
    save = {"npy": np.save, "npz": np.savez, "compressed": np.savez_compressed}[kind]
    save(stream, positions(n=40))
    path.write_bytes(damage(stream.getvalue(), where, cut))
    outcome(path, OPTIONS)


@fuzz
@given(text=st.binary(max_size=80), version=st.sampled_from([1, 2]), good=st.booleans())
def test_fuzzed_npy_header(tmp_path, text, version, good):
    path = tmp_path / "p.npy"
    literal = b"{'descr': '<f4', 'fortran_order': False, 'shape': (40, 3), }"
    text = literal[: len(text) % len(literal)] + text if good else text
    length = len(text).to_bytes(2 * version, "little")
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + text + bytes(480))
    outcome(path, OPTIONS)


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stores")
    array = {"pos": positions(n=40)}
    return {
        "plain": write_zarr(root / "plain.zarr", array, chunks=16),
        "sharded": write_zarr(root / "sharded.zarr", array, chunks=8, shards=16),
        "two": write_zarr(root / "two.zarr", array, zarr_format=2, chunks=16),
    }


@settings(parent=fuzz, max_examples=100)
@given(
    where=changes,
    cut=st.none() | st.integers(0, 500),
    kind=st.sampled_from(["plain", "sharded", "two"]),
    file=st.integers(0, 10),
)
def test_fuzzed_zarr(tmp_path, stores, where, cut, kind, file):
    path = tmp_path / stores[kind].name
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(stores[kind], path)
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.stat().st_size)
    target = files[file % len(files)]
    target.write_bytes(damage(target.read_bytes(), where, cut))
    outcome(path, with_options(OPTIONS, positions="pos"))
