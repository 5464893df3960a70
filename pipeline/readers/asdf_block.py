"""The tree and the one binary block of a small ASDF file, without trusting either.

Reads what Abacus writes: a YAML tree, then a block that is stored plain or
compressed with ``blsc``, a run of Blosc frames of about 4 MiB, each after its
length in 4 bytes.  Only one frame is in memory at a time, and its size is
compared with the file's before it is decoded.

Source: ASDF standard 1.5, "Low-level file layout"
(https://asdf-standard.readthedocs.io/en/1.5.0/file_layout.html); ``blsc`` in
``abacusnbody/data/asdf.py`` of https://github.com/abacusorg/abacusutils; the
frame's header in ``README_CHUNK_FORMAT.rst`` of https://github.com/Blosc/c-blosc.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from pipeline.errors import SnapshotError

MAGIC = b"#ASDF "
_BLOCK_MAGIC = b"\xd3BLK"
_END_OF_TREE = (b"\n...\n", b"\n...\r\n")
_MAX_TREE_BYTES = 1 << 20
_BLOCK_HEADER = struct.Struct(">I4sQQQ16s")
_STREAMED = 1
_PLAIN, _BLOSC = b"\0\0\0\0", b"blsc"
_FRAME = struct.Struct("<4B3I")
_MAX_FRAME = 64 << 20
_COMPRESSION = 64
_ROOM = 1 << 20
"""Packed particles hardly compress, but the room of a header behind them is zeros."""

_MAX_DEPTH = 32
_PIECE = 4 << 20


@dataclass(frozen=True)
class Block:
    """Where the data of a file are and how they are stored.

    Attributes
    ----------
    path : Path
        The file.
    start, stored : int
        Offset and number of the stored bytes.
    size : int
        Number of bytes once decompressed.
    compressed : bool
        Whether they are Blosc frames.
    checksum : bytes
        MD5 of the decompressed bytes; all zeros if not recorded.
    """

    path: Path
    start: int
    stored: int
    size: int
    compressed: bool
    checksum: bytes


def read_tree(path: Path) -> tuple[dict[str, Any], Block]:
    """Tree and first block of an ASDF file.

    Parameters
    ----------
    path : Path
        An ASDF file with at least one block.

    Returns
    -------
    tree : dict
        Plain data; tags are left out.
    block : Block
        Lies within the file.

    Raises
    ------
    SnapshotError
        If the file is truncated or is not of this kind.
    """
    try:
        with path.open("rb") as stream:
            text, start = _tree_text(stream, path)
            return _parse_tree(text, path), _block(stream, start, path)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror or error})") from error


def iter_block(block: Block) -> Iterator[bytes]:
    """Decompressed bytes of a block, in pieces of a few MiB.

    Raises
    ------
    SnapshotError
        If the file is truncated, a frame is damaged, or the checksum differs.
    """
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    try:
        with block.path.open("rb") as stream:
            stream.seek(block.start)
            for piece in (_frames if block.compressed else _pieces)(stream, block):
                size += len(piece)
                if size > block.size:
                    break
                digest.update(piece)
                yield piece
    except OSError as error:
        raise SnapshotError(f"{block.path}: cannot be read ({error.strerror or error})") from error
    if size != block.size:
        raise _damaged(block.path, f"its data are {size} bytes or more, expected {block.size}")
    if any(block.checksum) and digest.digest() != block.checksum:
        raise _damaged(
            block.path,
            f"the MD5 of its data is {digest.hexdigest()}, expected {block.checksum.hex()}",
        )


def _damaged(path: Path, what: str) -> SnapshotError:
    return SnapshotError(f"{path}: {what}; the file is damaged: copy it again")


def _exactly(stream: BinaryIO, n: int, path: Path) -> bytes:
    data = stream.read(n)
    if len(data) != n:
        raise SnapshotError(
            f"{path}: truncated: expected {n} bytes at byte {stream.tell() - len(data)}, "
            f"found {len(data)}; copy it again"
        )
    return data


def _tree_text(stream: BinaryIO, path: Path) -> tuple[bytes, int]:
    """YAML of the tree, and the offset after it."""
    head = stream.read(_MAX_TREE_BYTES)
    if not head.startswith(MAGIC):
        raise SnapshotError(f"{path}: begins with {head[:8]!r}, expected an ASDF file (#ASDF)")
    ends = [(head.find(end), len(end)) for end in _END_OF_TREE if end in head]
    if not ends:
        raise SnapshotError(
            f"{path}: its tree does not end within {len(head)} bytes, expected a line '...'; "
            "it is truncated or damaged: copy it again"
        )
    end, length = min(ends)
    return head[:end], end + length


def _parse_tree(text: bytes, path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml.parse(text, Loader=loader), path)
        tree = _plain(yaml.compose(text, Loader=loader))
    except (yaml.YAMLError, ValueError) as error:
        raise _damaged(path, f"its tree cannot be read as YAML ({error})") from error
    if not isinstance(tree, dict):
        raise _damaged(path, "its tree is no mapping, expected one")
    return tree


def _check_events(events: Iterator[yaml.Event], path: Path) -> None:
    """Refuse what makes a small text large or deep, before it is composed."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise _damaged(path, f"its tree has aliases or more than {_MAX_DEPTH} levels")


