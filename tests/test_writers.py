"""Shards, records and atomic files, against zarr, xarray and TensorFlow as readers."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DatasetError, OutputError
from pipeline.write.atomic import atomic_path, sweep_temporaries, write_atomically
from pipeline.write.tfrecord import decode_example, encode_records, most_bytes, read_records
from pipeline.write.zarr import DensityArray, encode_shard

MOST = most_bytes(4, 4 * 4 * 4 * 2 * 4)


def samples(n: int = 3, dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).poisson(2.0, (n, 4, 4, 4, 2)).astype(dtype)


def targets(n: int = 3) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (n, 4)).astype(np.float32)


@pytest.mark.parametrize("codec", ["fast", "small", "none"])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_shard_is_what_zarr_itself_reads(tmp_path: Path, codec: str, n: int) -> None:
    data = samples(n, "uint16")
    data[0] = 0  # an empty sample is stored, not left out
    raw = encode_shard(data, 4, codec)
    group = zarr.open_group(tmp_path / "b.zarr", mode="w")
    array = DensityArray(data.shape, "uint16", 4, codec).create(group)
    write_atomically(tmp_path / "b.zarr/density/c/0/0/0/0/0", raw)
    np.testing.assert_array_equal(array[...], data)
    assert encode_shard(data, 4, codec) == raw


@pytest.mark.parametrize("codec", ["fast", "small", "none"])
def test_no_flipped_bit_of_a_shard_goes_unseen_by_zarr(tmp_path: Path, codec: str) -> None:
    """The inner checksums find a changed byte where a plain codec would give other counts."""
    data = samples(2, "uint16")
    raw = encode_shard(data, 2, codec)
    array = DensityArray(data.shape, "uint16", 2, codec).create(
        zarr.open_group(tmp_path / "a.zarr", mode="w")
    )
    path = tmp_path / "a.zarr/density/c/0/0/0/0/0"
    silent = 0
    for position in range(0, len(raw), 3):
        changed = bytearray(raw)
        changed[position] ^= 1 << position % 8
        write_atomically(path, changed)
        try:
            same = np.array_equal(array[...], data)
        except (ValueError, RuntimeError, OSError):
            continue
        silent += not same
    assert silent == 0


def test_tensorflow_reads_the_records(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow", reason="needs the train extra")
    x, y = samples(), targets()
    path = tmp_path / "a.tfrecord"
    path.write_bytes(encode_records(x, y, compress=False).data)
    features = {
        "x": tf.io.FixedLenFeature([], tf.string),
        "y": tf.io.FixedLenFeature([4], tf.float32),
    }
    parsed = [tf.io.parse_single_example(r, features) for r in tf.data.TFRecordDataset(str(path))]
    decoded = [tf.reshape(tf.io.decode_raw(p["x"], tf.int16), (4, 4, 4, 2)).numpy() for p in parsed]
    np.testing.assert_array_equal(decoded, x)
    np.testing.assert_array_equal([p["y"].numpy() for p in parsed], y)
    tensorflows = tf.train.Example.FromString(
        next(iter(tf.data.TFRecordDataset(str(path)))).numpy()
    )
    assert sorted(tensorflows.features.feature) == ["x", "y"]


@given(n=st.integers(1, 4), dtype=st.sampled_from(["int16", "uint16", "float32"]))
@settings(deadline=None)
def test_records_round_trip(n: int, dtype: str) -> None:
    x, y = samples(n, dtype), targets(n)
    for compress in (False, True):
        encoded = encode_records(x, y, compress)
        raw = gzip.decompress(encoded.data) if compress else encoded.data
        for number, line in enumerate(encoded.index.decode().splitlines()):
            offset, length = map(int, line.split())
            (record,) = read_records(raw[offset : offset + length], False, "one", MOST)
            flat, target = decode_example(record, dtype, "one")
            np.testing.assert_array_equal(flat.reshape(x.shape[1:]), x[number])
            np.testing.assert_array_equal(target, y[number])
        assert len(list(read_records(encoded.data, compress, "all", MOST))) == n
        assert encode_records(x, y, compress).data == encoded.data


def test_every_cut_and_flip_of_a_record_is_found() -> None:
    raw = encode_records(samples(2), targets(2), False).data
    boundary = len(raw) // 2
    for length in range(1, len(raw)):
        if length == boundary:
            continue  # a whole record fewer: found by the manifest's count and size
        with pytest.raises(DatasetError, match=r"a\.tfrecord: record"):
            list(read_records(raw[:length], False, "a.tfrecord", MOST))
    for position in range(0, len(raw), 5):
        changed = bytearray(raw)
        changed[position] ^= 0x10
        with pytest.raises(DatasetError, match=r"a\.tfrecord: record"):
            list(read_records(bytes(changed), False, "a.tfrecord", MOST))


def test_a_gzip_bomb_is_refused_before_it_is_unpacked() -> None:
    """Many members, each of zeros, of which no more than the limit is held."""
    bomb = gzip.compress(bytes(1 << 20)) * 8
    most = most_bytes(2, 4 * 4 * 4 * 2 * 2)
    tracemalloc.start()
    with pytest.raises(DatasetError, match=f"a: unpacks to more than the {most} bytes"):
        list(read_records(bomb, True, "a", most))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    whole = encode_records(samples(2), targets(2), compress=True).data
    assert len(list(read_records(whole, True, "a", most))) == 2


@pytest.mark.parametrize("position", [0, 1, 20, 60, -8, -1])
def test_a_changed_gzip_file_is_refused(position: int) -> None:
    changed = bytearray(encode_records(samples(2), targets(2), compress=True).data)
    changed[position] ^= 0xFF
    with pytest.raises(DatasetError, match=r"^a: "):
        list(read_records(bytes(changed), True, "a", MOST))


@given(raw=st.binary(max_size=100))
def test_no_bytes_make_the_example_decoder_fail_otherwise(raw: bytes) -> None:
    try:
        x, y = decode_example(raw, "int16", "a")
    except DatasetError:
        return
    assert x.ndim == y.ndim == 1


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"


def test_kill_during_a_write_leaves_only_a_temporary(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from pipeline.write.atomic import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1]) / 'shard') as t:\n"
        "    t.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = tmp_path.iterdir()
    assert left.name != "shard"
    assert sweep_temporaries(tmp_path) == [left]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    """On /dev/full every write fails as on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with (
        pytest.raises(OutputError, match=r"shard: the disk is full.*--resume"),
        atomic_path(tmp_path / "shard") as temporary,
    ):
        temporary.symlink_to("/dev/full")
        with temporary.open("wb") as file:
            file.write(b"x" * 100)
    assert list(tmp_path.iterdir()) == []


def test_another_writers_temporary_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / f".a.{os.getpid() + 1}.tmp"
    other.write_bytes(b"theirs")
    write_atomically(tmp_path / "a", b"mine")
    assert other.read_bytes() == b"theirs"
