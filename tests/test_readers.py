"""The readers on synthetic snapshots: every variant gives back what was written, bit for bit."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import RecipeError, SnapshotError
from pipeline.readers import get_reader, open_snapshot, sniff
from pipeline.readers.discover import find_snapshots
from pipeline.readers.fingerprint import fingerprint
from pipeline.snapshot import ReadOptions, Snapshot
from pipeline.units import length_in_mpc_h
from tests.snapshots_made import (
    grid_positions,
    in_file_units,
    part_paths,
    random_positions,
    write_gadget_binary,
    write_gadget_hdf5,
)

BOX = 100.0
H = 0.7
WRITERS = {"gadget_hdf5": write_gadget_hdf5, "gadget_binary": write_gadget_binary}


def read_all(snapshot: Snapshot, chunk_particles: int = 1 << 20) -> np.ndarray:
    return np.concatenate([c.copy() for c in snapshot.iter_positions(chunk_particles)])


def as_read(positions: np.ndarray, unit: str, dtype: str) -> np.ndarray:
    """What an independent reader makes of the file: its numbers times the unit, in its dtype."""
    factor = length_in_mpc_h(unit, H, BOX)
    return in_file_units(positions, unit, H, BOX, dtype) * factor


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


# --- variants -------------------------------------------------------------------------------


@pytest.mark.parametrize("n_files", [1, 4])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("snap_format", [1, 2])
def test_binary_variants(tmp_path, snap_format, byte_order, dtype, n_files):
    positions = random_positions(1003)
    paths = write_gadget_binary(
        tmp_path / "snap_003",
        positions,
        redshift=0.5,
        snap_format=snap_format,
        byte_order=byte_order,
        dtype=dtype,
        n_files=n_files,
    )
    snapshot = open_snapshot(paths[-1])
    header = snapshot.header
    assert header.format == "gadget_binary"
    assert header.files == tuple(paths)
    assert header.n_particles == 1003
    assert header.box_size == pytest.approx(BOX, rel=1e-15)
    assert (header.redshift, header.Omega_m, header.h) == (0.5, 0.3, H)
    assert header.length_unit == "kpc/h"
    assert_same_bits(read_all(snapshot), as_read(positions, "kpc/h", dtype))


@pytest.mark.parametrize("n_files", [1, 4])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
@pytest.mark.parametrize("cosmology_in", ["Parameters", "Header", "Cosmology"])
@pytest.mark.parametrize("units_in", ["Parameters", "Header", "Units", "to_cgs", "none"])
def test_hdf5_variants(tmp_path, units_in, cosmology_in, dtype, n_files):
    positions = random_positions(1003)
    paths = write_gadget_hdf5(
        tmp_path / "snap_003.hdf5",
        positions,
        redshift=0.5,
        units_in=units_in,
        cosmology_in=cosmology_in,
        dtype=dtype,
        n_files=n_files,
    )
    snapshot = open_snapshot(paths[0])
    header = snapshot.header
    assert header.format == "gadget_hdf5"
    assert header.files == tuple(paths)
    assert header.n_particles == 1003
    assert header.box_size == pytest.approx(BOX, rel=1e-15)
    assert (header.redshift, header.Omega_m, header.h) == (0.5, 0.3, H)
    assert header.length_unit == "kpc/h"
    native = np.dtype(dtype).newbyteorder("=").str
    assert_same_bits(read_all(snapshot), as_read(positions, "kpc/h", native))


@pytest.mark.parametrize("unit", ["kpc/h", "Mpc/h", "kpc", "Mpc"])
@pytest.mark.parametrize("format", WRITERS)
def test_unit_is_inferred_from_the_mean_density(tmp_path, format, unit):
    positions = random_positions()
    options = {"units_in": "none"} if format == "gadget_hdf5" else {}
    paths = WRITERS[format](tmp_path / "snap", positions, length_unit=unit, h=H, **options)
    snapshot = open_snapshot(paths[0])
    assert snapshot.header.length_unit == unit
    assert snapshot.header.box_size == pytest.approx(BOX)
    assert_same_bits(read_all(snapshot), as_read(positions, unit, "f4"))


@pytest.mark.parametrize("format", WRITERS)
def test_masses_without_h_where_lengths_have_none(tmp_path, format):
    [path] = WRITERS[format](
        tmp_path / "snap", random_positions(), length_unit="Mpc", density=1 / H
    )
    header = open_snapshot(path, ReadOptions(length_unit="Mpc")).header
    assert header.box_size == pytest.approx(BOX)
    assert open_snapshot(path, ReadOptions(length_unit="Mpc")).header.total_mass == pytest.approx(
        0.3 * 27.75366 * BOX**3
    )


@pytest.mark.parametrize("n_types", [2, 4, 6, 8])
def test_any_number_of_types(tmp_path, n_types):
    positions = random_positions()
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", positions, n_types=n_types)
    assert_same_bits(read_all(open_snapshot(path)), as_read(positions, "kpc/h", "f4"))


@pytest.mark.parametrize("box_as_array", [0, 1, 3])
def test_box_size_as_scalar_or_array(tmp_path, box_as_array):
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions(), box_as_array=box_as_array)
    assert open_snapshot(path).header.box_size == pytest.approx(BOX)


def test_box_of_unequal_sides_is_refused(tmp_path):
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions())
    with h5py.File(path, "a") as file:
        file["Header"].attrs["BoxSize"] = [1e5, 1e5, 2e5]
    with pytest.raises(SnapshotError, match=r"BoxSize.*expected one number"):
        open_snapshot(path)


@pytest.mark.parametrize(
    "storage",
    [
        {"chunks": (64, 3)},
        {"chunks": (64, 1)},
        {"chunks": (100, 3), "compression": "gzip", "shuffle": True},
        {"chunks": (100, 3), "compression": "lzf", "fletcher32": True},
        {"chunks": (64, 3), "maxshape": (None, 3)},
    ],
)
@pytest.mark.parametrize("chunk_particles", [7, 100, 150, 1 << 20])
def test_chunked_storage(tmp_path, storage, chunk_particles):
    positions = random_positions(1003)
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", positions, dataset_options=storage)
    found = read_all(open_snapshot(path), chunk_particles)
    assert_same_bits(found, as_read(positions, "kpc/h", "f4"))


# --- particle types -------------------------------------------------------------------------


@pytest.mark.parametrize("types", [(0,), (1,), (2,), (0, 2), (2, 1, 0), (1, 1), (1, 5), (1, 77)])
@pytest.mark.parametrize("n_files", [1, 3])
@pytest.mark.parametrize("format", WRITERS)
def test_particle_types(tmp_path, format, n_files, types):
    by_type = {t: random_positions(100 * (t + 2), seed=t) for t in range(3)}
    options = {"n_types": 6} if format == "gadget_hdf5" else {}
    paths = WRITERS[format](tmp_path / "snap", by_type, n_files=n_files, **options)
    snapshot = open_snapshot(paths[0], ReadOptions(particle_types=types))
    chosen = [as_read(by_type[t], "kpc/h", "f4") for t in sorted(set(types) & set(by_type))]
    found = read_all(snapshot, 64)
    assert snapshot.header.n_particles == len(found)
    assert_same_bits(_sorted_rows(found), _sorted_rows(np.concatenate(chosen)))
    if n_files == 1:
        assert_same_bits(found, np.concatenate(chosen))


def _sorted_rows(positions: np.ndarray) -> np.ndarray:
    return positions[np.lexsort(positions.T)]


@pytest.mark.parametrize("format", WRITERS)
def test_no_particles_of_the_chosen_types(tmp_path, format):
    [path] = WRITERS[format](tmp_path / "snap", random_positions())
    with pytest.raises(SnapshotError, match="no particles of the chosen types"):
        open_snapshot(path, ReadOptions(particle_types=(0, 9)))


def test_mass_of_gas_counts_in_the_mean_density(tmp_path):
    by_type = {0: random_positions(500), 1: random_positions(500, seed=2)}
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", by_type)
    header = open_snapshot(path).header
    assert header.n_particles == 500
    assert header.total_mass == pytest.approx(0.3 * 27.75366 * BOX**3)


def test_a_part_without_particles(tmp_path):
    paths = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions(2), n_files=4)
    assert read_all(open_snapshot(paths[0])).shape == (2, 3)
    paths = write_gadget_binary(tmp_path / "s", random_positions(2), n_files=4)
    assert read_all(open_snapshot(paths[0])).shape == (2, 3)


# --- masses ---------------------------------------------------------------------------------


def test_masses_of_single_particles_are_summed(tmp_path):
    paths = write_gadget_hdf5(
        tmp_path / "s.hdf5", random_positions(), masses="particles", units_in="none", n_files=3
    )
    header = open_snapshot(paths[0]).header
    assert header.length_unit == "kpc/h"
    assert header.total_mass == pytest.approx(0.3 * 27.75366 * BOX**3, rel=1e-6)


def test_mass_unit_of_the_file(tmp_path):
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions())
    with h5py.File(path, "a") as file:
        file["Header"].attrs["MassTable"] = np.array(
            [0, file["Header"].attrs["MassTable"][1] * 1e10]
        )
        file["Parameters"].attrs["UnitMass_in_g"] = 1.989e33
    assert open_snapshot(path).header.total_mass == pytest.approx(0.3 * 27.75366 * BOX**3)


def test_unknown_masses_leave_the_density_unchecked(tmp_path):
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions(), masses="none")
    assert open_snapshot(path).header.total_mass is None


# --- chunks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_particles", [1, 13, 1000, 5000])
@pytest.mark.parametrize("format", WRITERS)
def test_chunks_are_bounded_and_conserve_the_count(tmp_path, format, chunk_particles):
    positions = random_positions(1003)
    paths = WRITERS[format](tmp_path / "snap", positions, n_files=3)
    snapshot = open_snapshot(paths[0])
    chunks = [c.copy() for c in snapshot.iter_positions(chunk_particles)]
    assert all(0 < len(c) <= chunk_particles and c.shape[1] == 3 for c in chunks)
    assert sum(map(len, chunks)) == snapshot.header.n_particles == 1003
    assert_same_bits(np.concatenate(chunks), as_read(positions, "kpc/h", "f4"))


@pytest.mark.parametrize("format", WRITERS)
def test_a_snapshot_can_be_read_again_and_in_part(tmp_path, format):
    [path] = WRITERS[format](tmp_path / "snap", random_positions())
    snapshot = open_snapshot(path)
    first = next(snapshot.iter_positions(10)).copy()
    assert_same_bits(read_all(snapshot)[:10], first)
    assert_same_bits(read_all(snapshot), read_all(snapshot, 17))


@pytest.mark.parametrize("format", WRITERS)
def test_consumer_may_change_the_chunk(tmp_path, format):
    positions = random_positions(100)
    [path] = WRITERS[format](tmp_path / "snap", positions)
    for chunk in open_snapshot(path).iter_positions(10):
        chunk[:] = -1
    assert_same_bits(read_all(open_snapshot(path)), as_read(positions, "kpc/h", "f4"))


@pytest.mark.parametrize("format", WRITERS)
def test_a_chunk_of_no_particles_is_a_mistake(tmp_path, format):
    [path] = WRITERS[format](tmp_path / "snap", random_positions())
    with pytest.raises(ValueError, match="expected at least 1"):
        next(open_snapshot(path).iter_positions(0))


def test_positions_are_not_wrapped(tmp_path):
    positions = np.array([[-1.0, 100.5, 50.0], [0.0, 100.0, 99.9]])
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", positions, length_unit="Mpc/h", dtype="f8")
    assert_same_bits(read_all(open_snapshot(path)), positions)


# --- what the recipe overrides --------------------------------------------------------------


def test_zero_header_with_the_recipe_s_numbers(tmp_path):
    positions = random_positions()
    [path] = write_gadget_binary(tmp_path / "ics", positions, redshift=10.0, zero_header=True)
    options = ReadOptions(box_size=BOX, length_unit="kpc/h", Omega_m=0.3, h=0.7)
    snapshot = open_snapshot(path, options)
    assert (snapshot.header.box_size, snapshot.header.redshift) == (BOX, 10.0)
    assert (snapshot.header.Omega_m, snapshot.header.h) == (0.3, 0.7)
    assert_same_bits(read_all(snapshot), as_read(positions, "kpc/h", "f4"))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({}, "input.box_size"),
        ({"box_size": BOX}, "input.length_unit"),
        ({"box_size": BOX, "length_unit": "kpc"}, "input.h"),
        ({"length_unit": "box"}, "input.box_size"),
        ({"box_size": BOX, "length_unit": "Mpc/h"}, "input.length_unit"),
    ],
)
def test_a_zero_header_asks_for_what_is_missing(tmp_path, given, key):
    [path] = write_gadget_binary(tmp_path / "ics", random_positions(), zero_header=True)
    with pytest.raises(SnapshotError, match=key):
        open_snapshot(path, ReadOptions(**given))


def test_no_redshift_asks_for_it(tmp_path):
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions(), redshift=1.0)
    with h5py.File(path, "a") as file:
        del file["Header"].attrs["Redshift"]
    assert open_snapshot(path).header.redshift == pytest.approx(1.0)  # from the expansion factor
    with h5py.File(path, "a") as file:
        del file["Header"].attrs["Time"]
    with pytest.raises(SnapshotError, match=r"input\.redshift"):
        open_snapshot(path)
    assert open_snapshot(path, ReadOptions(redshift=2.0)).header.redshift == 2.0


def test_redshift_that_contradicts_the_expansion_factor(tmp_path):
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions(), redshift=3.0)
    with h5py.File(path, "a") as file:
        file["Header"].attrs["Redshift"] = 0.0
    with pytest.raises(SnapshotError, match=r"redshift is 0, .* 0\.25 \(redshift 3\)"):
        open_snapshot(path)
    assert open_snapshot(path, ReadOptions(redshift=3.0)).header.redshift == 3.0


def test_unit_neither_stated_nor_inferable(tmp_path):
    [path] = write_gadget_hdf5(
        tmp_path / "s.hdf5", random_positions(), units_in="none", cosmology_in="none"
    )
    with pytest.raises(SnapshotError, match=r"Omega_m is not recorded.*input\.length_unit"):
        open_snapshot(path)
    assert open_snapshot(path, ReadOptions(Omega_m=0.3)).header.length_unit == "kpc/h"
    assert open_snapshot(path, ReadOptions(box_size=BOX)).header.length_unit == "kpc/h"


def test_box_units(tmp_path):
    positions = random_positions()
    [path] = write_gadget_hdf5(
        tmp_path / "s.hdf5", positions, length_unit="box", units_in="none", dtype="f8"
    )
    snapshot = open_snapshot(path, ReadOptions(length_unit="box", box_size=BOX))
    assert (snapshot.header.box_size, snapshot.header.total_mass) == (BOX, None)
    assert_same_bits(read_all(snapshot), as_read(positions, "box", "f8"))
    [path] = write_gadget_hdf5(tmp_path / "k.hdf5", positions)
    with pytest.raises(SnapshotError, match="box size is 100000, expected 1"):
        open_snapshot(path, ReadOptions(length_unit="box", box_size=BOX))


def test_named_format_and_sniffing(tmp_path):
    [hdf5] = write_gadget_hdf5(tmp_path / "no_suffix", random_positions())
    [binary] = write_gadget_binary(tmp_path / "misleading.hdf5", random_positions())
    assert sniff(hdf5).name == "gadget_hdf5"
    assert sniff(binary).name == "gadget_binary"
    assert open_snapshot(hdf5, ReadOptions(format="gadget_hdf5")).header.n_particles == 1000
    with pytest.raises(SnapshotError, match="not a Gadget binary file"):
        open_snapshot(hdf5, ReadOptions(format="gadget_binary"))
    with pytest.raises(SnapshotError, match="cannot be read as HDF5"):
        open_snapshot(binary, ReadOptions(format="gadget_hdf5"))
    with pytest.raises(RecipeError, match="did you mean"):
        open_snapshot(hdf5, ReadOptions(format="gadget_hdf"))


@pytest.mark.parametrize("content", [b"", b"x", b"\x00\x01", b"hello world" * 99])
def test_other_files_are_not_recognised(tmp_path, content):
    path = tmp_path / "readme.txt"
    path.write_bytes(content)
    assert sniff(path) is None


def test_swift_and_catalogues_are_not_taken_for_gadget(tmp_path):
    [swift] = write_gadget_hdf5(tmp_path / "swift.hdf5", random_positions())
    with h5py.File(swift, "a") as file:
        file["Header"].attrs["Code"] = np.bytes_(b"SWIFT")
    assert sniff(swift).name == "swift"
    with h5py.File(tmp_path / "fof.hdf5", "w") as file:
        file.create_group("Header").attrs["Ngroups_ThisFile"] = 3
    assert sniff(tmp_path / "fof.hdf5") is None
    [units] = write_gadget_hdf5(tmp_path / "swift2.hdf5", random_positions(), units_in="Units")
    with h5py.File(units, "a") as file:
        file.create_group("Cosmology")
        file["Units"].attrs["Unit length in cgs (U_L)"] = [3.08e24]
    assert sniff(units).name == "swift"
    assert not get_reader("gadget_hdf5").sniff(tmp_path)
    assert not get_reader("gadget_binary").sniff(tmp_path / "absent")


# --- parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", WRITERS)
def test_any_part_finds_all_in_numerical_order(tmp_path, format):
    folder = tmp_path / "snapdir_000"
    name = "snapshot_000" + (".hdf5" if format == "gadget_hdf5" else "")
    positions = random_positions(1003)
    paths = WRITERS[format](folder / name, positions, n_files=12)
    (folder / "snapshot_000.7.txt").write_text("not a part")
    (folder / "other.3.hdf5").write_text("not a part")
    for path in paths:
        assert get_reader(format).parts(path) == tuple(paths)
    assert_same_bits(read_all(open_snapshot(paths[11])), as_read(positions, "kpc/h", "f4"))


@pytest.mark.parametrize("format", WRITERS)
def test_a_single_file_with_a_number_in_its_name(tmp_path, format):
    paths = [WRITERS[format](tmp_path / f"snap_z0.{i}", random_positions())[0] for i in range(3)]
    assert open_snapshot(paths[1]).header.files == (paths[1],)


# --- discovery ------------------------------------------------------------------------------


def test_discovery(tmp_path):
    multi = write_gadget_hdf5(tmp_path / "snapdir_000/snap_000.hdf5", grid_positions(), n_files=3)
    single = write_gadget_hdf5(tmp_path / "snap_001.hdf5", grid_positions())
    binary = write_gadget_binary(tmp_path / "ics/ics", grid_positions(), n_files=2)
    (tmp_path / "notes.txt").write_text("hello")
    expected = [tuple(binary), tuple(single), tuple(multi)]
    assert find_snapshots(tmp_path) == sorted(expected)
    assert find_snapshots(tmp_path, "**/*.hdf5") == sorted([tuple(single), tuple(multi)])
    assert find_snapshots(tmp_path, "snapdir_*/*.1.hdf5") == [tuple(multi)]
    assert find_snapshots(tmp_path, format="gadget_binary") == [tuple(binary)]
    assert find_snapshots(tmp_path, "*", strict=False) == [tuple(single)]
    with pytest.raises(SnapshotError, match=r"notes\.txt"):
        find_snapshots(tmp_path, "*")
    with pytest.raises(SnapshotError, match="no such folder"):
        find_snapshots(tmp_path / "absent")
    with pytest.raises(SnapshotError, match="not a file pattern"):
        find_snapshots(tmp_path, "/etc/*")
    (tmp_path / "empty").mkdir()
    assert find_snapshots(tmp_path / "empty") == []


def test_discovery_names_a_missing_part(tmp_path):
    multi = write_gadget_hdf5(tmp_path / "snap_000.hdf5", grid_positions(), n_files=3)
    multi[1].unlink()
    with pytest.raises(SnapshotError, match=r"snap_000\.1\.hdf5 is missing"):
        find_snapshots(tmp_path)


def test_discovery_does_not_leave_the_folder(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    [secret] = write_gadget_hdf5(outside / "secret.hdf5", grid_positions())
    [own] = write_gadget_hdf5(inside / "own.hdf5", grid_positions())
    (inside / "link.hdf5").symlink_to(secret)
    (inside / "folder").symlink_to(outside)
    assert find_snapshots(inside) == [(own,)]
    for pattern in ("link.hdf5", "folder/*", "../outside/*"):
        with pytest.raises(SnapshotError, match="outside of"):
            find_snapshots(inside, pattern)


def test_discovery_refuses_a_part_outside(tmp_path):
    parts = write_gadget_hdf5(tmp_path / "inside/s.hdf5", grid_positions(), n_files=2)
    (tmp_path / "outside").mkdir()
    moved = Path(shutil.move(parts[1], tmp_path / "outside"))
    parts[1].symlink_to(moved)
    with pytest.raises(SnapshotError, match="outside of"):
        find_snapshots(tmp_path / "inside")


# --- fingerprints ---------------------------------------------------------------------------


def test_fingerprint_of_copies_and_changes(tmp_path):
    rng = np.random.default_rng(5)
    for size in (0, 1000, 1 << 20, (1 << 20) + 1, 5_000_000):
        data = bytearray(rng.bytes(size))
        original, copy = tmp_path / "a", tmp_path / "b"
        original.write_bytes(data)
        copy.write_bytes(data)
        assert fingerprint([original]) == fingerprint([copy])
        for where in {0, size // 15, size - 1} if size else ():
            changed = bytearray(data)
            changed[where] ^= 1
            copy.write_bytes(changed)
            assert fingerprint([original]) != fingerprint([copy]), (size, where)
        copy.write_bytes(data + b"\0")
        assert fingerprint([original]) != fingerprint([copy])


def test_fingerprint_depends_on_order_and_bounds_of_files(tmp_path):
    a, b, ab, none = (tmp_path / name for name in ("a", "b", "ab", "none"))
    for path, content in ((a, b"first"), (b, b"second"), (ab, b"firstsecond"), (none, b"")):
        path.write_bytes(content)
    prints = [fingerprint(files) for files in ([a, b], [b, a], [ab], [ab, none], [a])]
    assert all(one != other for one, other in itertools.combinations(prints, 2))
    assert all(p.startswith("sha256:") and len(p) == 71 for p in prints)
    with pytest.raises(SnapshotError, match="cannot be read"):
        fingerprint([tmp_path / "absent"])


def test_part_names():
    assert [p.name for p in part_paths(Path("a.hdf5"), 2)] == ["a.0.hdf5", "a.1.hdf5"]
    assert [p.name for p in part_paths(Path("snap_000"), 2)] == ["snap_000.0", "snap_000.1"]