def _plain(node: yaml.Node | None) -> Any:
    """Dicts, lists and text of a YAML node, whatever its tags."""
    if isinstance(node, yaml.MappingNode):
        return {str(_plain(key)): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    return None if node is None else node.value


def _block(stream: BinaryIO, start: int, path: Path) -> Block:
    file_size = stream.seek(0, 2)
    stream.seek(start)
    found = stream.read(len(_BLOCK_MAGIC))
    if found != _BLOCK_MAGIC:
        raise _damaged(path, f"{found!r} follows its tree, expected a binary block")
    header_size = int.from_bytes(_exactly(stream, 2, path), "big")
    if header_size < _BLOCK_HEADER.size:
        raise _damaged(path, f"its block's header has {header_size} bytes, expected 48 or more")
    data_start = stream.tell() + header_size
    flags, kind, _, stored, size, checksum = _BLOCK_HEADER.unpack(
        _exactly(stream, _BLOCK_HEADER.size, path)
    )
    if kind not in (_PLAIN, _BLOSC) or flags & _STREAMED:
        raise SnapshotError(
            f"{path}: its block is stored as {kind!r} (flags {flags}), expected Blosc (b'blsc') or "
            "none; write it again with abacusutils"
        )
    if stored > file_size - data_start:
        raise SnapshotError(
            f"{path}: truncated: its block has {stored} bytes, found "
            f"{max(file_size - data_start, 0)}; copy it again"
        )
    if kind == _PLAIN and size != stored:
        raise _damaged(path, f"its plain block of {size} bytes takes {stored}, expected the same")
    most = _COMPRESSION * stored + _ROOM
    if size > most:
        raise _damaged(path, f"{stored} bytes of its block hold {size}, expected at most {most}")
    return Block(path, data_start, stored, size, kind == _BLOSC, checksum)


def _pieces(stream: BinaryIO, block: Block) -> Iterator[bytes]:
    for begin in range(0, block.stored, _PIECE):
        yield _exactly(stream, min(_PIECE, block.stored - begin), block.path)


def _frames(stream: BinaryIO, block: Block) -> Iterator[bytes]:
    # imported here: it takes longer than all of the readers
    from numcodecs.blosc import decompress  # noqa: PLC0415

    left = block.stored
    while left > 0:
        length = int.from_bytes(_exactly(stream, 4, block.path), "big")
        left -= 4 + length
        if left < 0 or not _FRAME.size <= length <= _MAX_FRAME:
            raise _damaged(
                block.path,
                f"a Blosc frame takes {length} bytes, expected {_FRAME.size} to "
                f"{min(_MAX_FRAME, left + length)}",
            )
        frame = _exactly(stream, length, block.path)
        _check_frame(frame, block)
        try:
            yield decompress(frame)
        except (RuntimeError, ValueError) as error:
            raise _damaged(block.path, f"a Blosc frame cannot be decoded ({error})") from error


def _check_frame(frame: bytes, block: Block) -> None:
    """The frame's own header, which Blosc believes, against its length."""
    *_, n_bytes, block_bytes, compressed_bytes = _FRAME.unpack_from(frame)
    if compressed_bytes != len(frame):
        raise _damaged(
            block.path, f"a Blosc frame says {compressed_bytes} bytes, expected {len(frame)}"
        )
    if n_bytes > min(_MAX_FRAME, block.size) or block_bytes > _MAX_FRAME:
        raise _damaged(
            block.path,
            f"a Blosc frame holds {n_bytes} bytes in blocks of {block_bytes}, expected at most "
            f"{min(_MAX_FRAME, block.size)}",
        )
