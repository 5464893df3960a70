"""Blocks and attributes of bigfile, the format of MP-Gadget and FastPM.

A block is a folder: ``header`` (text: type, numbers a row, number of files;
then for each file its rows, the sum of its bytes modulo 2^32, and that sum
folded to 16 bits as ``sum -s`` does) and the files ``000000``, ``000001``, ...
(six hexadecimal digits) of rows without anything else.  ``attr-v2`` has an
attribute a line: name, type, length, and the bytes in hexadecimal.

Source: ``src/bigfile.c`` of https://github.com/MP-Gadget/bigfile
(``_big_block_open``, ``big_block_flush``, ``attrset_read_attr_set_v2``, ``sysvsum``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError

HEADER_NAME = "header"
ATTRIBUTES_NAME = "attr-v2"

_MAX_TEXT = 16 << 20
_DTYPE = re.compile(r"[<>=|]?(?:[iu][1248]|f[248])")
_HEADER = re.compile(
    r"\s*DTYPE:\s*(\S+)\s+NMEMB:\s*(\d{1,9})\s+NFILE:\s*(\d{1,9})\b(.*)", re.DOTALL
)
_FILE = re.compile(r"([0-9A-Fa-f]{6,8}):\s*(\d{1,18})\s*:\s*(\d{1,10})\s*:\s*(\d{1,10})")
_WORD = 1 << 32


@dataclass(frozen=True)
class BlockFile:
    """One file of a block.

    Attributes
    ----------
    path : Path
        The file.
    rows : int
        Rows in it.
    checksum : int
        Sum of its bytes modulo 2^32; 0 if not recorded.
    """

    path: Path
    rows: int
    checksum: int


@dataclass(frozen=True)
class Block:
    """A table of numbers, spread over files.

    Attributes
    ----------
    folder : Path
        Where it is.
    dtype : numpy.dtype
        With its byte order.
    width : int
        Numbers a row.
    files : tuple of BlockFile
        In order; their sizes were compared with the header.
    """

    folder: Path
    dtype: np.dtype
    width: int
    files: tuple[BlockFile, ...]

    @property
    def rows(self) -> int:
        """Rows over all files."""
        return sum(file.rows for file in self.files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The header and all files."""
        return (self.folder / HEADER_NAME, *(file.path for file in self.files))


def read_attributes(path: Path) -> dict[str, np.ndarray]:
    """Numeric attributes of an ``attr-v2`` file, each ``(n,)``; texts are left out.

    Raises
    ------
    SnapshotError
        If a line is not an attribute.
    """
    found: dict[str, np.ndarray] = {}
    for line in _text(path).splitlines():
        if not line.strip():
            continue
        fields = line.split(maxsplit=4)
        try:
            name, kind, length, data = fields[0], fields[1], int(fields[2]), fields[3]
            if _DTYPE.fullmatch(kind):
                found[name] = _values(kind, length, data)
        except (IndexError, ValueError) as error:
            raise SnapshotError(
                f"{path}: has the line {line[:80]!r}, expected a name, type, length and that many "
                "numbers in hexadecimal; the file is damaged: copy it again"
            ) from error
    return found


def read_block(folder: Path) -> Block | None:
    """The block in ``folder``, None if there is none.

    Raises
    ------
    SnapshotError
        If its files are missing or have other sizes than its header says.
    """
    path = folder / HEADER_NAME
    if not path.is_file():
        return None
    match = _HEADER.fullmatch(_text(path))
    if match is None or not _DTYPE.fullmatch(match[1]):
        raise _damaged(path, "expected DTYPE (a number's type), NMEMB and NFILE")
    dtype, width, n_files = np.dtype(match[1]), int(match[2]), int(match[3])
    lines = [line for line in match[4].splitlines() if line.strip()]
    if len(lines) != n_files:
        raise _damaged(path, f"NFILE is {n_files}, but {len(lines)} files are listed")
    files = tuple(_file_line(line, i, path) for i, line in enumerate(lines))
    block = Block(folder, dtype, width, files)
    for file in files:
        _check_size(file, block)
    return block


