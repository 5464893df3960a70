"""Damaged and hostile snapshots: every one is refused by name, and none is believed.

Rows 18, 19, 21 and 23 of the table of faults; each fault is made for real.
"""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SnapshotError
from pipeline.readers import open_snapshot
from pipeline.snapshot import ReadOptions
from tests.snapshots_made import random_positions, write_gadget_binary, write_gadget_hdf5

BOX = 100.0
WRITERS = {"gadget_hdf5": write_gadget_hdf5, "gadget_binary": write_gadget_binary}
CHUNK = 256
ALLOCATION_BESIDES_FILE = 2 << 20
"""Bytes that opening any file may take: buffers of h5py and Python."""

OFFSETS = {"npart": 0, "mass": 24, "redshift": 80, "total": 96, "num_files": 124}
OFFSETS |= {"box_size": 128, "Omega0": 136, "h": 152, "high": 168}
"""Of the fields of the Gadget-2 header; its record marker takes 4 bytes before it."""


def read_count(path: Path, options: ReadOptions | None = None) -> int:
    snapshot = open_snapshot(path, options)
    return sum(len(chunk) for chunk in snapshot.iter_positions(CHUNK))


def patch(path: Path, field: str, format: str, *values: float, at: int = 0) -> None:
    """Overwrite a field of the header of a little-endian Gadget-2 file of format 1."""
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{format}", data, 4 + OFFSETS[field] + at, *values)
    path.write_bytes(data)


def refused(path: Path, match: str, options: ReadOptions | None = None) -> None:
    with pytest.raises(SnapshotError, match=match) as caught:
        read_count(path, options)
    assert path.parent.name in str(caught.value)  # every message names the file


@pytest.fixture
def binary(tmp_path):
    return write_gadget_binary(tmp_path / "snap_000", random_positions())[0]


@pytest.fixture
def hdf5(tmp_path):
    return write_gadget_hdf5(tmp_path / "snap_000.hdf5", random_positions())[0]


# --- truncation (row 18) --------------------------------------------------------------------


@pytest.mark.parametrize("snap_format", [1, 2])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_binary_cut_at_any_offset(tmp_path, snap_format, byte_order):
    [path] = write_gadget_binary(
        tmp_path / "snap", random_positions(40), snap_format=snap_format, byte_order=byte_order
    )
    whole = path.read_bytes()
    ends = _record_ends(whole, byte_order)
    names = set(ends[::2]) if snap_format == 2 else set()
    position_end = ends[1] if snap_format == 1 else ends[3]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size in ends and size >= position_end and size not in names:
            assert read_count(path) == 40  # a whole file that has fewer blocks
        else:
            refused(path, "snap")


def _record_ends(data: bytes, byte_order: str) -> list[int]:
    ends, offset = [], 0
    while offset < len(data):
        offset += 8 + struct.unpack_from(f"{byte_order}I", data, offset)[0]
        ends.append(offset)
    return ends


def test_binary_truncation_tells_how_much_is_there(binary):
    os.truncate(binary, 5000)
    refused(binary, r"snap_000: truncated .* expected 12000 bytes, found 4728")


def test_hdf5_cut_at_many_offsets(hdf5):
    whole = hdf5.read_bytes()
    for size in [*range(8, 2000, 97), *range(2000, len(whole), 701), len(whole) - 1]:
        hdf5.write_bytes(whole[:size])
        refused(hdf5, r"snap_000\.hdf5.*(truncated|damaged)")


@pytest.mark.parametrize("size", [0, 1, 7])
def test_almost_empty_files(tmp_path, size):
    path = tmp_path / "snap.hdf5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n"[:size])
    refused(path, "not a snapshot in any known format")


@pytest.mark.parametrize("format", WRITERS)
def test_file_cut_after_it_was_opened(tmp_path, format):
    [path] = WRITERS[format](tmp_path / "snap", random_positions(200_000))
    snapshot = open_snapshot(path)
    os.truncate(path, 100_000)
    with pytest.raises(SnapshotError, match="snap"):
        list(snapshot.iter_positions())


