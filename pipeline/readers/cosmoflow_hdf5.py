"""Universes of the MLPerf HPC CosmoFlow data: cubes of particle counts in HDF5.

A file has the data sets ``full`` (n, n, n, channels) int16, channels last in
the order of ``redshifts``; ``physPar`` and ``namePar``, values and names of
the cosmological parameters; and ``unitPar``, the same scaled to [-1, 1].  They
were written by ``cosmoflow-sims`` (NERSC) and are read by ``prepare.py`` of
the MLPerf HPC reference (mlcommons/hpc, cosmoflow).  Boxes are
``int(512 H_0 / 70)`` Mpc/h.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.hdf5_safe import child, hdf5_file, integer_dataset
from pipeline.readers.ready import block_places, check_matter, grid_header
from pipeline.readers.registry import register
from pipeline.snapshot import GridSnapshot, Place, ReadOptions, ReadyGrid, SnapshotHeader

_BOX = 512.0
_BOX_H_0 = 70.0
_MAX_VALUES = 64
_OUR_NAMES = {"N_spec": "n_s", "n_spec": "n_s"}
"""Names of parameters that differ from those of this project."""


class CosmoflowHdf5Snapshot(GridSnapshot):
    """One redshift of an opened CosmoFlow file."""

    def __init__(self, headers: Sequence[SnapshotHeader], channel: int) -> None:
        super().__init__(headers[channel])
        self._headers = tuple(headers)
        self._channel = channel

    def epochs(self) -> tuple[CosmoflowHdf5Snapshot, ...]:
        """One snapshot for each redshift of the file."""
        return tuple(CosmoflowHdf5Snapshot(self._headers, c) for c in range(len(self._headers)))

    def iter_blocks(self) -> Iterator[tuple[Place, np.ndarray]]:
        """Counts of this redshift; the sums of all redshifts are compared at the end."""
        path = self.header.files[0]
        sums = np.zeros(len(self._headers), np.int64)
        with hdf5_file(path) as file:
            dset = _counts(file, path)
            chunks = None if dset.chunks is None else dset.chunks[:3]
            cell_bytes = dset.shape[3] * dset.dtype.itemsize
            for place in block_places(dset.shape[0], chunks, cell_bytes):
                block = dset[place]
                sums += block.sum(axis=(0, 1, 2), dtype=np.int64)
                yield place, block[..., self._channel]
        if (sums != sums[0]).any():
            raise SnapshotError(
                f"{path}: its redshifts hold {sums.tolist()} particles, expected the same number "
                "in each; the file is damaged, or particles were lost when it was made"
            )


class CosmoflowHdf5Reader:
    """Reader of the raw files of the MLPerf HPC CosmoFlow data."""

    name = "cosmoflow_hdf5"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` is HDF5 with the data sets full, physPar and redshifts."""
        try:
            if not h5py.is_hdf5(path):
                return False
            with hdf5_file(path) as file:
                return all(name in file for name in ("full", "physPar", "redshifts"))
        except (SnapshotError, OSError):
            return False

    def parts(self, path: Path) -> tuple[Path, ...]:
        """A file is a whole universe."""
        return (path,)

    def open(self, files: Sequence[Path], options: ReadOptions) -> CosmoflowHdf5Snapshot:
        """Check shapes and parameters of the file and open its first redshift."""
        path = files[0]
        check_matter(path, options)
        with hdf5_file(path) as file:
            dset = _counts(file, path)
            redshifts = _values(file, "redshifts", path)
            if len(redshifts) != dset.shape[3]:
                raise SnapshotError(
                    f"{path}: full has {dset.shape[3]} channels and there are {len(redshifts)} "
                    "redshifts, expected one for each; the file is damaged"
                )
            parameters = _parameters(file, path)
            n_grid = dset.shape[0]
        H_0 = parameters.get("H_0")
        headers = [
            grid_header(
                path,
                self.name,
                ReadyGrid(n_grid, "counts", channel),
                options,
                box_size=None if H_0 is None else float(int(_BOX * H_0 / _BOX_H_0)),
                redshift=redshift,
                parameters=parameters,
            )
            for channel, redshift in enumerate(redshifts)
        ]
        return CosmoflowHdf5Snapshot(headers, 0)


register(CosmoflowHdf5Reader())


def _counts(file: h5py.File, path: Path) -> h5py.Dataset:
    found = child(file, "full", path)
    shape: tuple[int, ...] = getattr(found, "shape", ())
    if len(shape) != 4 or len(set(shape[:3])) != 1 or not 1 <= shape[3] <= _MAX_VALUES:
        raise SnapshotError(
            f"{path}: full has the shape {shape}, expected (n, n, n, channels); "
            "it is not a file of the MLPerf CosmoFlow data"
        )
    dset = integer_dataset(file, "full", shape, path)
    if dset is None:
        raise SnapshotError(f"{path}: has no data set full, expected the counts")
    return dset


def _small(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """A one-dimensional data set of a few values that is stored in the file."""
    dset = child(file, name, path)
    if not isinstance(dset, h5py.Dataset) or len(dset.shape) != 1 or not dset.shape[0]:
        raise SnapshotError(f"{path}: has no list {name}, expected one as CosmoFlow files have it")
    if dset.shape[0] > _MAX_VALUES or dset.is_virtual or dset.external:
        raise SnapshotError(
            f"{path}: {name} has {dset.shape[0]} values or is stored elsewhere, expected at most "
            f"{_MAX_VALUES} in the file; it is damaged: copy it again"
        )
    return dset


def _values(file: h5py.File, name: str, path: Path) -> list[float]:
    dset = _small(file, name, path)
    values = [float(v) for v in dset[...]] if dset.dtype.kind in "iuf" else [math.nan]
    if not all(map(math.isfinite, values)):
        raise SnapshotError(f"{path}: {name} is {values}, expected finite numbers")
    return values


def _parameters(file: h5py.File, path: Path) -> dict[str, float]:
    values = _values(file, "physPar", path)
    dset = _small(file, "namePar", path)
    if dset.dtype.kind not in "SO":
        raise SnapshotError(f"{path}: namePar is {dset.dtype}, expected names")
    names = [n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in dset[...]]
    names = [_OUR_NAMES.get(name.strip(), name.strip()) for name in names]
    if len(names) != len(values) or len(set(names)) < len(names):
        raise SnapshotError(
            f"{path}: namePar names {names}, physPar has {len(values)} values; expected a name of "
            "its own for each"
        )
    parameters = dict(zip(names, values, strict=True))
    if "H_0" in parameters:
        parameters.setdefault("h", parameters["H_0"] / 100)
    return parameters
