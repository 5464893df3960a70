"""Positions of HDF5 data sets in every layout, equal to what h5py reads to the last bit."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SnapshotError
from pipeline.readers import hdf5_chunks, open_snapshot
from pipeline.readers.hdf5_chunks import iter_rows
from pipeline.readers.raw_positions import CHUNK_ROWS, RawPositions
from pipeline.readers.read_ahead import read_ahead
from tests.snapshots_made import random_positions, write_gadget_hdf5

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FACTORS = [1.0, 1e-3, 0.6774, 1e-60]


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both libraries that may decompress."""
    module = pytest.importorskip("isal.isal_zlib" if request.param == "isal" else "zlib")
    monkeypatch.setattr(hdf5_chunks, "_zlib", module)
    return str(request.param)


def written(path: Path, data: np.ndarray, **options: object) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=data, **options)


def read(path: Path, chunk_particles: int = 100, factor: float = 1.0) -> np.ndarray:
    with h5py.File(path) as file:
        pieces = [c.copy() for c in iter_rows(file["x"], chunk_particles, factor, path)]
    assert all(0 < len(piece) <= chunk_particles for piece in pieces)
    return np.concatenate(pieces)


def by_h5py(path: Path, factor: float = 1.0) -> np.ndarray:
    with h5py.File(path) as file:
        data = file["x"][...]
    data = data.astype(data.dtype.newbyteorder("="))
    with np.errstate(over="ignore", invalid="ignore"):
        return data if factor == 1.0 else data * factor


def same_bits(path: Path, chunk_particles: int = 100, factor: float = 1.0) -> None:
    found, expected = read(path, chunk_particles, factor), by_h5py(path, factor)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def fallbacks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the data sets that went through h5py."""
    used: list[str] = []
    original = hdf5_chunks._iter_h5py

    def noted(dset: h5py.Dataset, chunk_particles: int) -> Iterator[np.ndarray]:
        used.append(dset.name)
        return original(dset, chunk_particles)

    monkeypatch.setattr(hdf5_chunks, "_iter_h5py", noted)
    return used


@quick
@given(
    n=st.integers(1, 300),
    chunk=st.tuples(st.integers(1, 330), st.integers(1, 3)),
    level=st.none() | st.integers(0, 9),
    shuffle=st.booleans(),
    dtype=st.sampled_from(["<f4", "<f8", ">f4"]),
    chunk_particles=st.integers(1, 400),
    factor=st.sampled_from(FACTORS),
    compressible=st.booleans(),
    checksum=st.booleans(),
)
def test_any_chunks_are_h5pys_to_the_last_bit(
    tmp_path,
    library,
    n,
    chunk,
    level,
    shuffle,
    dtype,
    chunk_particles,
    factor,
    compressible,
    checksum,
):
    data = np.random.default_rng(n).normal(0, 1e4, (n, 3)).astype(dtype)
    if compressible:
        data = np.round(data, -3)
    data[0, 0] = np.nan
    options = {"chunks": (min(chunk[0], n), chunk[1]), "compression": level, "shuffle": shuffle}
    options["fletcher32"] = checksum
    path = tmp_path / "s.hdf5"
    written(path, data, **options)
    same_bits(path, chunk_particles, factor)


@pytest.mark.parametrize("resizable_to", [80, 250])
def test_a_data_set_that_grew_or_shrank(tmp_path, library, resizable_to):
    data = np.random.default_rng(0).uniform(0, 1, (200, 3)).astype("f4")
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        dset = file.create_dataset(
            "x", data=data, chunks=(64, 2), maxshape=(None, 3), compression=1, shuffle=True
        )
        dset.resize(resizable_to, axis=0)
        if resizable_to > 200:
            dset[200:] = 0.5
    same_bits(path)


@pytest.mark.parametrize("mask", [0, 1, 2, 3])
def test_chunks_that_leave_out_filters(tmp_path, library, mask):
    """Bit i of a chunk's filter mask: filter i was not applied to it."""
    import zlib

    values = np.random.default_rng(mask).uniform(0, 1, (64, 3)).astype("f4")
    raw = values.tobytes()
    if not mask & 1:
        raw = np.frombuffer(raw, "u1").reshape(-1, 4).T.tobytes()
    if not mask & 2:
        raw = zlib.compress(raw)
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        dset = file.create_dataset("x", (192, 3), "f4", chunks=(64, 3), compression=4, shuffle=True)
        dset[...] = 1.0
        dset.id.write_direct_chunk((64, 0), raw, mask)
    same_bits(path)
    assert read(path)[64:128].tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (64, 3), "compression": "lzf"},
        {"chunks": (64, 3), "scaleoffset": 2},
        {"chunks": (64, 3), "compression": 4, "dtype": ">f8"},
        {"dtype": ">f4"},
    ],
)
def test_what_h5py_has_to_read_is_read_by_it(tmp_path, monkeypatch, options):
    used = fallbacks(monkeypatch)
    data = np.random.default_rng(1).uniform(0, 100, (200, 3)).astype("f4")
    written(tmp_path / "s.hdf5", data, **options)
    same_bits(tmp_path / "s.hdf5", factor=1e-3)
    assert used == ["/x"]