@pytest.mark.parametrize("format", WRITERS)
def test_file_gone_after_it_was_opened(tmp_path, format):
    [path] = WRITERS[format](tmp_path / "snap", random_positions())
    snapshot = open_snapshot(path)
    path.unlink()
    with pytest.raises(SnapshotError, match="cannot be read"):
        list(snapshot.iter_positions())


# --- multi-file sets (row 18) ---------------------------------------------------------------


@pytest.mark.parametrize("missing", [0, 2, 3])
@pytest.mark.parametrize("format", WRITERS)
def test_missing_part_is_named_with_counts(tmp_path, format, missing):
    name = "snapshot_000" + (".hdf5" if format == "gadget_hdf5" else "")
    paths = WRITERS[format](tmp_path / name, random_positions(1000), n_files=4)
    rest = [path for path in paths if path != paths[missing]]
    held = sum(_count(path, format) for path in rest)
    paths[missing].unlink()
    expected = (
        f"expected 4 parts (1000 particles), found 3 ({held} particles): "
        f"{paths[missing].name} is missing"
    )
    refused(rest[0], re.escape(expected))
    with pytest.raises(SnapshotError, match=r"expected 4 parts \(1000 particles\), found 3"):
        open_snapshot(rest)


def _count(path: Path, format: str) -> int:
    if format == "gadget_binary":
        return struct.unpack_from("<6I", path.read_bytes(), 4)[1]
    with h5py.File(path) as file:
        return int(file["Header"].attrs["NumPart_ThisFile"][1])


@pytest.mark.parametrize("format", WRITERS)
def test_many_missing_parts_are_summarised(tmp_path, format):
    name = "snap" + (".hdf5" if format == "gadget_hdf5" else "")
    paths = WRITERS[format](tmp_path / name, random_positions(1000), n_files=20)
    for path in paths[1:]:
        path.unlink()
    refused(paths[0], r"found 1 .*, \.\.\. are missing")


@pytest.mark.parametrize("format", WRITERS)
def test_parts_of_two_snapshots(tmp_path, format):
    name = "snap" + (".hdf5" if format == "gadget_hdf5" else "")
    one = WRITERS[format](tmp_path / "a" / name, random_positions(1000), n_files=2)
    two = WRITERS[format](tmp_path / "b" / name, random_positions(1000), n_files=2, redshift=1.0)
    more = WRITERS[format](tmp_path / "c" / name, random_positions(999), n_files=2)
    three = WRITERS[format](tmp_path / "d" / name, random_positions(1000), n_files=3)
    for other, what in ((two, "redshift"), (more, "total particle counts"), (three, "parts")):
        with pytest.raises(SnapshotError, match=f"its .*{what}.* expected .* as in snap"):
            open_snapshot([one[0], other[1]])
    with pytest.raises(SnapshotError, match=r"expected 1000 particles of type 1 .* found"):
        open_snapshot([one[0], _copy(one[0], tmp_path / "copy")])
    with pytest.raises(SnapshotError, match="given twice"):
        open_snapshot([one[0], one[0]])


def _copy(path: Path, to: Path) -> Path:
    to.write_bytes(path.read_bytes())
    return to


def test_part_without_a_number_and_left_over_part(tmp_path):
    paths = write_gadget_hdf5(tmp_path / "snap.hdf5", random_positions(), n_files=2)
    _copy(paths[0], tmp_path / "snap.7.hdf5")
    assert read_count(paths[0]) == 1000
    refused(tmp_path / "snap.7.hdf5", "left over from an earlier run")
    refused(_copy(paths[0], tmp_path / "renamed.hdf5"), r"one of 2 parts, expected a name like")
    _copy(paths[0], tmp_path / "snap.01.hdf5")
    refused(paths[0], "both part 1")


# --- malformed Gadget headers (row 19) ------------------------------------------------------


def test_record_markers_differ(binary):
    whole = binary.read_bytes()
    for end in _record_ends(whole, "<"):
        data = bytearray(whole)
        data[end - 4] ^= 1
        binary.write_bytes(data)
        refused(binary, "begins with the length .* and ends with")


