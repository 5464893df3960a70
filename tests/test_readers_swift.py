"""SWIFT's snapshots against h5py, swiftsimio and all that can be wrong with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SnapshotError
from pipeline.readers import get_reader, open_snapshot, sniff
from pipeline.readers.discover import find_snapshots
from pipeline.snapshot import ReadOptions, Snapshot
from pipeline.units import CM_PER_MPC, mean_matter_density
from tests.snapshots_made import random_positions, write_gadget_hdf5
from tests.swift_made import AS_SWIFT, SOLAR_MASS_IN_G, stored_numbers, write_swift

H = 0.681
CHUNK = 300


def read_all(snapshot: Snapshot, chunk_particles: int = CHUNK) -> np.ndarray:
    return np.concatenate([c.copy() for c in snapshot.iter_positions(chunk_particles)])


def read_masses(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    chunks = [(p.copy(), m.copy()) for p, m in snapshot.iter_weighted(CHUNK)]
    return np.concatenate([p for p, _ in chunks]), np.concatenate([m for _, m in chunks])


def refused(path: Path, match: str, options: ReadOptions | None = None) -> None:
    with pytest.raises(SnapshotError, match=match) as caught:
        read_all(open_snapshot(path, options))
    assert path.parent.name in str(caught.value)


# --- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n_files", [1, 4])
@pytest.mark.parametrize("n_types", [6, 7, 8])
def test_positions_to_the_last_bit(tmp_path, dtype, n_files, n_types):
    positions = random_positions(1000)
    parts = write_swift(
        tmp_path / "snap_0000.hdf5", positions, h=H, dtype=dtype, n_files=n_files, n_types=n_types
    )
    snapshot = open_snapshot(parts[-1])
    header = snapshot.header
    assert header.files == tuple(parts)
    assert (header.format, header.n_particles, header.h) == ("swift", 1000, H)
    assert header.length_unit == "Mpc"
    assert header.box_size == pytest.approx(100.0, rel=1e-12)
    expected = stored_numbers(positions, H, dtype) * np.dtype(dtype).type(H)
    found = read_all(snapshot)
    assert found.dtype == np.dtype(dtype)
    assert found.tobytes() == expected.tobytes()
    np.testing.assert_allclose(found, positions, rtol=1e-6)


def test_masses_and_density(tmp_path):
    positions = random_positions(1000)
    [path] = write_swift(tmp_path / "snap.hdf5", positions, h=H)
    snapshot = open_snapshot(path)
    expected = mean_matter_density(0.3) * 100.0**3
    assert snapshot.header.total_mass == pytest.approx(expected, rel=1e-6)
    assert snapshot.header.selected_mass == pytest.approx(expected, rel=1e-6)
    found, masses = read_masses(snapshot)
    assert masses.dtype == np.float64
    assert masses == pytest.approx(np.full(1000, expected / 1000), rel=1e-6)
    assert found.tobytes() == read_all(snapshot).tobytes()


@pytest.mark.parametrize(
    ("unit_cm", "unit_g"),
    [(CM_PER_MPC, 1e43), (CM_PER_MPC / 1000, 1e10 * SOLAR_MASS_IN_G)],
)
def test_other_units(tmp_path, unit_cm, unit_g):
    positions = random_positions(500)
    [path] = write_swift(tmp_path / "s.hdf5", positions, h=H, unit_cm=unit_cm, unit_g=unit_g)
    snapshot = open_snapshot(path)
    assert snapshot.header.box_size == pytest.approx(100.0)
    np.testing.assert_allclose(read_all(snapshot), positions, rtol=1e-12)
    assert read_masses(snapshot)[1].sum() == pytest.approx(mean_matter_density(0.3) * 1e6, rel=1e-3)


@pytest.mark.parametrize("how", ["flag", "exponent"])
def test_physical_positions_become_comoving(tmp_path, how):
    positions = random_positions(500)
    field = {"a-scale exponent": 0.0, "Value stored as physical": None} if how != "flag" else None
    [path] = write_swift(
        tmp_path / "s.hdf5", positions, h=H, redshift=1.5, physical=True, field=field
    )
    snapshot = open_snapshot(path)
    assert snapshot.header.redshift == 1.5
    np.testing.assert_allclose(read_all(snapshot), positions, rtol=1e-12)
    np.testing.assert_allclose(read_masses(snapshot)[0], positions, rtol=1e-12)
    overridden = open_snapshot(path, ReadOptions(redshift=0.0))
    np.testing.assert_allclose(read_all(overridden), positions, rtol=1e-12)


def test_comoving_positions_at_any_redshift(tmp_path):
    positions = random_positions(500)
    [path] = write_swift(tmp_path / "s.hdf5", positions, h=H, redshift=3.0)
    np.testing.assert_allclose(read_all(open_snapshot(path)), positions, rtol=1e-12)


def test_types_and_black_holes(tmp_path):
    by_type = {t: random_positions(100 + t, seed=t) for t in (0, 1, 4, 5, 6)}
    [path] = write_swift(tmp_path / "s.hdf5", by_type, h=H, Omega_nu=0.01)
    snapshot = open_snapshot(path, ReadOptions(particle_types=(5, 0)))
    found, masses = read_masses(snapshot)
    np.testing.assert_allclose(found, np.concatenate([by_type[0], by_type[5]]), rtol=1e-12)
    header = snapshot.header
    assert header.n_particles == len(masses) == 205
    assert header.Omega_m == pytest.approx(0.31)  # with the neutrinos
    assert header.selected_mass == pytest.approx(masses.sum(), rel=1e-12)
    assert header.total_mass == pytest.approx(mean_matter_density(0.31) * 1e6, rel=1e-6)


def test_gadget_says_no_and_swift_only_yes_to_its_own(tmp_path):
    [swift] = write_swift(tmp_path / "a.hdf5", random_positions(100))
    [gadget] = write_gadget_hdf5(tmp_path / "b.hdf5", random_positions(100))
    assert not get_reader("gadget_hdf5").sniff(swift)
    assert not get_reader("swift").sniff(gadget)
    assert sniff(swift).name == "swift"
    assert sniff(gadget).name == "gadget_hdf5"
    with h5py.File(swift, "r+") as file:  # a run of a fork that calls itself something else
        file["Header"].attrs["Code"] = np.bytes_("other")
    assert sniff(swift).name == "swift"
    (tmp_path / "c.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert not get_reader("swift").sniff(tmp_path / "c.hdf5")
    assert not get_reader("swift").sniff(tmp_path / "missing.hdf5")


def test_types_that_swift_was_told_not_to_write(tmp_path):
    by_type = {0: random_positions(100), 1: random_positions(200)}
    [path] = write_swift(tmp_path / "s.hdf5", by_type)
    with h5py.File(path, "r+") as file:
        del file["PartType0"], file["GasParticles"]
        file["Header"].attrs["NumPart_ThisFile"] = np.array([0, 200, 0, 0, 0, 0, 0])
    snapshot = open_snapshot(path)
    assert len(read_all(snapshot)) == 200
    assert snapshot.header.total_mass is None  # or the density would seem wrong
    assert snapshot.header.selected_mass is not None
    refused(path, "expected 100 particles of type 0", ReadOptions(particle_types=(0,)))


def test_subsampled_output_has_no_total_mass(tmp_path):
    header = {"OutputType": "SubSampled"}
    [path] = write_swift(tmp_path / "s.hdf5", random_positions(), density=0.1, header=header)
    snapshot = open_snapshot(path)
    assert snapshot.header.total_mass is None
    assert len(read_all(snapshot)) == 1000
    with h5py.File(path, "r+") as file:
        file["Header"].attrs["OutputType"] = np.bytes_("FullVolume")
    refused(path, "times the mean matter density")


def test_high_words_and_the_name_of_old_files(tmp_path):
    header = {"NumPart_Total_HighWord": None, "NumPart_HighWord": np.zeros(6, "u4")}
    [path] = write_swift(tmp_path / "s.hdf5", random_positions(), header=header)
    assert len(read_all(open_snapshot(path))) == 1000
    high = np.array([0, 1, 0, 0, 0, 0, 0], "u4")
    [path] = write_swift(
        tmp_path / "t.hdf5", random_positions(), header={"NumPart_Total_HighWord": high}
    )
    assert open_snapshot(path).header.n_particles == 1000  # 2^32 are as garbage as in Gadget


@pytest.mark.parametrize("options", [{}, {"chunks": (7, 3)}, {"scaleoffset": 6}, AS_SWIFT])
def test_storage_that_h5py_decodes(tmp_path, options):
    positions = random_positions(100)
    masses = "scaleoffset" not in options and "chunks" not in options
    [path] = write_swift(
        tmp_path / "s.hdf5", positions, h=0.5, dataset_options=options, masses=masses
    )
    found = read_all(open_snapshot(path), 10)
    with h5py.File(path) as file:
        expected = file["PartType1/Coordinates"][...] * 0.5
    assert found.tobytes() == expected.tobytes()
    np.testing.assert_allclose(found, positions, atol=1e-5)


def test_lossy_types_of_swift(tmp_path):
    """A float with fewer bits and the N-bit filter, as SWIFT's FMantissa13."""
    positions = random_positions(300)
    [path] = write_swift(tmp_path / "s.hdf5", positions, h=0.5, dtype="f4")
    with h5py.File(path, "r+") as file:
        values = file["PartType1/Coordinates"][...]
        del file["PartType1/Coordinates"]
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_fields(31 - 10, 23 - 10 - 0, 8, 0, 13)
        kind.set_precision(22)
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((100, 3))
        properties.set_filter(h5py.h5z.FILTER_NBIT, 0, ())
        space = h5py.h5s.create_simple(values.shape)
        stored = h5py.h5d.create(file["PartType1"].id, b"Coordinates", kind, space, dcpl=properties)
        stored.write(h5py.h5s.ALL, h5py.h5s.ALL, values, h5py.h5t.NATIVE_FLOAT)
    found = read_all(open_snapshot(path))
    with h5py.File(path) as file:
        expected = file["PartType1/Coordinates"][...].astype("f4") * np.float32(0.5)
    assert found.tobytes() == expected.tobytes()
    np.testing.assert_allclose(found, positions, rtol=2.0**-12, atol=1e-4)