def test_a_user_block_moves_offsets(tmp_path, monkeypatch):
    used = fallbacks(monkeypatch)
    for name, options in {"a": {}, "b": {"chunks": (64, 3), "compression": 4}}.items():
        path = tmp_path / name
        with h5py.File(path, "w", userblock_size=1024) as file:
            file.create_dataset("x", data=random_positions(200), **options)
        same_bits(path)
    assert used == ["/x", "/x"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (64, 3)},
        {"chunks": (64, 3), "compression": 1},
        {"chunks": (64, 3), "compression": 1, "fletcher32": True},
    ],
)
def test_what_needs_no_h5py_goes_without(tmp_path, monkeypatch, options):
    used = fallbacks(monkeypatch)
    written(tmp_path / "s.hdf5", random_positions(1000).astype("f4"), **options)
    same_bits(tmp_path / "s.hdf5")
    assert not used


def test_a_compact_data_set(tmp_path):
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((50, 3))
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, properties)
        file["x"][...] = random_positions(50)
    same_bits(path)


def test_more_than_one_chunk_of_raw_positions(tmp_path):
    n = 2 * CHUNK_ROWS + 17
    data = np.arange(3 * n, dtype=">f4").reshape(n, 3)
    path = tmp_path / "raw"
    path.write_bytes(b"header" + data.tobytes())
    for dtype, factor in ((">f4", 1.0), (">f4", 1e-3), ("<f4", 1.0)):
        stored = np.frombuffer(data.tobytes(), dtype).reshape(n, 3)
        expected = stored.astype("f4") if factor == 1.0 else stored.astype("f4") * factor
        pieces = RawPositions(path, 6, n, np.dtype(dtype), factor).chunks(10**9)
        assert np.concatenate([p.copy() for p in pieces]).tobytes() == expected.tobytes()


# --- damaged ------------------------------------------------------------------------------


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    [path] = write_gadget_hdf5(
        tmp_path / "snap.hdf5",
        random_positions(1000),
        dataset_options={"chunks": (100, 3), "compression": 4, "shuffle": True},
    )
    return path


def chunk_of(path: Path, number: int) -> tuple[int, int]:
    with h5py.File(path) as file:
        info = file["PartType1/Coordinates"].id.get_chunk_info(number)
        return info.byte_offset, info.size


def refusal(path: Path) -> str:
    with pytest.raises(SnapshotError) as caught:
        for _ in open_snapshot(path).iter_positions(250):
            pass
    return str(caught.value)


def test_every_changed_byte_of_a_chunk_is_found(compressed, library):
    """Deflate streams end with a checksum, so no flipped byte passes."""
    whole = compressed.read_bytes()
    offset, size = chunk_of(compressed, 3)
    for where in range(offset, offset + size, 7):
        data = bytearray(whole)
        data[where] ^= 0x10
        compressed.write_bytes(data)
        message = refusal(compressed)
        assert str(compressed) in message
        assert "chunk of row 300" in message


@pytest.mark.parametrize("content", [b"", b"x" * 1200, np.zeros(400, "f4").tobytes()])
def test_a_chunk_of_another_length(compressed, library, content):
    import zlib

    with h5py.File(compressed, "r+") as file:
        dset = file["PartType1/Coordinates"]
        dset.id.write_direct_chunk((500, 0), zlib.compress(content))
    if len(content) == 1200:  # the right length: numbers, if strange ones
        assert sum(len(c) for c in open_snapshot(compressed).iter_positions(100)) == 1000
        return
    assert "chunk of row 500" in refusal(compressed)