def test_more_particles_than_the_file_holds(binary):
    patch(binary, "npart", "I", 2**32 - 1, at=4)
    patch(binary, "total", "I", 2**32 - 1, at=4)
    refused(binary, r"positions take 12000 bytes, expected 51539607540 \(float32\)")


def test_2_to_the_40_particles_in_one_part_of_many(binary):
    patch(binary, "total", "I", 0, at=4)
    patch(binary, "high", "I", 256, at=4)
    refused(binary, "expected 1099511627776 particles of type 1 over 1 part, found 1000")


def test_2_to_the_40_particles_in_hdf5(hdf5):
    with h5py.File(hdf5, "a") as file:
        for name in ("NumPart_ThisFile", "NumPart_Total"):
            file["Header"].attrs[name] = np.array([0, 2**40], "u8")
    refused(hdf5, r"shape \(1000, 3\), expected \(1099511627776, 3\)")


def test_2_to_the_40_particles_that_were_never_written(hdf5):
    with h5py.File(hdf5, "a") as file:
        for name in ("NumPart_ThisFile", "NumPart_Total"):
            file["Header"].attrs[name] = np.array([0, 2**40], "u8")
        del file["PartType1/Coordinates"]
        file["PartType1"].create_dataset("Coordinates", (2**40, 3), "f4")
    refused(hdf5, "never written in full")


def test_chunks_that_were_never_written(hdf5):
    with h5py.File(hdf5, "a") as file:
        del file["PartType1/Coordinates"]
        dset = file["PartType1"].create_dataset("Coordinates", (1000, 3), "f4", chunks=(100, 3))
        dset[:500] = 1.0
    refused(hdf5, "has 5 of its 10 chunks")


def test_storage_chunk_larger_than_memory_should_hold(hdf5):
    with h5py.File(hdf5, "a") as file:
        del file["PartType1/Coordinates"]
        dset = file["PartType1"].create_dataset(
            "Coordinates",
            (1000, 3),
            "f4",
            chunks=(2**26, 3),
            maxshape=(None, 3),
            compression="gzip",
        )
        assert dset.chunks == (2**26, 3)
    refused(hdf5, "stored in chunks of 805306368 bytes")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-300])
@pytest.mark.parametrize("format", WRITERS)
def test_implausible_box(tmp_path, format, value):
    [path] = WRITERS[format](tmp_path / "snap", random_positions())
    _set(path, format, "BoxSize", "box_size", value)
    refused(path, r"input\.(box_size|length_unit)")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), -2.0])
@pytest.mark.parametrize("format", WRITERS)
def test_implausible_redshift(tmp_path, format, value):
    [path] = WRITERS[format](tmp_path / "snap", random_positions())
    _set(path, format, "Redshift", "redshift", value)
    refused(path, r"redshift")


@pytest.mark.parametrize("value", [-0.3, float("nan"), float("inf"), 1e300, 1e-300])
@pytest.mark.parametrize("name", ["Omega0", "HubbleParam"])
@pytest.mark.parametrize("format", WRITERS)
def test_implausible_cosmology(tmp_path, format, name, value):
    options = {"cosmology_in": "Header"} if format == "gadget_hdf5" else {}
    [path] = WRITERS[format](tmp_path / "snap", random_positions(), **options)
    _set(path, format, name, "Omega0" if name == "Omega0" else "h", value)
    refused(path, rf"input\.{'Omega_m' if name == 'Omega0' else 'h'} in the recipe")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("format", WRITERS)
def test_implausible_masses(tmp_path, format, value):
    [path] = WRITERS[format](tmp_path / "snap", random_positions())
    if format == "gadget_binary":
        patch(path, "mass", "d", value, at=8)
    else:
        _set(path, format, "MassTable", "", np.array([0.0, value]))
    refused(path, "the mass of a particle is")


