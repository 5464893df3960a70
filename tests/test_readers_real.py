"""The readers on files that real codes wrote, against readings that do not use them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import SnapshotError
from pipeline.readers import open_snapshot, sniff
from pipeline.readers.discover import find_snapshots
from pipeline.readers.fingerprint import fingerprint
from pipeline.snapshot import ReadOptions, Snapshot

ICS = ReadOptions(box_size=50.0, length_unit="kpc/h", Omega_m=0.3, h=0.7)
"""What the header of the Gadget-2 initial conditions lacks (it holds zeros)."""

BYTE_ORDERS = {"littleendian": "<", "bigendian": ">"}
DMO = "gadget4_dmo32_multifile"
GAS = "gadget4_lcdm_gas"


@pytest.fixture(scope="module")
def real(snapshots: Path) -> Path:
    return snapshots


def read_all(snapshot: Snapshot, chunk_particles: int = 5000) -> np.ndarray:
    return np.concatenate([c.copy() for c in snapshot.iter_positions(chunk_particles)])


def pynbody_positions(path: Path, family: str) -> np.ndarray:
    pynbody = pytest.importorskip("pynbody")
    return np.asarray(getattr(pynbody.load(str(path)), family)["pos"])


def manifest(real: Path) -> dict[str, dict[str, str]]:
    with (real / "MANIFEST.tsv").open() as stream:
        return {row["path"]: row for row in csv.DictReader(stream, delimiter="\t")}


def box_in_manifest(row: dict[str, str]) -> float:
    number, unit = re.match(r"([\d.]+) (kpc/h|Mpc/h)", row["box"]).groups()
    return float(number) * (1e-3 if unit == "kpc/h" else 1.0)


# --- Gadget-2 binary ------------------------------------------------------------------------


@pytest.mark.parametrize("particle_type", [0, 1])
@pytest.mark.parametrize("name", BYTE_ORDERS)
def test_binary_against_a_plain_reading(real, name, particle_type):
    path = real / f"gadget2_lcdm_gas_ics/lcdm_gas_{name}.dat"
    stored = np.fromfile(path, BYTE_ORDERS[name] + "f4", 3 * 65536, offset=8 + 256 + 4)
    expected = stored.reshape(2, 32768, 3)[particle_type].astype("f4") * 1e-3
    options = ReadOptions(**(vars(ICS) | {"particle_types": (particle_type,)}))
    found = read_all(open_snapshot(path, options))
    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


def test_both_byte_orders_are_identical(real):
    snapshots = [
        open_snapshot(real / f"gadget2_lcdm_gas_ics/lcdm_gas_{name}.dat", ICS)
        for name in BYTE_ORDERS
    ]
    little, big = (read_all(snapshot) for snapshot in snapshots)
    assert little.tobytes() == big.tobytes()
    assert little.shape == (32768, 3)
    assert [s.header.redshift for s in snapshots] == pytest.approx([10.0, 10.0], abs=1e-6)


def test_binary_against_pynbody(real):
    path = real / "gadget2_lcdm_gas_ics/lcdm_gas_littleendian.dat"
    found = read_all(open_snapshot(path, ICS))
    assert found.tobytes() == (pynbody_positions(path, "dm").astype("f4") * 1e-3).tobytes()


def test_binary_without_the_recipe_asks(real):
    path = real / "gadget2_lcdm_gas_ics/lcdm_gas_littleendian.dat"
    with pytest.raises(SnapshotError, match=r"box size is 0.*input\.box_size"):
        open_snapshot(path)
    with pytest.raises(SnapshotError, match=r"input\.length_unit"):
        open_snapshot(path, ReadOptions(box_size=50.0))
    with pytest.raises(SnapshotError, match="times the mean matter density"):
        open_snapshot(path, ReadOptions(box_size=50000.0, length_unit="Mpc/h", Omega_m=0.3))


# --- GADGET-4, four files a snapshot --------------------------------------------------------


@pytest.mark.parametrize("number", range(4))
def test_multi_file_against_h5py(real, number):
    folder = real / DMO / f"snapdir_00{number}"
    parts = [folder / f"snapshot_00{number}.{i}.hdf5" for i in range(4)]
    pieces, redshifts = [], set()
    for part in parts:
        with h5py.File(part) as file:
            pieces.append(file["PartType1/Coordinates"][:])
            redshifts.add(float(file["Header"].attrs["Redshift"]))
    assert len({len(piece) for piece in pieces}) == 4  # sizes of real parts differ
    snapshot = open_snapshot(parts[2])
    assert snapshot.header.files == tuple(parts)
    assert {snapshot.header.redshift} == redshifts
    found = read_all(snapshot)
    assert found.dtype == np.float32
    assert found.tobytes() == np.concatenate(pieces).tobytes()


def test_multi_file_parts_against_pynbody(real):
    folder = real / DMO / "snapdir_003"
    parts = [folder / f"snapshot_003.{i}.hdf5" for i in range(4)]
    expected = np.concatenate([pynbody_positions(part, "dm") for part in parts])
    assert read_all(open_snapshot(parts[0])).tobytes() == expected.astype("f4").tobytes()


def test_multi_file_header_against_the_manifest(real):
    rows = manifest(real)
    snapshots = find_snapshots(real / DMO)
    assert [len(parts) for parts in snapshots] == [4] * 4
    for number, parts in enumerate(snapshots):
        header = open_snapshot(parts).header
        row = rows[str(parts[0].relative_to(real))]
        assert header.redshift == pytest.approx(float(row["z"].split(",")[number]), abs=1e-3)
        assert header.box_size == box_in_manifest(row) == 64.0
        assert header.n_particles == int(row["N"].split()[0]) == 32768
        assert (header.Omega_m, header.h, header.length_unit) == (0.3175, 0.6711, "Mpc/h")
        expected = 0.3175 * 27.75366 * 64.0**3
        assert header.total_mass == pytest.approx(expected, rel=1e-3)


def test_a_missing_part_of_a_real_snapshot(real, tmp_path):
    folder = real / DMO / "snapdir_000"
    for i in (0, 1, 3):
        source = folder / f"snapshot_000.{i}.hdf5"
        (tmp_path / source.name).write_bytes(source.read_bytes())
    with h5py.File(folder / "snapshot_000.2.hdf5") as file:
        held = 32768 - int(file["Header"].attrs["NumPart_ThisFile"][1])
    message = re.escape(
        f"expected 4 parts (32768 particles), found 3 ({held} particles): "
        "snapshot_000.2.hdf5 is missing"
    )
    with pytest.raises(SnapshotError, match=message):
        open_snapshot(tmp_path / "snapshot_000.3.hdf5")


def test_kpc_taken_for_mpc_on_real_files(real):
    part = real / DMO / "snapdir_003" / "snapshot_003.0.hdf5"
    with pytest.raises(SnapshotError, match=r"set input\.length_unit: Mpc/h"):
        open_snapshot(part, ReadOptions(length_unit="kpc/h"))
    with pytest.raises(SnapshotError, match=r"set input\.length_unit: kpc/h"):
        open_snapshot(real / GAS / "snapshot_004.hdf5", ReadOptions(length_unit="Mpc/h"))


# --- GADGET-4 with gas ----------------------------------------------------------------------


@pytest.mark.parametrize("particle_type", [0, 1])
@pytest.mark.parametrize("number", range(5))
def test_single_file_against_h5py(real, number, particle_type):
    path = real / GAS / f"snapshot_00{number}.hdf5"
    with h5py.File(path) as file:
        expected = file[f"PartType{particle_type}/Coordinates"][:] * 1e-3
        redshift = float(file["Header"].attrs["Redshift"])
    snapshot = open_snapshot(path, ReadOptions(particle_types=(particle_type,)))
    header = snapshot.header
    assert (header.box_size, header.redshift, header.n_particles) == (50.0, redshift, 32768)
    assert (header.Omega_m, header.h, header.length_unit) == (0.3, 0.7, "kpc/h")
    assert header.box_size == box_in_manifest(manifest(real)[f"{GAS}/{path.name}"])
    found = read_all(snapshot)
    assert expected.dtype == found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


def test_single_file_against_pynbody(real):
    path = real / GAS / "snapshot_004.hdf5"
    for particle_type, family in ((0, "gas"), (1, "dm")):
        found = read_all(open_snapshot(path, ReadOptions(particle_types=(particle_type,))))
        expected = pynbody_positions(path, family).astype("f4") * 1e-3
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [100, 5_000, 1_000_000, 2_244_631])
def test_truncated_real_file(real, tmp_path, size):
    path = tmp_path / "snapshot_004.hdf5"
    path.write_bytes((real / GAS / path.name).read_bytes()[:size])
    with pytest.raises(SnapshotError, match=r"snapshot_004\.hdf5.*truncated"):
        read_all(open_snapshot(path))


# --- the glass ------------------------------------------------------------------------------


def test_glass(real):
    """Its box is 1 kpc/h in its own units, with the mean density of Omega_m = 1."""
    path = real / "gadget4_glass32/glass_32.hdf5"
    with h5py.File(path) as file:
        stored = file["PartType1/Coordinates"][:]
    snapshot = open_snapshot(path)
    assert (snapshot.header.box_size, snapshot.header.length_unit) == (0.001, "kpc/h")
    assert read_all(snapshot).tobytes() == (stored * 1e-3).tobytes()
    snapshot = open_snapshot(path, ReadOptions(length_unit="box", box_size=100.0))
    assert (snapshot.header.box_size, snapshot.header.n_particles) == (100.0, 32768)
    assert read_all(snapshot).tobytes() == (stored * 100.0).tobytes()
    with pytest.raises(SnapshotError, match=r"set input\.length_unit: kpc/h"):
        open_snapshot(path, ReadOptions(length_unit="Mpc/h"))


# --- the whole folder -----------------------------------------------------------------------


def test_discovery_finds_the_gadget_files_and_no_others(real):
    found = [
        part
        for parts in find_snapshots(real)
        for part in parts
        if sniff(part).name.startswith("gadget")
    ]
    listed = [
        name
        for name in manifest(real)
        if name.startswith("gadget") and name.endswith((".hdf5", ".dat"))
    ]
    assert sorted(str(path.relative_to(real)) for path in found) == sorted(listed)
    prints = {fingerprint(parts) for parts in find_snapshots(real)}
    assert len(prints) == len(find_snapshots(real))


@pytest.mark.parametrize("name", ["tipsy_cube300/cube300.tbin", "nyx_hdf5_vizaly/z255_32.h5"])
def test_other_formats_are_not_taken_for_gadget(real, name):
    found = sniff(real / name)
    assert found is None or not found.name.startswith("gadget")
