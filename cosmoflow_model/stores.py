"""How stored bytes become one sample: Zarr groups and TFRecord shards.

A store checks what it reads: a shard whose framing, checksum, shape or type is
not as the manifest says stops with the shard's name.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr

from pipeline.errors import DatasetError
from pipeline.manifest import Layout, Manifest, Shard, SplitName

Cube = npt.NDArray[Any]
Targets = npt.NDArray[np.float32]

_LENGTH = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_FRAMING_BYTES = _LENGTH.size + _CHECKSUM.size
_OPEN_GZIP_SHARDS = 4
_RECORD_SLACK = 4096
_BLOCK_BYTES = 1 << 22

MEND = (
    "run 'cosmoflow-prep verify DATASET' for all faults, then restore the files from a copy or "
    "build the data set again in another folder"
)
"""What to do about a published data set that is damaged: builds do not mend it."""


class SampleStore(Protocol):
    """Random access to the samples of one split."""

    def read(self, sample: int) -> tuple[Cube, Targets]:
        """Cube (x, y, z, channel) as stored, and its scaled targets (parameter,)."""
        ...


def open_store(root: Path, split: SplitName, manifest: Manifest) -> SampleStore:
    """Store of the split ``split`` of the data set in the folder ``root``."""
    layout, targets = manifest.layout, list(manifest.targets)
    if layout.format != "zarr":
        return TFRecordStore(root, layout, manifest.shards_of(split), len(targets))
    groups: list[tuple[int, SampleStore]] = []
    for part in manifest.parts_of(split):
        first, samples = part.first_sample[split], part.samples[split]
        own = range(first, first + samples)
        shards = [shard for shard in manifest.shards_of(split) if shard.first_sample in own]
        group = root / part.place(split, "zarr")
        groups.append((first, ZarrStore(root, group, layout, shards, targets)))
    return groups[0][1] if len(groups) == 1 else JoinedStore(groups)


class JoinedStore:
    """Samples of a split that was extended: one store a part, each numbered on its own."""

    def __init__(self, parts: Sequence[tuple[int, SampleStore]]) -> None:
        """Take (first sample, store) of each part, in order."""
        self._first = [first for first, _ in parts]
        self._stores = [store for _, store in parts]

    def read(self, sample: int) -> tuple[Cube, Targets]:
        """Cube and scaled targets of one sample."""
        place = bisect_right(self._first, sample) - 1
        return self._stores[place].read(sample - self._first[place])


class _Shards:
    """Finds the shard of a sample."""

    def __init__(self, root: Path, shards: Sequence[Shard]) -> None:
        self._root = root
        self._shards = shards
        self._first = [shard.first_sample for shard in shards]

    @property
    def first(self) -> int:
        """Number in its split of the first sample."""
        return self._first[0] if self._first else 0

    def of(self, sample: int) -> tuple[Shard, int]:
        """Shard that holds the sample, and the sample's place in it."""
        shard = self._shards[bisect_right(self._first, sample) - 1]
        return shard, sample - shard.first_sample

    def path(self, shard: Shard) -> Path:
        return self._root / shard.path


