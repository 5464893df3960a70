"""TFRecord shards without TensorFlow, as the MLPerf HPC CosmoFlow loader reads them.

A record is ``length: uint64, crc(length): uint32, data, crc(data): uint32``,
little endian, with the masked CRC32C of TensorFlow's ``record_writer``.  The
data is a ``tf.train.Example`` of two features: ``x``, one byte string with
the sample in C order, little endian, and ``y``, the scaled targets as floats.

The encoder writes the protocol buffer's wire format directly: an Example is
``features (1) { feature (1) { key (1), value (2) } }`` with a BytesList (1) or
FloatList (2) inside the value, see ``tensorflow/core/example/example.proto``.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import google_crc32c
import numpy as np

from pipeline.errors import DatasetError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAMING_BYTES = _HEADER.size + _FOOTER.size
"""Bytes that the framing adds to each record."""

RECORD_SLACK = 4096
"""Most bytes of a record beside its sample: targets, names and lengths of the Example."""

GZIP_LEVEL = 6
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class EncodedRecords:
    """A TFRecord file and its index.

    Attributes
    ----------
    data : bytes
        The file, compressed if asked.
    index : bytes
        Lines ``offset length`` of each framed record in the uncompressed stream,
        the index format of NVIDIA DALI.
    """

    data: bytes
    index: bytes


def encode_records(samples: np.ndarray, targets: np.ndarray, compress: bool) -> EncodedRecords:
    """One shard of samples.

    Parameters
    ----------
    samples : numpy.ndarray
        ``(n, x, y, z, channel)``, any type; written little endian.
    targets : numpy.ndarray
        ``(n, n_targets)`` float32, scaled.
    compress : bool
        Gzip the whole file, as the public CosmoFlow data are.
    """
    records = [
        _frame(_example(sample, target)) for sample, target in zip(samples, targets, strict=True)
    ]
    lengths = [len(record) for record in records]
    offsets = np.cumsum([0, *lengths[:-1]])
    index = "".join(f"{o} {n}\n" for o, n in zip(offsets, lengths, strict=True))
    data = b"".join(records)
    if compress:
        data = gzip.compress(data, GZIP_LEVEL, mtime=0)
    return EncodedRecords(data, index.encode())


def masked_crc(data: bytes) -> int:
    """TensorFlow's masked CRC32C (``tensorflow/core/lib/hash/crc32c.h``)."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, _FOOTER.pack(masked_crc(length)), data, _FOOTER.pack(masked_crc(data)))
    )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _feature(name: str, kind: int, values: bytes) -> bytes:
    """A map entry of ``Features``: name and a Feature with one list of ``kind``."""
    value = _field(kind, _field(1, values))
    return _field(1, _field(1, name.encode()) + _field(2, value))


def _example(sample: np.ndarray, target: np.ndarray) -> bytes:
    little = np.ascontiguousarray(sample, dtype=sample.dtype.newbyteorder("<"))
    x = _feature("x", 1, little.tobytes())
    y = _feature("y", 2, np.asarray(target, dtype="<f4").tobytes())
    return _field(1, x + y)


def most_bytes(samples: int, sample_bytes: int) -> int:
    """Most bytes that the records of so many samples have, not compressed."""
    return samples * (sample_bytes + FRAMING_BYTES + RECORD_SLACK)


def read_records(raw: bytes, compressed: bool, name: str, most: int) -> Iterator[bytes]:
    """Data of each record, both checksums checked.

    Parameters
    ----------
    raw : bytes
        The file.
    compressed : bool
        Whether it is a gzip file.
    name : str
        For messages.
    most : int
        Bytes that it may unpack to, see :func:`most_bytes`.

    Raises
    ------
    DatasetError
        If the file is cut, unpacks to more, or a checksum is wrong; names the file and record.
    """
    raw = _decompress(raw, name, most) if compressed else raw
    offset = number = 0
    while offset < len(raw):
        if offset + FRAMING_BYTES > len(raw):
            raise DatasetError(f"{name}: record {number} is cut in its header")
        length, length_crc = _HEADER.unpack_from(raw, offset)
        if masked_crc(raw[offset : offset + 8]) != length_crc:
            raise DatasetError(f"{name}: record {number} has a wrong length checksum")
        start = offset + _HEADER.size
        end = start + length
        if end + _FOOTER.size > len(raw):
            raise DatasetError(f"{name}: record {number} is cut")
        data = raw[start:end]
        if _FOOTER.unpack_from(raw, end)[0] != masked_crc(data):
            raise DatasetError(f"{name}: record {number} has a wrong data checksum")
        yield data
        offset, number = end + _FOOTER.size, number + 1


def _decompress(raw: bytes, name: str, most: int) -> bytes:
    pieces, left = [], most + 1
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            while left and (piece := file.read(min(left, _BLOCK_BYTES))):
                pieces.append(piece)
                left -= len(piece)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(f"{name}: not a whole gzip file: {error}") from error
    if not left:
        raise DatasetError(f"{name}: unpacks to more than the {most} bytes its records can have")
    return b"".join(pieces)


def decode_example(data: bytes, dtype: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Sample (flat, of ``dtype``) and targets of one record.

    Raises
    ------
    DatasetError
        If it is not an Example with the features x and y.
    """
    lists: dict[str, memoryview] = {}
    try:
        # a view: the sample is not copied at every level of the message
        for entry in _fields(_only(memoryview(data), 1), 1):
            value = _only(entry, 2)
            kind = 1 if bytes(value[:1]) == b"\x0a" else 2
            lists[bytes(_only(entry, 1)).decode()] = _only(_only(value, kind), 1)
        x = np.frombuffer(lists["x"], dtype=np.dtype(dtype).newbyteorder("<"))
        return x, np.frombuffer(lists["y"], dtype="<f4")
    except (KeyError, IndexError, ValueError) as error:
        raise DatasetError(f"{name}: not a record with features x and y: {error}") from error


def _only(message: memoryview, number: int) -> memoryview:
    return next(_fields(message, number), memoryview(b""))


def _fields(message: memoryview, number: int) -> Iterator[memoryview]:
    """Payloads of the length-delimited fields with that number."""
    offset = 0
    while offset < len(message):
        tag, offset = _read_varint(message, offset)
        if tag & 7 != 2:
            raise ValueError(f"wire type {tag & 7}, expected 2")
        length, offset = _read_varint(message, offset)
        if offset + length > len(message):
            raise ValueError("a field is cut")
        if tag >> 3 == number:
            yield message[offset : offset + length]
        offset += length


def _read_varint(message: memoryview, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[offset]
        value |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return value, offset
