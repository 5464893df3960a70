"""HACC GenericIO: synthetic files of every kind, a real one, damaged and hostile ones."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SnapshotError
from pipeline.readers import open_snapshot, sniff
from pipeline.readers.crc64 import crc64
from pipeline.readers.discover import find_snapshots
from pipeline.snapshot import ReadOptions
from tests.formats_made import (
    check_bytes,
    crc64_of_xz,
    in_ranks,
    outcome,
    read_all,
    with_options,
    write_genericio,
)

OPTIONS = ReadOptions(redshift=0.5)
BOUNDS = (100, 100, 350)
"""Four ranks, one of them empty."""

fuzz = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def real(snapshots: Path) -> Path:
    return snapshots / "hacc_genericio/m000.full.mpicosmo.50"


def positions(n: int = 500, dtype: str = "f4") -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 100.0, (n, 3)).astype(dtype)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_genericio(tmp_path / "m000.50", in_ranks(positions(), BOUNDS))


# --- the checksum ---------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), cut=st.integers(0, 200))
def test_crc64_against_xz(data, cut):
    array = np.array(list(data), np.uint8)
    expected = crc64_of_xz(data)
    assert crc64(array) == expected
    assert crc64(array[cut:].copy(), crc64(array[:cut].copy())) == expected


def test_crc64_of_a_long_array():
    array = np.random.default_rng(3).integers(0, 256, 1_000_003, dtype=np.uint8)
    assert crc64(array) == crc64_of_xz(array.tobytes())


def test_crc64_of_the_catalogue():
    """CRC-64/XZ of "123456789" in the catalogue of parametrised CRC algorithms."""
    assert crc64(np.frombuffer(b"123456789", np.uint8).copy()) == 0x995DC9BBDF1939FA


# --- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    "style",
    [{}, {"block_table": True}, {"element_sizes": True}, {"global_bytes": 152}, {"flagged": False}],
)
def test_all_variants(tmp_path, style, dtype, byte_order):
    ranks = in_ranks(positions(dtype=dtype), BOUNDS, dtype)
    path = write_genericio(tmp_path / "m000.50", ranks, byte_order=byte_order, **style)
    assert sniff(path).name == "genericio"
    snapshot = open_snapshot(path, OPTIONS)
    for chunk in (1, 99, 1000):
        found = read_all(snapshot, chunk)
        assert found.dtype == dtype
        assert found.tobytes() == positions(dtype=dtype).tobytes()
    header = snapshot.header
    assert (header.box_size, header.redshift, header.n_particles) == (100.0, 0.5, 500)
    assert header.length_unit == "Mpc/h"


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_compressed(tmp_path, dtype, byte_order):
    pytest.importorskip("numcodecs")
    ranks = in_ranks(positions(dtype=dtype), (100, 350), dtype)
    path = write_genericio(tmp_path / "m000.50", ranks, byte_order=byte_order, blosc=True)
    found = read_all(open_snapshot(path, OPTIONS))
    assert found.tobytes() == positions(dtype=dtype).tobytes()


def test_chunks_never_exceed_what_was_asked(path):
    sizes = [len(chunk) for chunk in open_snapshot(path, OPTIONS).iter_positions(64)]
    assert max(sizes) == 64
    assert sum(sizes) == 500
    with pytest.raises(ValueError, match="expected at least 1"):
        next(open_snapshot(path, OPTIONS).iter_positions(0))


def test_box_and_origin(tmp_path):
    ranks = in_ranks(positions() + np.float32(30), BOUNDS)
    path = write_genericio(tmp_path / "m000.50", ranks, origin=(30.0, 30.0, 30.0))
    expected = positions() + np.float32(30) - np.float32(30)
    assert read_all(open_snapshot(path, OPTIONS)).tobytes() == expected.tobytes()


def test_box_from_the_recipe(tmp_path):
    old = write_genericio(
        tmp_path / "old", in_ranks(positions(), BOUNDS), global_bytes=104, flagged=False
    )
    with pytest.raises(SnapshotError, match=r"box size is 0, .* give input\.box_size"):
        open_snapshot(old, OPTIONS)
    opened = open_snapshot(old, with_options(OPTIONS, box_size=100.0))
    assert opened.header.box_size == 100.0
    assert read_all(opened).tobytes() == positions().tobytes()


def test_box_that_contradicts_the_recipe(path):
    options = with_options(OPTIONS, box_size=120.0)
    with pytest.raises(SnapshotError, match=r"box_size = 100 .*input\.override"):
        open_snapshot(path, options)
    assert open_snapshot(path, with_options(options, override=True)).header.box_size == 120.0


def test_another_unit(tmp_path):
    ranks = in_ranks(positions() * 1000, BOUNDS)
    path = write_genericio(tmp_path / "m000.50", ranks, scale=(1e5, 1e5, 1e5))
    snapshot = open_snapshot(path, with_options(OPTIONS, length_unit="kpc/h"))
    assert snapshot.header.box_size == 100.0
    assert read_all(snapshot).tobytes() == (positions() * 1000 * np.float32(1e-3)).tobytes()


def test_positions_that_do_not_fill_the_box(tmp_path):
    ranks = in_ranks(positions() * 1000, BOUNDS)
    path = write_genericio(tmp_path / "m000.50", ranks)
    with pytest.raises(SnapshotError, match="expected them to fill the box of 100 Mpc/h"):
        open_snapshot(path, OPTIONS)


def test_the_step_is_not_the_redshift(path):
    with pytest.raises(SnapshotError, match=r"records no redshift; give input\.redshift"):
        open_snapshot(path)
    named = write_genericio(path.with_name("z1.5.step.50"), in_ranks(positions(), BOUNDS))
    options = ReadOptions(redshift_pattern=r"z([0-9.]+)")
    assert open_snapshot(named, options).header.redshift == 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": (100.0, 100.0, 50.0)}, "expected a cube"),
        ({"scale": (1e30, 1e30, 1e30)}, "expected a plausible length"),
        ({"scale": (np.nan,) * 3}, "expected a plausible length"),
        ({"origin": (0.0, np.nan, 0.0)}, "expected a plausible place"),
        ({"extra_flags": 32}, "copies of their neighbours"),
    ],
)
def test_what_no_snapshot_has(tmp_path, change, message):
    path = write_genericio(tmp_path / "m000.50", in_ranks(positions(), BOUNDS), **change)
    with pytest.raises(SnapshotError, match=message):
        open_snapshot(path, OPTIONS)


def test_files_that_are_not_of_particles(tmp_path):
    halos = [{"fof_halo_mass": np.ones(5, "f4"), "x": np.ones(5, "f4")}]
    path = write_genericio(tmp_path / "halos", halos)
    with pytest.raises(SnapshotError, match=r"fof_halo_mass, x, expected one float variable .* y"):
        open_snapshot(path, OPTIONS)
    mixed = [{"x": np.ones(5, "f4"), "y": np.ones(5, "f4"), "z": np.ones(5, "f8")}]
    path = write_genericio(tmp_path / "mixed", mixed)
    with pytest.raises(SnapshotError, match="differ in type"):
        open_snapshot(path, OPTIONS)
    whole = [{name: np.ones(5, "i4") for name in "xyz"}]
    path = write_genericio(tmp_path / "whole", whole)
    with pytest.raises(SnapshotError, match="expected one float variable"):
        open_snapshot(path, OPTIONS)


def test_no_masses(path):
    with pytest.raises(SnapshotError, match="genericio gives no masses"):
        next(open_snapshot(path, OPTIONS).iter_weighted())


# --- snapshots in several files -------------------------------------------------------------


def write_split(folder: Path, numbers: tuple[int, ...] = (0, 1, 2), **style: object) -> list[Path]:
    """A map and its parts, as GenericIO writes with partitions: two ranks in each."""
    ranks = in_ranks(positions(), [80, 200, 210, 300, 450])
    partition = np.repeat(np.array(numbers, "i4"), 2)
    base = folder / "m000.50"
    map_rank = {"$rank": np.arange(6, dtype="i4"), "$partition": partition}
    paths = [write_genericio(base, [map_rank], **style)]
    for i, number in enumerate(numbers):
        part = ranks[2 * i : 2 * i + 2]
        paths.append(write_genericio(folder / f"m000.50#{number}", part, **style))
    return paths


@pytest.mark.parametrize("style", [{}, {"blosc": True}, {"byte_order": ">"}])
def test_split_snapshot(tmp_path, style):
    paths = write_split(tmp_path, **style)
    for given_path in paths:
        snapshot = open_snapshot(given_path, OPTIONS)
        assert snapshot.header.files == tuple(paths)
        assert read_all(snapshot).tobytes() == positions().tobytes()
    assert find_snapshots(tmp_path) == [tuple(paths)]
    assert find_snapshots(tmp_path, "*#1") == [tuple(paths)]


def test_split_snapshot_with_gaps_in_its_numbers(tmp_path):
    paths = write_split(tmp_path, (3, 10, 7))
    ordered = [paths[0], paths[1], paths[3], paths[2]]
    assert open_snapshot(paths[0], OPTIONS).header.files == tuple(ordered)


def test_split_snapshot_that_lacks_a_part(tmp_path):
    paths = write_split(tmp_path)
    paths[2].unlink()
    with pytest.raises(SnapshotError, match=r"lists 3 parts, found 2: m000\.50#1 missing"):
        open_snapshot(paths[0], OPTIONS)
    with pytest.raises(SnapshotError, match=r"lists 2 ranks in m000\.50#1, found 0"):
        open_snapshot([paths[0], paths[1], paths[3]], OPTIONS)
    with pytest.raises(SnapshotError, match="0 files of particles and 2 lists of parts"):
        open_snapshot([paths[0], paths[0]], OPTIONS)
    paths[0].unlink()
    with pytest.raises(SnapshotError, match=r"expected beside it m000\.50, which lists"):
        open_snapshot(paths[1], OPTIONS)
    with pytest.raises(SnapshotError, match="2 files of particles and 0 lists"):
        open_snapshot([paths[1], paths[3]], OPTIONS)


def test_split_snapshot_of_other_ranks(tmp_path):
    paths = write_split(tmp_path)
    write_genericio(paths[2], in_ranks(positions(120), [50, 70]))
    with pytest.raises(SnapshotError, match=r"lists 2 ranks in m000\.50#1, found 3"):
        open_snapshot(paths[0], OPTIONS)
    write_genericio(paths[2], in_ranks(positions(120), [50]), scale=(90.0,) * 3)
    with pytest.raises(SnapshotError, match="parts of several snapshots are mixed"):
        open_snapshot(paths[0], OPTIONS)
    write_genericio(paths[0], in_ranks(positions(120), [50]))
    with pytest.raises(SnapshotError, match=r"expected the list of parts that m000\.50#1 is in"):
        open_snapshot(paths[2], OPTIONS)


# --- the real file --------------------------------------------------------------------------


def test_real_file_against_a_plain_reading(real):
    data = real.read_bytes()
    ranks = np.frombuffer(data, "<u8", 6 * 32, 0xA38).reshape(32, 6)
    expected = []
    for count, start in ranks[:, 3:5].tolist():
        columns = [np.frombuffer(data, "<f4", count, start + k * (4 * count + 8)) for k in range(3)]
        expected.append(np.stack(columns, 1))
    snapshot = open_snapshot(real, ReadOptions(redshift=0.0))
    found = read_all(snapshot, 500)
    assert found.dtype == np.float32
    assert found.tobytes() == np.concatenate(expected).tobytes()
    assert len(found) == snapshot.header.n_particles == 32768
    assert (snapshot.header.box_size, snapshot.header.length_unit) == (256.0, "Mpc/h")
    assert 0 <= found.min() < 1
    assert 255 < found.max() < 256


def test_all_checksums_of_the_real_file(real):
    """Also of the variables that are not read: the CRC is GenericIO's."""
    data = np.frombuffer(real.read_bytes(), np.uint8)
    sizes = [4] * 7 + [8, 2]
    ranks = data[0xA38 : 0xA38 + 48 * 32].view("<u8").reshape(32, 6)
    checked = 0
    for count, first in ranks[:, 3:5].tolist():
        start = first
        for size in sizes:
            block = data[start : start + count * size].copy()
            check = data[start + count * size :][:8]
            assert crc64(block) ^ (2**64 - 1) == int.from_bytes(check.tobytes(), "little")
            start += count * size + 8
            checked += 1
    assert checked == 288


