"""Data sets of positions in any HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.hdf5_safe import child, float_dataset, hdf5_file, subgroup
from pipeline.readers.stored_array import StoredArray


class Hdf5Array(StoredArray):
    """A data set ``(n, 3)`` or ``(n,)``."""

    def __init__(self, path: Path, name: str) -> None:
        with hdf5_file(path) as file:
            dset = _dataset(file, name, path)
            chunks = dset.chunks
            super().__init__(path, name, dset.shape, dset.dtype, chunks[0] if chunks else 1)

    def pieces(self, rows: int) -> Iterator[np.ndarray]:
        """The numbers in order; see :meth:`StoredArray.pieces`."""
        buffer = np.empty((min(rows, self.rows), *self.shape[1:]), self.dtype.newbyteorder("="))
        with hdf5_file(self.path) as file:
            dset = _dataset(file, self.name, self.path)
            if (dset.shape, dset.dtype) != (self.shape, self.dtype):
                raise SnapshotError(f"{self}: changed while it was read; start again")
            for begin in range(0, self.rows, rows):
                n = min(rows, self.rows - begin)
                dset.read_direct(buffer, np.s_[begin : begin + n], np.s_[:n])
                yield buffer[:n]


def hdf5_names(path: Path) -> list[str]:
    """Names at the top of an HDF5 file, to show what there is."""
    with hdf5_file(path) as file:
        return list(file)


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    *groups, last = [part for part in name.split("/") if part] or [""]
    place: h5py.Group | None = file
    for group in groups:
        place = None if place is None else subgroup(place, group, path)
    found = child(place, last, path) if place is not None and last else None
    if found is None or place is None:
        raise SnapshotError(
            f"{path}: has no data set {name}, expected it by input.positions or input.masses; at "
            f"the top it has {', '.join(list(file)[:20]) or 'nothing'}"
        )
    if isinstance(found, h5py.Dataset) and found.shape[1:] not in ((), (3,)):
        raise SnapshotError(f"{path}: {name} has the shape {found.shape}, expected (n, 3) or (n,)")
    shape = found.shape if isinstance(found, h5py.Dataset) else ()
    checked = float_dataset(place, last, shape, path)
    if checked is None:
        raise SnapshotError(f"{path}: {name} vanished while it was read; start again")
    return checked