def iter_rows(block: Block, most: int) -> Iterator[np.ndarray]:
    """A block's rows, ``most`` at a time whatever file they are in, native byte order.

    Parameters
    ----------
    block : Block
        As :func:`read_block` gives it.
    most : int
        Rows in every chunk but the last.

    Yields
    ------
    numpy.ndarray
        ``(n, width)``, valid until the next.

    Raises
    ------
    SnapshotError
        If a file is truncated or the sum of its bytes differs from the header's.
    """
    buffer = np.empty((min(most, block.rows), block.width), block.dtype)
    filled = 0
    for file in block.files:
        for rows in _file_rows(file, buffer, filled):
            filled += rows
            if filled == len(buffer):
                yield _native(buffer)
                filled = 0
    if filled:
        yield _native(buffer[:filled])


def _file_rows(file: BlockFile, buffer: np.ndarray, filled: int) -> Iterator[int]:
    """Fill ``buffer`` from ``filled`` on, again from its start when it is full; rows each time."""
    left, total = file.rows, 0
    try:
        with FileIO(file.path) as stream:
            while left:
                rows = min(left, len(buffer) - filled)
                target = buffer[filled : filled + rows].view(np.uint8).reshape(-1)
                _fill(stream, target, file.path)
                total += int(target.sum(dtype=np.uint32))  # wraps at 2^32, as the header's
                left -= rows
                filled = (filled + rows) % len(buffer)
                if not left:
                    _check_sum(file, total % _WORD)
                yield rows
    except OSError as error:
        raise SnapshotError(f"{file.path}: cannot be read ({error.strerror or error})") from error


def _fill(stream: FileIO, target: np.ndarray, path: Path) -> None:
    view = target.data
    filled = 0
    while filled < len(view):  # one read returns at most 2 GiB, less on some file systems
        n = stream.readinto(view[filled:])
        if not n:
            raise SnapshotError(
                f"{path}: truncated while it was read: expected {len(view)} more bytes, "
                f"found {filled}; it was complete when it was opened"
            )
        filled += n


def _check_sum(file: BlockFile, found: int) -> None:
    if file.checksum and found != file.checksum:
        raise SnapshotError(
            f"{file.path}: the sum of its bytes is {found}, expected {file.checksum} by its "
            "header; the file is damaged: copy it again"
        )


def _native(rows: np.ndarray) -> np.ndarray:
    if rows.dtype.isnative:
        return rows
    return rows.byteswap().view(rows.dtype.newbyteorder("="))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            data = stream.read(size) if size <= _MAX_TEXT else b""
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror or error})") from error
    if size > _MAX_TEXT:
        raise SnapshotError(
            f"{path}: has {size} bytes, expected a text of at most {_MAX_TEXT}; it is damaged"
        )
    return data.decode("latin-1")


def _values(kind: str, length: int, data: str) -> np.ndarray:
    """Numbers from hexadecimal; ValueError if they are not ``length``."""
    raw = bytes.fromhex(data) if length else b""
    values = np.frombuffer(raw, kind)
    if len(values) != length:
        raise ValueError(f"{len(values)} numbers")
    return values


def _file_line(line: str, i: int, path: Path) -> BlockFile:
    match = _FILE.fullmatch(line.strip())
    if match is None or int(match[1], 16) != i:
        raise _damaged(path, f"the line {line[:80]!r} is not of file {i:06X}")
    checksum = int(match[3])
    if checksum >= _WORD or _folded(checksum) != int(match[4]):
        raise _damaged(
            path,
            f"the checksums of file {i:06X} are {checksum} and {match[4]}, which do not agree",
        )
    return BlockFile(path.parent / f"{i:06X}", int(match[2]), checksum)


def _folded(checksum: int) -> int:
    """The 16-bit sum of System V's ``sum``."""
    r = (checksum & 0xFFFF) + (checksum >> 16)
    return (r & 0xFFFF) + (r >> 16)


def _check_size(file: BlockFile, block: Block) -> None:
    row_bytes = block.width * block.dtype.itemsize
    try:
        size = file.path.stat().st_size
    except OSError as error:
        raise SnapshotError(
            f"{file.path}: cannot be read ({error.strerror or error}), expected "
            f"{file.rows} rows by its header; copy the missing file"
        ) from error
    if size != file.rows * row_bytes:
        raise SnapshotError(
            f"{file.path}: has {size} bytes, expected {file.rows * row_bytes} by its header "
            f"({file.rows} rows of {row_bytes}); it is truncated or damaged: copy it again"
        )


def _damaged(path: Path, what: str) -> SnapshotError:
    return SnapshotError(f"{path}: {what}; the header is damaged: copy it again")