def test_real_file_asks_for_a_redshift(real):
    assert sniff(real).name == "genericio"
    with pytest.raises(SnapshotError, match=r"give input\.redshift in the recipe"):
        open_snapshot(real)


@pytest.mark.parametrize("size", [7, 100, 4000, 4160, 50_000, 1_251_647])
def test_truncated_real_file(real, tmp_path, size):
    path = tmp_path / real.name
    path.write_bytes(real.read_bytes()[:size])
    assert outcome(path, with_options(OPTIONS, format="genericio"))


@pytest.mark.parametrize("at", [5000, 8788 + 2, 1_240_000 // 2])
def test_one_bit_flipped_in_the_real_file(real, tmp_path, at):
    path = tmp_path / real.name
    data = bytearray(real.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    message = outcome(path, OPTIONS)
    ranks = np.frombuffer(bytes(data), "<u8", 6 * 32, 0xA38).reshape(32, 6)
    rank = int(np.searchsorted(ranks[:, 4], at, side="right")) - 1
    in_coordinates = at < int(ranks[rank, 4]) + 3 * (4 * int(ranks[rank, 3]) + 8)
    assert (message is not None and "CRC-64" in message) == in_coordinates


# --- damaged files --------------------------------------------------------------------------


@pytest.mark.parametrize("style", [{}, {"byte_order": ">"}, {"blosc": True}])
def test_cut_at_any_offset(tmp_path, style):
    whole = write_genericio(tmp_path / "w", in_ranks(positions(40), (10, 25)), **style).read_bytes()
    path = tmp_path / "m000.50"
    options = with_options(OPTIONS, format="genericio")
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        message = outcome(path, options)
        assert message
        assert size < 8 or "truncated" in message


@pytest.mark.parametrize("style", [{}, {"blosc": True}])
def test_every_flipped_byte_of_what_is_read_is_found(tmp_path, style):
    """Of the header and of all coordinates, with their checksums."""
    ranks = [{name: rank[name] for name in "xyz"} for rank in in_ranks(positions(20), (10,))]
    path = write_genericio(tmp_path / "m000.50", ranks, **style)
    whole = path.read_bytes()
    options = with_options(OPTIONS, format="genericio")
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << (at % 8)
        path.write_bytes(data)
        assert outcome(path, options), at


def test_file_cut_after_it_was_opened(path):
    snapshot = open_snapshot(path, OPTIONS)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(SnapshotError, match=r"m000\.50: truncated"):
        list(snapshot.iter_positions())
    path.unlink()
    with pytest.raises(SnapshotError, match="cannot be read"):
        list(snapshot.iter_positions())


def test_compressed_by_something_else(tmp_path):
    path = write_genericio(tmp_path / "m000.50", in_ranks(positions(), BOUNDS), block_table=True)
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data, 8)
    (start,) = struct.unpack_from("<Q", data, 160)
    data[start : start + 4] = b"LZMA"
    data[length : length + 8] = check_bytes(bytes(data[:length]))
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match="compressed with 'LZMA', expected BLOSC or nothing"):
        open_snapshot(path, OPTIONS)


def test_a_compressed_block_of_zeros_is_no_bomb(tmp_path):
    """32 million numbers in some kilobytes: no positions compress like that."""
    pytest.importorskip("numcodecs")
    n = 32_000_000
    ranks = [{name: np.broadcast_to(np.float32(0), n) for name in "xyz"}]
    path = write_genericio(tmp_path / "m000.50", ranks, blosc=True)
    assert path.stat().st_size < 4_000_000
    assert "(compressed), expected 128000000 for 32000000 numbers" in outcome(path, OPTIONS)


# --- fuzzing --------------------------------------------------------------------------------

numbers = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2, 8, 48, 272, 168, 2**63, 2**32])
doubles = st.floats(width=64) | st.sampled_from([0.0, -1.0, 5e-324, 1e308])