def _set(path: Path, format: str, attribute: str, field: str, value: float) -> None:
    if format == "gadget_binary":
        patch(path, field, "d", value)
    else:
        with h5py.File(path, "a") as file:
            file["Header"].attrs[attribute] = value


@pytest.mark.parametrize("num_files", [-1, 7, 2**31 - 1])
def test_number_of_files(binary, num_files):
    patch(binary, "num_files", "i", num_files)
    refused(binary, "number of files is -1|expected a name like")


@pytest.mark.parametrize("n_files", [1, 3])
@pytest.mark.parametrize("high", [(0, 2**31, 0, 0, 0, 0), (1, 7, 3, 2**32 - 1, 5, 6)])
def test_garbage_high_words_are_tolerated(tmp_path, high, n_files):
    paths = write_gadget_binary(
        tmp_path / "snap", random_positions(), high_words=high, n_files=n_files
    )
    assert read_count(paths[0]) == 1000


def test_garbage_high_words_in_hdf5(tmp_path):
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions(), high_words=True)
    for words in ([0, 0], [5, 7], [2**32 - 1, 2**31]):
        with h5py.File(path, "a") as file:
            file["Header"].attrs["NumPart_Total_HighWord"] = np.array(words, "u4")
        assert read_count(path) == 1000


@pytest.mark.parametrize("format", WRITERS)
def test_low_words_must_match(tmp_path, format):
    [path] = WRITERS[format](tmp_path / "snap", random_positions())
    if format == "gadget_binary":
        patch(path, "total", "I", 999, at=4)
    else:
        _set(path, format, "NumPart_Total", "", np.array([0, 999], "u8"))
    refused(path, "expected 999 particles of type 1 over 1 part, found 1000")


def test_positions_of_another_size(binary):
    data = bytearray(binary.read_bytes())
    struct.pack_into("<II", data, 4 + OFFSETS["npart"], 0, 999)
    struct.pack_into("<II", data, 4 + OFFSETS["total"], 0, 999)
    binary.write_bytes(data)
    refused(binary, r"take 12000 bytes, expected 11988 \(float32\) or 23976 \(float64\)")


def test_walk_of_empty_records_ends(binary):
    binary.write_bytes(binary.read_bytes() + bytes(8 * 10_000))
    refused(binary, "more than 1000 records")


def test_format_2_without_positions(tmp_path):
    [path] = write_gadget_binary(tmp_path / "snap", random_positions(), snap_format=2)
    path.write_bytes(path.read_bytes().replace(b"POS ", b"POT "))
    refused(path, r"found 0 blocks of positions")
    path.write_bytes(path.read_bytes().replace(b"POT ", b"POS ").replace(b"VEL ", b"POS "))
    refused(path, r"found 2 blocks of positions")


