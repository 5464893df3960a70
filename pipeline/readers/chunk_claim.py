"""How large a compressed chunk says that it is, before a decoder believes it.

Decoders allocate what the first bytes of a chunk ask for: blosc up to 2 GiB,
zstd anything.  (The formats: c-blosc README_CHUNK_FORMAT; RFC 8878, 3.1.1;
numcodecs for lz4, which puts the size before the block.)
"""

from __future__ import annotations

HEAD_BYTES = 18
"""The longest of the headers, zstd's."""

SIZED = ("blosc", "zstd", "lz4")
"""Codecs whose chunks begin with their size."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOSC_HEADER = 16
_DICTIONARY_BYTES = (0, 1, 2, 4)
_TWO_BYTE_OFFSET = 256


def claimed_bytes(codec: str, head: bytes) -> int | None:
    """Decoded bytes that the first bytes of a chunk tell, or None if they do not.

    Parameters
    ----------
    codec : str
        One of :data:`SIZED`.
    head : bytes
        The first :data:`HEAD_BYTES` of the chunk, or all if it has fewer.
    """
    if codec == "zstd":
        return _zstd(head)
    start, least = (4, _BLOSC_HEADER) if codec == "blosc" else (0, 4)
    return int.from_bytes(head[start : start + 4], "little") if len(head) >= least else None


def _zstd(head: bytes) -> int | None:
    """Frame_Content_Size of a zstd frame."""
    if len(head) < len(_ZSTD_MAGIC) + 2 or not head.startswith(_ZSTD_MAGIC):
        return None
    descriptor = head[4]
    single_segment = descriptor >> 5 & 1
    size = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single_segment) + _DICTIONARY_BYTES[descriptor & 3]
    field = head[start : start + size]
    if not size or len(field) < size:
        return None
    return int.from_bytes(field, "little") + (_TWO_BYTE_OFFSET if size == 2 else 0)