class ZarrStore:
    """Samples of a Zarr v3 group with arrays ``density`` and ``target``, numbered from 0."""

    def __init__(
        self,
        root: Path,
        group: Path,
        layout: Layout,
        shards: Sequence[Shard],
        targets: Sequence[str],
    ) -> None:
        self._shards = _Shards(root, shards)
        self._group = group
        samples = sum(shard.samples for shard in shards)
        self._density = self._open("density", (samples, *layout.sample_shape))
        if self._density.dtype != np.dtype(layout.dtype):
            raise DatasetError(
                f"{self._group}/density: type {self._density.dtype}, but the manifest says "
                f"{layout.dtype}; {MEND}"
            )
        self._target = self._read_targets(samples, targets)

    def _read_targets(self, samples: int, targets: Sequence[str]) -> npt.NDArray[np.float32]:
        """Targets (sample, parameter) in the order of ``targets``: columns go by name."""
        names = [str(name) for name in np.asarray(self._open("parameter", (len(targets),))[:])]
        if sorted(names) != sorted(targets):
            raise DatasetError(
                f"{self._group}/parameter: {', '.join(names)}, but the manifest says "
                f"{', '.join(targets)}; {MEND}"
            )
        stored = np.asarray(self._open("target", (samples, len(targets)))[:], np.float32)
        return stored[:, [names.index(name) for name in targets]]

    def _open(self, name: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
        path = self._group / name
        try:
            array = zarr.open_array(path, mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise DatasetError(f"{path}: no readable Zarr array ({error}); {MEND}") from error
        if array.shape != shape:
            raise DatasetError(
                f"{path}: shape {array.shape}, but the manifest says {shape}; {MEND}"
            )
        return array

    def read(self, sample: int) -> tuple[Cube, Targets]:
        """Cube and scaled targets of one sample."""
        try:
            cube = np.asarray(self._density[sample])
        except (OSError, ValueError, RuntimeError) as error:
            shard, _ = self._shards.of(sample + self._shards.first)
            raise _damaged(self._shards.path(shard), f"sample {sample}: {error}") from error
        return cube, self._target[sample]


class TFRecordStore:
    """Samples of TFRecord shards, by their indices or, compressed, a whole shard at a time."""

    def __init__(self, root: Path, layout: Layout, shards: Sequence[Shard], n_targets: int) -> None:
        self._shards = _Shards(root, shards)
        self._root = root
        self._layout = layout
        self._n_targets = n_targets
        self._offsets: dict[str, list[tuple[int, int]]] = {}
        self._unpacked: OrderedDict[str, list[bytes]] = OrderedDict()

    def read(self, sample: int) -> tuple[Cube, Targets]:
        """Cube and scaled targets of one sample."""
        shard, place = self._shards.of(sample)
        path = self._shards.path(shard)
        try:
            if self._layout.compression.lower() == "gzip":
                payload = self._from_gzip(shard, path)[place]
            else:
                payload = self._from_index(shard, path, place)
            return self._decode(payload)
        except (OSError, ValueError, IndexError, EOFError, struct.error, zlib.error) as error:
            raise _damaged(path, f"sample {sample}: {error}") from error

    def _from_index(self, shard: Shard, path: Path, place: int) -> bytes:
        if shard.path not in self._offsets:
            index = shard.index.path if shard.index else f"{shard.path}.idx"
            self._offsets[shard.path] = read_index(self._root / index, shard)
        offset, length = self._offsets[shard.path][place]
        with path.open("rb") as file:
            file.seek(offset)
            return unframe(file.read(length), 0)[0]

    def _from_gzip(self, shard: Shard, path: Path) -> list[bytes]:
        """All payloads of a shard: gzip has no random access, so a few shards stay unpacked."""
        if shard.path not in self._unpacked:
            sample_bytes = (
                math.prod(self._layout.sample_shape) * np.dtype(self._layout.dtype).itemsize
            )
            most = shard.samples * (sample_bytes + _FRAMING_BYTES + _RECORD_SLACK)
            raw = _unzipped(path, most)
            records, offset = [], 0
            while offset < len(raw):
                payload, offset = unframe(raw, offset)
                records.append(payload)
            if len(records) != shard.samples:
                raise ValueError(f"{len(records)} records, {shard.samples} expected")
            self._unpacked[shard.path] = records
            if len(self._unpacked) > _OPEN_GZIP_SHARDS:
                self._unpacked.popitem(last=False)
        self._unpacked.move_to_end(shard.path)
        return self._unpacked[shard.path]

    def _decode(self, payload: bytes) -> tuple[Cube, Targets]:
        features = _example_type().FromString(payload).features.feature
        dtype = np.dtype(self._layout.dtype).newbyteorder("<")
        cube = np.frombuffer(features["x"].bytes_list.value[0], dtype)
        target = np.array(features["y"].float_list.value, np.float32)
        if len(target) != self._n_targets:
            raise ValueError(f"{len(target)} targets, {self._n_targets} expected")
        return cube.reshape(self._layout.sample_shape), target


def read_index(path: Path, shard: Shard) -> list[tuple[int, int]]:
    """(offset, length) in bytes of each framed record of a shard, from its index file."""
    try:
        rows = [line.split() for line in path.read_text("ascii").splitlines()]
        entries = [(int(offset), int(length)) for offset, length in rows]
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if len(entries) != shard.samples:
        raise _damaged(path, f"{len(entries)} lines, {shard.samples} records expected")
    if any(offset < 0 or length < 0 or offset + length > shard.bytes for offset, length in entries):
        raise _damaged(path, f"points outside the {shard.bytes} bytes of {shard.path}")
    return entries


def unframe(raw: bytes, offset: int) -> tuple[bytes, int]:
    """Payload of the TFRecord at ``offset`` of ``raw``, and the offset after it.

    Raises
    ------
    ValueError
        If the record is cut off or a checksum does not match.
    """
    length, length_crc = _LENGTH.unpack_from(raw, offset)
    start = offset + _LENGTH.size
    end = start + length
    if masked_crc32c(raw[offset : offset + 8]) != length_crc:
        raise ValueError("the checksum of a record's length does not match")
    if end + _CHECKSUM.size > len(raw):
        raise ValueError(f"a record of {length} bytes is cut off")
    payload = raw[start:end]
    if masked_crc32c(payload) != _CHECKSUM.unpack_from(raw, end)[0]:
        raise ValueError("the checksum of a record does not match")
    return payload, end + _CHECKSUM.size


def _unzipped(path: Path, most: int) -> bytes:
    """Content of a gzip file, refused with a ValueError where it is more than ``most`` bytes."""
    pieces, left = [], most + 1
    with gzip.open(path) as file:
        while left and (piece := file.read(min(left, _BLOCK_BYTES))):
            pieces.append(piece)
            left -= len(piece)
    if not left:
        raise ValueError(f"unpacks to more than the {most} bytes that its records can have")
    return b"".join(pieces)


def masked_crc32c(data: bytes) -> int:
    """CRC32C of ``data``, rotated and offset as TFRecord masks it."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _example_type() -> Any:
    # here, so that Zarr data sets are read without TensorFlow
    from tensorflow.train import Example  # noqa: PLC0415

    return Example


def _damaged(path: Path, reason: str) -> DatasetError:
    return DatasetError(f"{path}: damaged ({reason}); {MEND}")