def test_a_record_that_wraps_at_4_gib(tmp_path, binary):
    """A sparse file whose positions take 2^32 + 8 bytes, with the marker that a writer leaves."""
    n = (2**32 + 8) // 12
    assert n * 12 == 2**32 + 8
    path = tmp_path / "large"
    header = bytearray(binary.read_bytes()[:264])
    struct.pack_into("<II", header, 4 + OFFSETS["npart"], 0, n)
    struct.pack_into("<II", header, 4 + OFFSETS["total"], 0, n)
    struct.pack_into("<2d", header, 4 + OFFSETS["mass"], 0, 0)
    with path.open("wb") as stream:
        stream.write(header + struct.pack("<I", 8) + struct.pack("<f", 1000.0) * 30)
        stream.seek(264 + 4 + 12 * n - 4)
        stream.write(struct.pack("<f", 2000.0) + struct.pack("<I", 8))
    options = ReadOptions(length_unit="kpc/h")
    tracemalloc.start()
    snapshot = open_snapshot(path, options)
    chunk = next(snapshot.iter_positions(10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert snapshot.header.n_particles == n
    assert (chunk == np.float32(1000.0) * 1e-3).all()
    assert peak < ALLOCATION_BESIDES_FILE


# --- malformed HDF5 -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "value", "match"),
    [
        ("NumPart_ThisFile", np.array([0, -5], "i8"), "no negative numbers"),
        ("NumPart_ThisFile", np.array([0.0, 1000.0]), "whole numbers"),
        ("NumPart_ThisFile", np.zeros(9, "u4"), "1 to 8"),
        ("NumPart_ThisFile", "many", "expected a few numbers"),
        ("NumPart_Total", np.array([0, 1000, 0], "u8"), "NumPart_Total has 3 types, expected 2"),
        ("NumPart_Total", np.zeros(5000, "u4"), "5000 values"),
        ("MassTable", np.zeros(6), "MassTable has 6 types, expected 2"),
        ("NumFilesPerSnapshot", -3, "NumFilesPerSnapshot is -3"),
        ("NumFilesPerSnapshot", float("nan"), "NumFilesPerSnapshot is nan"),
        ("NumFilesPerSnapshot", 10**9, "expected a name like"),
        ("BoxSize", "large", "expected a few numbers"),
    ],
)
def test_malformed_hdf5_header(hdf5, attribute, value, match):
    with h5py.File(hdf5, "a") as file:
        file["Header"].attrs[attribute] = value
    refused(hdf5, match)


def test_missing_pieces_of_hdf5(tmp_path, hdf5):
    whole = hdf5.read_bytes()
    for name, match in (
        ("PartType1/Coordinates", "no PartType1/Coordinates, expected 1000 positions"),
        ("PartType1", "no PartType1/Coordinates"),
    ):
        hdf5.write_bytes(whole)
        with h5py.File(hdf5, "a") as file:
            del file[name]
        refused(hdf5, match)
    hdf5.write_bytes(whole)
    with h5py.File(hdf5, "a") as file:
        del file["Header"].attrs["NumPart_Total"]
    refused(hdf5, "NumPart_Total is None")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["Header"] = 1.0
    refused(tmp_path / "other.hdf5", "is a data set, expected a group")
    with h5py.File(tmp_path / "none.hdf5", "w"):
        pass
    refused(tmp_path / "none.hdf5", "no group Header", ReadOptions(format="gadget_hdf5"))


@pytest.mark.parametrize("dtype", ["i4", "f2", "S4", "c8"])
def test_positions_of_another_type(hdf5, dtype):
    with h5py.File(hdf5, "a") as file:
        del file["PartType1/Coordinates"]
        file["PartType1/Coordinates"] = np.zeros((1000, 3), dtype)
    refused(hdf5, "expected float32 or float64")


def test_group_in_place_of_positions(hdf5):
    with h5py.File(hdf5, "a") as file:
        del file["PartType1/Coordinates"]
        file.create_group("PartType1/Coordinates")
    refused(hdf5, "is a group, expected a data set")


# --- kpc and Mpc (row 21) -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "taken"),
    [("kpc/h", "Mpc/h"), ("Mpc/h", "kpc/h"), ("Mpc", "Mpc/h"), ("kpc/h", "kpc")],
)
@pytest.mark.parametrize("format", WRITERS)
def test_a_unit_slip_names_the_unit(tmp_path, format, written, taken):
    [path] = WRITERS[format](tmp_path / "snap", random_positions(), length_unit=written)
    slip = "Mpc or kpc" if written == "Mpc" else "/h" if taken == "kpc" else written
    refused(path, rf"times the mean matter density.*({slip}|check)", ReadOptions(length_unit=taken))
    assert read_count(path, ReadOptions(length_unit=written)) == 1000


@pytest.mark.parametrize(("written", "taken"), [("kpc/h", 1.0), ("Mpc/h", 1e-3)])
def test_a_file_that_states_the_wrong_unit(tmp_path, written, taken):
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions(), length_unit=written)
    with h5py.File(path, "a") as file:
        file["Parameters"].attrs["UnitLength_in_cm"] = taken * 3.085678e24
    refused(path, f"set input.length_unit: {written}")
    assert read_count(path, ReadOptions(length_unit=written)) == 1000


