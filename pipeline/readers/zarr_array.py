"""Zarr arrays of positions, of Zarr formats 2 and 3, in a folder."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.stored_array import StoredArray
from pipeline.readers.zarr_chunks import MAX_FILES, check_chunks
from pipeline.readers.zarr_layout import METADATA, read_layout


class ZarrArray(StoredArray):
    """An array ``(n, 3)`` or ``(n,)`` of a Zarr folder."""

    def __init__(self, root: Path, name: str) -> None:
        if any(part in ("", ".", "..") for part in name.split("/")) and name:
            raise SnapshotError(f"{root}: {name!r} is not the name of an array inside it")
        layout = read_layout(root / name)
        if layout.shape[1:] not in ((), (3,)) or not layout.shape:
            raise SnapshotError(
                f"{layout.folder}: has the shape {layout.shape}, expected (n, 3) or (n,)"
            )
        check_chunks(layout)
        super().__init__(layout.folder, "", layout.shape, layout.dtype, layout.chunk_shape[0])

    def pieces(self, rows: int) -> Iterator[np.ndarray]:
        """The numbers in order; see :meth:`StoredArray.pieces`."""
        import zarr  # noqa: PLC0415  (slow to import)

        dtype = self.dtype.newbyteorder("=")
        for begin in range(0, self.rows, rows):
            end = min(begin + rows, self.rows)
            try:
                array = zarr.open_array(self.path, mode="r")
                piece = np.array(array[begin:end], dtype, order="C")
            except (
                *(OSError, ValueError, TypeError, LookupError, RuntimeError, EOFError),
                *(OverflowError, AttributeError, AssertionError, MemoryError, SystemError),
                zlib.error,
            ) as error:
                raise SnapshotError(
                    f"{self}: cannot be decoded ({type(error).__name__}: {error}); it is damaged "
                    "or was changed: copy it again"
                ) from error
            if piece.shape != (end - begin, *self.shape[1:]):
                raise SnapshotError(f"{self}: changed while it was read; start again")
            yield piece


def zarr_root(path: Path) -> Path:
    """The outermost Zarr folder that ``path``, a file of one, is in."""
    folder = path.parent
    while any((folder.parent / name).is_file() for name in METADATA):
        folder = folder.parent
    return folder


def zarr_files(root: Path) -> tuple[Path, ...]:
    """All files of a Zarr folder: its metadata, then the others in order of their names.

    Raises
    ------
    SnapshotError
        If there are links, or too many files.
    """
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            if (Path(folder) / name).is_symlink():
                raise SnapshotError(
                    f"{Path(folder) / name}: is a link, expected all of a Zarr folder in itself; "
                    "copy what it leads to"
                )
        found += [Path(folder) / name for name in names]
        if len(found) > MAX_FILES:
            raise SnapshotError(
                f"{root}: more than {MAX_FILES} files, expected fewer for one snapshot; write it "
                "in larger chunks or in shards"
            )
    entry = next((root / name for name in METADATA if root / name in found), None)
    return tuple(sorted(found, key=lambda path: (path != entry, path)))


def zarr_names(root: Path) -> list[str]:
    """Names of the arrays and groups at the top of a Zarr folder, to show what there is."""
    return sorted(
        inside.name
        for inside in root.iterdir()
        if any((inside / name).is_file() for name in METADATA)
    )


def is_array(root: Path) -> bool:
    """Whether the folder itself is an array, not a group of arrays."""
    try:
        read_layout(root)
    except SnapshotError:
        return False
    return True