def test_a_chunk_that_inflates_without_end(compressed, library):
    """A bomb of 50 MB in 50 kB: refused after the bytes that a chunk has."""
    import zlib

    with h5py.File(compressed, "r+") as file:
        dset = file["PartType1/Coordinates"]
        dset.id.write_direct_chunk((500, 0), zlib.compress(bytes(50_000_000), 9))
    snapshot = open_snapshot(compressed)
    tracemalloc.start()
    with pytest.raises(SnapshotError, match=r"does not end after 1200 bytes|holds 1201 bytes"):
        list(snapshot.iter_positions(250))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_a_chunk_shorter_than_its_checksum_is_refused(tmp_path):
    """HDF5 itself may crash on a chunk of fewer than four bytes that has a checksum."""
    options = {"chunks": (100, 3), "compression": 4, "fletcher32": True}
    [path] = write_gadget_hdf5(
        tmp_path / "snap.hdf5", random_positions(1000), dataset_options=options
    )
    with h5py.File(path, "r+") as file:
        file["PartType1/Coordinates"].id.write_direct_chunk((500, 0), b"abc")
    assert "has a chunk of 3 bytes" in refusal(path)


@pytest.mark.parametrize("mask", [0, 4])
def test_a_wrong_checksum_is_found_unless_it_was_left_out(tmp_path, mask):
    data = np.random.default_rng(0).uniform(0, 1, (100, 3)).astype("f4")
    path = tmp_path / "s.hdf5"
    written(path, data, chunks=(100, 3), compression=4, shuffle=True, fletcher32=True)
    with h5py.File(path, "r+") as file:
        _, stored = file["x"].id.read_direct_chunk((0, 0))
        changed = stored[:-4] if mask else stored[:-1] + bytes([stored[-1] ^ 1])
        file["x"].id.write_direct_chunk((0, 0), changed, mask)
    if mask:
        assert read(path).tobytes() == data.tobytes()
    else:
        with pytest.raises(SnapshotError, match="has the checksum"):
            read(path)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 719, 720, 721, 9001, 100_000])
@pytest.mark.parametrize("value", [0, 255, None])
def test_the_checksum_is_hdf5s(tmp_path, n, value):
    from pipeline.readers.hdf5_filters import fletcher32

    data = np.random.default_rng(n).integers(0, 256, max(n, 1), "u1")
    if value is not None:
        data[:] = value
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        dset = file.create_dataset("x", data=data, chunks=data.shape, fletcher32=True)
        _, stored = dset.id.read_direct_chunk((0,))
    assert fletcher32(data) == int.from_bytes(stored[-4:], "little")


def test_a_missing_chunk_is_refused_not_filled(tmp_path):
    [path] = write_gadget_hdf5(tmp_path / "snap.hdf5", random_positions(1000))
    with h5py.File(path, "r+") as file:
        del file["PartType1/Coordinates"]
        dset = file["PartType1"].create_dataset(
            "Coordinates", (1000, 3), "f4", chunks=(100, 3), compression=4
        )
        dset[:900] = 1.0
    assert "9 of its 10 chunks" in refusal(path)


# --- read ahead ---------------------------------------------------------------------------


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("read-ahead")}


def test_an_error_in_a_thread_reaches_the_caller_and_no_thread_stays():
    def jobs(out: np.ndarray, begin: int) -> list[object]:
        def job() -> None:
            if begin >= 20:
                raise SnapshotError("broken")
            out[...] = begin

        return [job]

    seen = []
    with pytest.raises(SnapshotError, match="broken"):
        for chunk in read_ahead(100, 10, np.dtype("f4"), jobs):
            seen.append(chunk[0, 0])
    assert seen == [0.0, 10.0]
    assert not threads()


def test_a_caller_that_stops_leaves_no_thread(compressed):
    chunks = open_snapshot(compressed).iter_positions(100)
    next(chunks)
    assert threads()
    chunks.close()
    assert not threads()


def test_one_chunk_ahead_and_no_more():
    begun: list[int] = []

    def jobs(out: np.ndarray, begin: int) -> list[object]:
        begun.append(begin)
        return [lambda: out.fill(begin)]

    for number, chunk in enumerate(read_ahead(100, 10, np.dtype("f8"), jobs)):
        assert (chunk == 10 * number).all()
        assert max(begun) <= 10 * (number + 1)