@pytest.mark.parametrize(("written", "taken"), [("kpc/h", "Mpc/h"), ("Mpc/h", "kpc/h")])
def test_a_unit_slip_beside_a_box_from_the_recipe(tmp_path, written, taken):
    [path] = write_gadget_binary(
        tmp_path / "ics", random_positions(), zero_header=True, length_unit=written
    )
    options = ReadOptions(box_size=BOX, length_unit=taken, Omega_m=0.3)
    refused(path, "expected them to fill the box of 100 Mpc/h", options)


def test_density_that_fits_no_unit(tmp_path):
    [path] = write_gadget_binary(tmp_path / "snap", random_positions(), density=0.2)
    refused(path, r"matches Omega_m = 0\.3 in none of kpc/h, Mpc/h, kpc, Mpc")
    [path] = write_gadget_hdf5(tmp_path / "snap.hdf5", random_positions(), density=0.2)
    refused(path, r"holds 0\.2 times the mean matter density")


# --- links, virtual data sets, external storage (row 23) ------------------------------------


def test_external_link(tmp_path, hdf5):
    [other] = write_gadget_hdf5(tmp_path / "other.hdf5", random_positions())
    whole = hdf5.read_bytes()
    for name in ("PartType1/Coordinates", "PartType1", "Parameters", "Header"):
        hdf5.write_bytes(whole)
        with h5py.File(hdf5, "a") as file:
            del file[name]
            file[name] = h5py.ExternalLink(str(other), f"/{name}")
        refused(hdf5, f"/{name} is an external link to .*other.hdf5")


def test_soft_link_to_an_external_link(tmp_path, hdf5):
    [other] = write_gadget_hdf5(tmp_path / "other.hdf5", random_positions())
    with h5py.File(hdf5, "a") as file:
        del file["PartType1"]
        file["elsewhere"] = h5py.ExternalLink(str(other), "/PartType1")
        file["PartType1"] = h5py.SoftLink("/elsewhere")
    refused(hdf5, "PartType1 is a soft link to /elsewhere")


def test_virtual_dataset(tmp_path, hdf5):
    [other] = write_gadget_hdf5(tmp_path / "other.hdf5", random_positions())
    layout = h5py.VirtualLayout((1000, 3), "f4")
    layout[:] = h5py.VirtualSource(other, "PartType1/Coordinates", (1000, 3))
    with h5py.File(hdf5, "a") as file:
        del file["PartType1/Coordinates"]
        file["PartType1"].create_virtual_dataset("Coordinates", layout)
    refused(hdf5, "Coordinates is a virtual data set")


def test_external_storage(tmp_path, hdf5):
    raw = tmp_path / "raw.bin"
    np.zeros((1000, 3), "f4").tofile(raw)
    with h5py.File(hdf5, "a") as file:
        del file["PartType1/Coordinates"]
        file["PartType1"].create_dataset(
            "Coordinates", (1000, 3), "f4", external=[(str(raw), 0, 12000)]
        )
    refused(hdf5, "Coordinates is stored in other files")


def test_masses_in_another_file(tmp_path):
    [path] = write_gadget_hdf5(tmp_path / "s.hdf5", random_positions(), masses="particles")
    with h5py.File(path, "a") as file:
        del file["PartType1/Masses"]
        file["PartType1/Masses"] = h5py.ExternalLink("/etc/passwd", "/x")
    refused(path, "Masses is an external link")


# --- fuzzing --------------------------------------------------------------------------------


def outcome_is_sound(path: Path) -> None:
    """Read ``path``: whole or refused by name, and either way with bounded memory."""
    tracemalloc.start()
    try:
        message = _refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message is None or str(path) in message
    assert peak < 3 * path.stat().st_size + ALLOCATION_BESIDES_FILE


def _refusal(path: Path) -> str | None:
    try:
        snapshot = open_snapshot(path, ReadOptions(format=_format(path)))
        n = sum(len(chunk) for chunk in snapshot.iter_positions(CHUNK))
    except SnapshotError as error:
        return str(error)
    assert n == snapshot.header.n_particles
    return None