def test_filter_that_is_not_there(tmp_path):
    [path] = write_swift(tmp_path / "s.hdf5", random_positions(100))
    with h5py.File(path, "r+") as file:
        values = file["PartType1/Coordinates"][...]
        del file["PartType1/Coordinates"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((100, 3))
        properties.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(values.shape)
        where = file["PartType1"].id
        kind = h5py.h5t.NATIVE_DOUBLE
        stored = h5py.h5d.create(where, b"Coordinates", kind, space, dcpl=properties)
        stored.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    refused(path, r"Coordinates is compressed with filter 32999.*hdf5plugin.*h5repack")


# --- against swiftsimio ---------------------------------------------------------------------


@pytest.mark.parametrize("redshift", [0.0, 1.5])
@pytest.mark.parametrize("unit_cm", [CM_PER_MPC, CM_PER_MPC / 1000])
def test_against_swiftsimio(tmp_path, redshift, unit_cm):
    swiftsimio = pytest.importorskip("swiftsimio")
    positions = random_positions(400)
    [path] = write_swift(tmp_path / "s.hdf5", positions, h=H, redshift=redshift, unit_cm=unit_cm)
    data = swiftsimio.load(str(path))
    coordinates, masses = data.dark_matter.coordinates, data.dark_matter.masses
    assert coordinates.comoving
    snapshot = open_snapshot(path)
    found, found_masses = read_masses(snapshot)
    np.testing.assert_allclose(found, coordinates.to_value("Mpc") * H, rtol=1e-7)
    solar = masses.to_value("Msun") / 1e10
    np.testing.assert_allclose(found_masses, solar * H, rtol=1e-4)
    box = data.metadata.boxsize.to_value("Mpc") * H
    np.testing.assert_allclose(box, snapshot.header.box_size, rtol=1e-7)
    assert float(data.metadata.z) == snapshot.header.redshift


def test_physical_flag_against_swiftsimio(tmp_path):
    swiftsimio = pytest.importorskip("swiftsimio")
    positions = random_positions(400)
    [path] = write_swift(tmp_path / "s.hdf5", positions, h=H, redshift=1.0, physical=True)
    coordinates = swiftsimio.load(str(path)).dark_matter.coordinates
    assert not coordinates.comoving
    coordinates.convert_to_comoving()
    found = read_all(open_snapshot(path))
    np.testing.assert_allclose(found, coordinates.to_value("Mpc") * H, rtol=1e-7)


# --- sets of files --------------------------------------------------------------------------


def test_virtual_file_gives_its_parts(tmp_path):
    positions = random_positions(1000)
    path = tmp_path / "snap_0000.hdf5"
    parts = write_swift(path, positions, n_files=3)
    assert open_snapshot(path).header.files == tuple(parts)
    whole = read_all(open_snapshot(path))
    with h5py.File(path) as file:  # HDF5's own idea of the virtual file
        expected = file["PartType1/Coordinates"][...] * 0.7
    assert whole.tobytes() == expected.tobytes()


@pytest.mark.parametrize("pattern", ["**/*", "*.hdf5", "snap_0000.hdf5", "snap_0000.?.hdf5"])
def test_parts_and_virtual_file_are_one_snapshot(tmp_path, pattern):
    parts = write_swift(tmp_path / "snap_0000.hdf5", random_positions(), n_files=3)
    assert find_snapshots(tmp_path, pattern) == [tuple(parts)]


def test_parts_without_particles_of_the_type(tmp_path):
    by_type = {0: random_positions(500), 1: random_positions(2)}
    path = tmp_path / "s.hdf5"
    parts = write_swift(path, by_type, n_files=4)
    assert open_snapshot(path).header.files == tuple(parts)
    np.testing.assert_allclose(read_all(open_snapshot(path)), by_type[1], rtol=1e-12)


def test_missing_part(tmp_path):
    path = tmp_path / "snap.hdf5"
    parts = write_swift(path, random_positions(), n_files=4)
    parts[2].unlink()
    refused(parts[0], r"expected 4 parts \(1000 particles\), found 3 .* snap\.2\.hdf5 is missing")
    refused(path, r"expected 4 parts \(1000 particles\), found 3 .* snap\.2\.hdf5 is missing")
    for part in parts[:2]:
        part.unlink()
    refused(path, r"is a virtual file over snap\.N\.hdf5, expected snap\.0\.hdf5 beside it")


@pytest.mark.parametrize("name", ["../elsewhere/snap.0.hdf5", "/etc/passwd", "..", "snap.hdf5"])
def test_virtual_sources_outside_are_not_followed(tmp_path, name):
    folder, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    write_swift(elsewhere / "snap.hdf5", random_positions(seed=7), n_files=2)
    parts = write_swift(folder / "snap.hdf5", random_positions(), n_files=2)
    path = folder / "snap.hdf5"
    lead_to(path, name)
    snapshot = open_snapshot(path)
    assert snapshot.header.files == tuple(parts)
    np.testing.assert_allclose(read_all(snapshot), random_positions(), rtol=1e-12)
    with h5py.File(path, "r+") as file:  # a virtual file that passes for a real one
        file["Header"].attrs["Virtual"] = np.zeros(1, "i4")
    refused(path, "PartType1/Coordinates is a virtual data set")
    shutil.copy(path, tmp_path / "copy.hdf5")
    with h5py.File(tmp_path / "copy.hdf5", "r+") as file:
        file["Header"].attrs["Virtual"] = np.ones(1, "i4")
    refused(tmp_path / "copy.hdf5", r"virtual file over copy\.N\.hdf5, expected copy\.0\.hdf5")


def lead_to(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file["PartType1/Coordinates"]
        layout = h5py.VirtualLayout((1000, 3), "f8")
        layout[...] = h5py.VirtualSource(name, "PartType1/Coordinates", (1000, 3))
        file.create_virtual_dataset("PartType1/Coordinates", layout)


def test_linked_parts_are_outside(tmp_path):
    folder, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    parts = write_swift(elsewhere / "snap.hdf5", random_positions(), n_files=2)
    folder.mkdir()
    shutil.copy(elsewhere / "snap.hdf5", folder / "snap.hdf5")
    for part in parts:
        (folder / part.name).symlink_to(part)
    for pattern in ("snap.hdf5", "snap.0.hdf5"):
        with pytest.raises(SnapshotError, match="outside of"):
            find_snapshots(folder, pattern)


def test_virtual_file_of_another_snapshot(tmp_path):
    path = tmp_path / "snap.hdf5"
    write_swift(path, random_positions(), n_files=2)
    write_swift(tmp_path / "b" / "snap.hdf5", random_positions(500), n_files=2)
    shutil.copy(tmp_path / "b" / "snap.hdf5", path)
    refused(path, r"virtual file over 500 particles at redshift 0.0.* 1000 at 0.0; .*mixed")


def test_parts_of_two_snapshots(tmp_path):
    parts = write_swift(tmp_path / "snap.hdf5", random_positions(), n_files=2)
    other = write_swift(tmp_path / "b" / "snap.hdf5", random_positions(), n_files=2, redshift=1.0)
    shutil.copy(other[1], parts[1])
    refused(parts[0], "its redshift is 1.0, expected 0.0")


def test_parts_with_other_numbers_of_types(tmp_path):
    parts = write_swift(tmp_path / "snap.hdf5", random_positions(), n_files=2)
    other = write_swift(tmp_path / "b" / "s.hdf5", random_positions(), n_files=2, n_types=8)
    shutil.copy(other[1], parts[1])
    refused(parts[0], "number of particle types is 8, expected 7")


# --- what is refused ------------------------------------------------------------------------


REFUSALS = {
    "not cubic": ({"BoxSize": [100.0, 100.0, 50.0]}, {}, {}, r"\[100.0, 100.0, 50.0\].*cubic"),
    "two sides": ({"BoxSize": [100.0, 100.0]}, {}, {}, "expected three equal sides"),
    "no box": ({"BoxSize": None}, {}, {}, "BoxSize is None"),
    "negative box": ({"BoxSize": [-1.0] * 3}, {}, {}, "box size is -1"),
    "two dimensions": ({"Dimension": 2}, {}, {}, "Dimension is 2"),
    "line of sight": ({"OutputType": "LineOfSight"}, {}, {}, "'LineOfSight', expected FullVolume"),
    "groups": ({"OutputType": "FOF"}, {}, {}, "'FOF', expected FullVolume"),
    "not cosmological": ({}, {"Cosmological run": 0}, {}, "not cosmological"),
    "no h": ({}, {"h": None}, {}, r"input\.h"),
    "mad h": ({}, {"h": 70.0}, {}, "h is 70"),
    "no redshift": (
        {"Redshift": None, "Scale-factor": None},
        {"Redshift": None},
        {},
        r"no redshift.*input\.redshift",
    ),
    "two redshifts": ({"Scale-factor": 0.5}, {}, {}, "redshift is 0, but its expansion factor"),
    "negative count": (
        {"NumPart_ThisFile": np.array([0, -5, 0, 0, 0, 0, 0])},
        {},
        {},
        "expected no negative",
    ),
    "huge count": (
        {"NumPart_ThisFile": np.array([0, 1 << 50, 0, 0, 0, 0, 0])},
        {},
        {},
        "1000 particles of type 1",
    ),
    "no parts": ({"NumFilesPerSnapshot": 0}, {}, {}, "NumFilesPerSnapshot is 0"),
    "one of many": ({"NumFilesPerSnapshot": 1 << 30}, {}, {}, "expected a name like"),
    "exponent of h": ({}, {}, {"h-scale exponent": -1.0}, "'h-scale exponent'.* is -1"),
    "exponent of a": ({}, {}, {"a-scale exponent": 3.0}, "'a-scale exponent'.* is 3"),
    "not a length": ({}, {}, {"U_L exponent": -3.0}, "'U_L exponent'.* is -3"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(tmp_path, name):
    header, cosmology, field, match = REFUSALS[name]
    [path] = write_swift(
        tmp_path / "snap.hdf5",
        random_positions(),
        header=header,
        cosmology=cosmology,
        field=field,
    )
    refused(path, match)


def test_missing_groups_and_data_sets(tmp_path):
    for missing, match in {
        "Cosmology": "no group Cosmology",
        "Units": "no group Units",
        "PartType1/Coordinates": "expected 1000 positions",
    }.items():
        [path] = write_swift(tmp_path / "snap.hdf5", random_positions())
        with h5py.File(path, "r+") as file:
            del file[missing]
        refused(path, match)


def test_masses_that_are_not_there(tmp_path):
    [path] = write_swift(tmp_path / "snap.hdf5", random_positions(), masses=False)
    snapshot = open_snapshot(path)
    assert snapshot.header.total_mass is None
    with pytest.raises(SnapshotError, match=r"no PartType1/Masses.*grid\.weight: count"):
        list(snapshot.iter_weighted())


def test_coordinates_of_another_shape(tmp_path):
    [path] = write_swift(tmp_path / "snap.hdf5", random_positions())
    with h5py.File(path, "r+") as file:
        del file["PartType1/Coordinates"]
        file["PartType1/Coordinates"] = np.zeros((999, 3))
    refused(path, r"shape \(999, 3\), expected \(1000, 3\)")


def test_external_link_in_place_of_particles(tmp_path):
    [path] = write_swift(tmp_path / "snap.hdf5", random_positions())
    with h5py.File(path, "r+") as file:
        del file["PartType1"]
        file["PartType1"] = h5py.ExternalLink("/etc/other.hdf5", "/PartType1")
    refused(path, "external link")


def test_no_chunk(tmp_path):
    [path] = write_swift(tmp_path / "snap.hdf5", random_positions())
    for read in ("iter_positions", "iter_weighted"):
        with pytest.raises(ValueError, match="chunk_particles is 0"):
            next(getattr(open_snapshot(path), read)(0))


def test_cut_at_many_offsets(tmp_path):
    [path] = write_swift(tmp_path / "snap.hdf5", random_positions())
    whole = path.read_bytes()
    for size in [*range(8, 2000, 97), *range(2000, len(whole), 1501), len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(path, r"snap\.hdf5.*(truncated|damaged)", ReadOptions(format="swift"))


def test_bits_flipped_in_data_are_found(tmp_path):
    """SWIFT's Fletcher-32 is verified while reading."""
    [path] = write_swift(tmp_path / "snap.hdf5", random_positions())
    with h5py.File(path) as file:
        offset = file["PartType1/Coordinates"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 100] ^= 1
    path.write_bytes(data)
    refused(path, r"snap\.hdf5")


def test_cut_after_it_was_opened(tmp_path):
    [path] = write_swift(tmp_path / "snap.hdf5", random_positions(100_000))
    snapshot = open_snapshot(path)
    os.truncate(path, 100_000)
    with pytest.raises(SnapshotError, match="snap"):
        list(snapshot.iter_positions())


def test_virtual_data_sets_that_kill_hdf5_are_not_opened(tmp_path):
    """HDF5 1.14 crashes on some damaged lists of virtual sources (they are in its global heap)."""
    path = tmp_path / "snap.hdf5"
    write_swift(path, random_positions(), n_files=2)
    data = path.read_bytes()
    assert data.count(b"GCOL") >= 1
    path.write_bytes(data.replace(b"GCOL", b"gcol"))
    np.testing.assert_allclose(read_all(open_snapshot(path)), random_positions(), rtol=1e-12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_bytes_give_snapshot_errors_only(tmp_path_factory, data):
    path = fuzz_file(tmp_path_factory)
    content = bytearray(FUZZED[path])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = path.with_name("damaged.hdf5")
    damaged.write_bytes(content)
    options = ReadOptions(format="swift")
    try:
        snapshot = open_snapshot(damaged, options)
        assert len(read_all(snapshot)) == snapshot.header.n_particles
    except SnapshotError as error:
        assert "damaged.hdf5" in str(error)  # noqa: PT017


FUZZED: dict[Path, bytes] = {}


def fuzz_file(factory: pytest.TempPathFactory) -> Path:
    if not FUZZED:
        [path] = write_swift(factory.mktemp("swift") / "s.hdf5", random_positions(50))
        FUZZED[path] = path.read_bytes()
    return next(iter(FUZZED))