def with_right_checksum(data: bytearray) -> bytes:
    """The header's checksum made right, where its length is inside of the file."""
    (length,) = struct.unpack_from("<Q", data, 8)
    if length + 8 <= len(data):
        data[length : length + 8] = check_bytes(bytes(data[:length]))
    return bytes(data)


@fuzz
@given(
    words=st.dictionaries(st.integers(1, 12) | st.integers(19, 20), numbers, min_size=1),
    physical=st.dictionaries(st.integers(13, 18), doubles),
    style=st.sampled_from(["plain", "table", "blosc"]),
)
def test_fuzzed_fields_of_the_global_header(tmp_path, words, physical, style):
    path, whole = tmp_path / "m000.50", tmp_path / f"whole.{style}"
    if not whole.exists():
        kinds = {"plain": {}, "table": {"block_table": True}, "blosc": {"blosc": True}}
        write_genericio(whole, in_ranks(positions(40), (10, 25)), **kinds[style])
    data = bytearray(whole.read_bytes())
    for word, value in words.items():
        struct.pack_into("<Q", data, 8 * word, value)
    for word, value in physical.items():
        struct.pack_into("<d", data, 8 * word, value)
    path.write_bytes(with_right_checksum(data))
    outcome(path, with_options(OPTIONS, format="genericio"))