def _format(path: Path) -> str:
    return "gadget_hdf5" if path.suffix == ".hdf5" else "gadget_binary"


fuzz = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
flips = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=8)
cuts = st.none() | st.integers(0, 3000)
words = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1, 1000, 256, 8])
doubles = st.floats(width=64) | st.sampled_from([0.0, -1.0, 5e-324, 1e308, -1e308])


def damaged(whole: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    data = bytearray(whole)
    for where, value in changes:
        data[where % len(data)] = value
    return bytes(data[:cut])


@fuzz
@given(changes=flips, cut=cuts, snap_format=st.sampled_from([1, 2]), order=st.sampled_from("<>"))
def test_fuzzed_bytes_of_a_binary(tmp_path, changes, cut, snap_format, order):
    path = tmp_path / f"snap{snap_format}{'<>'.index(order)}"
    whole = path.with_suffix(".whole")
    if not whole.exists():
        write_gadget_binary(whole, random_positions(100), snap_format=snap_format, byte_order=order)
    path.write_bytes(damaged(whole.read_bytes(), changes, cut))
    outcome_is_sound(path)


@fuzz
@given(
    counts=st.lists(words, min_size=6, max_size=6),
    totals=st.lists(words, min_size=6, max_size=6),
    high=st.lists(words, min_size=6, max_size=6),
    numbers=st.lists(doubles, min_size=12, max_size=12),
    keep=st.sets(st.sampled_from(["counts", "totals", "masses", "times", "cosmology"])),
    num_files=st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1]),
)
def test_fuzzed_fields_of_a_binary_header(tmp_path, counts, totals, high, numbers, keep, num_files):
    path = tmp_path / "snap"
    write_gadget_binary(path, random_positions(100))
    if "counts" not in keep:
        patch(path, "npart", "6I", *counts)
    if "totals" not in keep:
        patch(path, "total", "6I", *totals)
    if "masses" not in keep:
        patch(path, "mass", "6d", *numbers[:6])
    if "times" not in keep:
        patch(path, "redshift", "d", numbers[6])
    if "cosmology" not in keep:
        patch(path, "box_size", "4d", *numbers[8:])
    patch(path, "num_files", "i", num_files)
    patch(path, "high", "6I", *high)
    outcome_is_sound(path)


int_arrays = st.lists(st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 100]), max_size=9)
attribute_values = (
    doubles
    | st.integers(-(2**31), 2**63 - 1)
    | int_arrays.map(lambda v: np.array(v, "i8"))
    | st.lists(doubles, max_size=9).map(np.array)
    | st.text(max_size=20).filter(lambda text: "\0" not in text)
)
HEADER_ATTRIBUTES = ["NumPart_ThisFile", "NumPart_Total", "NumPart_Total_HighWord", "MassTable"]
HEADER_ATTRIBUTES += ["BoxSize", "Time", "Redshift", "NumFilesPerSnapshot", "Omega0", "HubbleParam"]
HEADER_ATTRIBUTES += ["UnitLength_in_cm", "UnitMass_in_g", "Code"]


@fuzz
@given(changes=st.dictionaries(st.sampled_from(HEADER_ATTRIBUTES), attribute_values, min_size=1))
def test_fuzzed_attributes_of_hdf5(tmp_path, changes):
    path = tmp_path / "snap.hdf5"
    write_gadget_hdf5(path, random_positions(100), cosmology_in="Header", units_in="Header")
    with h5py.File(path, "a") as file:
        for name, value in changes.items():
            file["Header"].attrs[name] = value
    outcome_is_sound(path)


@fuzz
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 40_000), st.integers(0, 255)), min_size=1, max_size=8
    ),
    cut=st.none() | st.integers(0, 40_000),
)
def test_fuzzed_bytes_of_hdf5(tmp_path, changes, cut):
    path, whole = tmp_path / "snap.hdf5", tmp_path / "whole.hdf5"
    if not whole.exists():
        write_gadget_hdf5(whole, random_positions(100))
    path.write_bytes(damaged(whole.read_bytes(), changes, cut))
    outcome_is_sound(path)
