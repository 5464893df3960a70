"""The bytes of one GenericIO block in pieces, decompressed and with their CRC-64 checked."""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.crc64 import crc64
from pipeline.readers.genericio_header import CRC_BYTES, Block, check_crc
from pipeline.readers.raw_file import fill

_BLOSC_HEADER = 16
_ALWAYS_ALLOWED = 64 << 20
_COMPRESSION = 4
"""A compressed block is decoded as a whole, so its size bounds memory; particle positions
hardly compress, so that one of more than 64 MiB is not much larger than what is stored."""


def block_pieces(stream: FileIO, block: Block, rows: int, path: Path) -> Iterator[np.ndarray]:
    """The numbers of a block, ``rows`` at a time, as they are stored.

    Parameters
    ----------
    stream : FileIO
        The file; its position is moved.
    block : Block
        Where and what it is; :func:`check_block` accepts it.
    rows : int
        Numbers of a piece.
    path : Path
        The file, to show in errors.

    Yields
    ------
    numpy.ndarray
        ``(n,)`` numbers, which may be overwritten; valid until the next.

    Raises
    ------
    SnapshotError
        If a checksum is wrong; after the last piece if the block is not compressed.
    """
    if block.compressed:
        whole = _decompressed(stream, block, path)
        yield from (whole[i : i + rows] for i in range(0, block.count, rows))
        return
    buffer = np.empty(min(rows, block.count), block.dtype)
    crc = 0
    for begin in range(0, block.count, rows):
        piece = buffer[: min(rows, block.count - begin)]
        stream.seek(block.start + begin * block.dtype.itemsize)  # other columns are read in between
        fill(stream, piece, path)
        crc = crc64(piece, crc)
        yield piece
    check = np.empty(CRC_BYTES, np.uint8)
    stream.seek(block.start + block.stored)
    fill(stream, check, path)
    check_crc(crc, check, f"the block at byte {block.start}", path)


def check_block(block: Block, path: Path) -> None:
    """Compare the bytes of a block with its numbers, before anything is allocated for them.

    Raises
    ------
    SnapshotError
        If they do not go together.
    """
    if block.compressed:
        plausible = block.n_bytes <= max(_ALWAYS_ALLOWED, _COMPRESSION * block.stored)
        plausible = plausible and block.stored >= CRC_BYTES + _BLOSC_HEADER
    else:
        plausible = block.stored == block.n_bytes
    if not plausible:
        raise SnapshotError(
            f"{path}: the block at byte {block.start} has {block.stored} bytes"
            f"{' (compressed)' if block.compressed else ''}, expected {block.n_bytes} for "
            f"{block.count} numbers; the file is damaged: copy it again"
        )


def _decompressed(stream: FileIO, block: Block, path: Path) -> np.ndarray:
    """All numbers of a block that blosc compressed; before them is the CRC of what they were."""
    from numcodecs.blosc import decompress  # noqa: PLC0415  (only if compressed)

    what = f"the compressed block at byte {block.start}"
    data = np.empty(block.stored + CRC_BYTES, np.uint8)
    stream.seek(block.start)
    fill(stream, data, path)
    check_crc(crc64(data[:-CRC_BYTES]), data[-CRC_BYTES:], what, path)
    body = data[CRC_BYTES:-CRC_BYTES]
    found = int.from_bytes(body[4:8].tobytes(), "little")
    if found != block.n_bytes:
        raise SnapshotError(
            f"{path}: {what} says that it holds {found} bytes, expected {block.n_bytes} for "
            f"{block.count} numbers; the file is damaged: copy it again"
        )
    numbers = np.empty(block.count, block.dtype)
    try:
        decompress(body, numbers)
    except (RuntimeError, ValueError) as error:
        raise SnapshotError(
            f"{path}: {what} cannot be decompressed ({error}); copy it again"
        ) from error
    order: Literal["big", "little"] = "big" if block.dtype.byteorder == ">" else "little"
    original = int.from_bytes(data[:CRC_BYTES].tobytes(), order)
    if crc64(numbers) != original:
        raise SnapshotError(
            f"{path}: what was in {what} has the CRC-64 {crc64(numbers):016x}, expected "
            f"{original:016x}; the file is damaged: copy it again"
        )
    return numbers