@fuzz
@given(
    changes=st.dictionaries(st.integers(168 // 8, 2300 // 8), numbers, min_size=1, max_size=4),
    style=st.sampled_from(["plain", "table", "blosc"]),
)
def test_fuzzed_tables(tmp_path, changes, style):
    path, whole = tmp_path / "m000.50", tmp_path / f"whole.{style}"
    if not whole.exists():
        kinds = {"plain": {}, "table": {"block_table": True}, "blosc": {"blosc": True}}
        write_genericio(whole, in_ranks(positions(40), (10, 25)), **kinds[style])
    data = bytearray(whole.read_bytes())
    (length,) = struct.unpack_from("<Q", data, 8)
    for word, value in changes.items():
        if 8 * word + 8 <= length:
            struct.pack_into("<Q", data, 8 * word, value)
    path.write_bytes(with_right_checksum(data))
    outcome(path, with_options(OPTIONS, format="genericio"))


@fuzz
@given(
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(0, 3000),
)
def test_fuzzed_bytes(tmp_path, changes, cut):
    path, whole = tmp_path / "m000.50", tmp_path / "whole"
    if not whole.exists():
        write_genericio(whole, in_ranks(positions(40), (10, 25)))
    data = bytearray(whole.read_bytes())
    for where, value in changes:
        data[where % len(data)] = value
    path.write_bytes(data[:cut])
    outcome(path, with_options(OPTIONS, format="genericio"))


@fuzz
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_fuzzed_compressed_data_with_right_checksums(tmp_path, changes):
    """What reaches the decompressor is hostile; its checksum says nothing."""
    pytest.importorskip("numcodecs")
    path = tmp_path / "m000.50"
    ranks = [{name: positions(40)[:, k] for k, name in enumerate("xyz")}]
    data = bytearray(write_genericio(path, ranks, blosc=True).read_bytes())
    (table,) = struct.unpack_from("<Q", data, 160)
    start, size = struct.unpack_from("<2Q", data, table + 32)
    for where, value in changes:
        data[start + where % size] = value
    data[start + size : start + size + 8] = check_bytes(bytes(data[start : start + size]))
    path.write_bytes(data)
    outcome(path, with_options(OPTIONS, format="genericio"))
