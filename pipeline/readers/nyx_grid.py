"""Density grids that Nyx runs are converted to for Lyman-alpha work (``nyx-lyaf`` HDF5).

As Nyx's converter of plotfiles (``Util/convert3d-hdf5``, AMReX) writes them:
``native_fields/dark_matter_density`` and ``baryon_density`` (n, n, n), x
slowest, in units of their mean; ``domain`` has ``shape`` and ``size`` in
comoving Mpc/h, ``universe`` has redshift, omega_m, omega_b and hubble (h).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.hdf5_safe import float_dataset, hdf5_file, number, numbers, subgroup
from pipeline.readers.ready import block_places, grid_header
from pipeline.readers.registry import register
from pipeline.snapshot import (
    DENSITY_TOLERANCE,
    GridSnapshot,
    Place,
    ReadOptions,
    ReadyGrid,
    SnapshotHeader,
)

_FIELDS = {0: "baryon_density", 1: "dark_matter_density"}
_GROUPS = ("native_fields", "domain", "universe")
_PARAMETERS = {"omega_m": "Omega_m", "omega_b": "Omega_b", "hubble": "h"}
_MEAN_UNIT = "(mean)"


class NyxGridSnapshot(GridSnapshot):
    """The density of one particle type in an opened file."""

    def __init__(self, header: SnapshotHeader, field: str) -> None:
        super().__init__(header)
        self._field = field

    def iter_blocks(self) -> Iterator[tuple[Place, np.ndarray]]:
        """Density in units of its mean."""
        path, grid = self.header.files[0], self.header.grid
        with hdf5_file(path) as file:
            dset = _density(file, self._field, grid.n_grid if grid else 0, path)
            for place in block_places(dset.shape[0], dset.chunks, dset.dtype.itemsize):
                yield place, dset[place]


class NyxGridReader:
    """Reader of Nyx's density grids in HDF5."""

    name = "nyx_grid"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` is HDF5 with the groups native_fields, domain and universe."""
        try:
            if not h5py.is_hdf5(path):
                return False
            with hdf5_file(path) as file:
                return all(subgroup(file, name, path) is not None for name in _GROUPS)
        except (SnapshotError, OSError):
            return False

    def parts(self, path: Path) -> tuple[Path, ...]:
        """A file is a whole snapshot."""
        return (path,)

    def open(self, files: Sequence[Path], options: ReadOptions) -> NyxGridSnapshot:
        """Check shape, box and cosmology of the file and open one of its densities."""
        path = files[0]
        field = _field(path, options)
        with hdf5_file(path) as file:
            domain, universe = _group(file, "domain", path), _group(file, "universe", path)
            n_grid = _shape(domain, path)
            _density(file, field, n_grid, path)
            redshift = number(universe, "redshift", path)
            found = {ours: number(universe, theirs, path) for theirs, ours in _PARAMETERS.items()}
            box_size = number(domain, "size", path)
        if redshift is None and options.redshift is None:
            raise SnapshotError(f"{path}: has no redshift; give input.redshift in the recipe")
        parameters = {name: value for name, value in found.items() if value is not None}
        if "h" in parameters:
            parameters["H_0"] = 100 * parameters["h"]
        header = grid_header(
            path,
            self.name,
            # the mean is that of the whole box, and files can be cut-outs of it
            ReadyGrid(n_grid, "density", mean_tolerance=DENSITY_TOLERANCE),
            options,
            box_size=box_size,
            redshift=redshift or 0.0,
            parameters=parameters,
        )
        return NyxGridSnapshot(header, field)


register(NyxGridReader())


def _field(path: Path, options: ReadOptions) -> str:
    chosen = [t for t in _FIELDS if t in options.particle_types]
    if len(chosen) != 1:
        raise SnapshotError(
            f"{path}: holds the densities of gas and dark matter, each in units of its own mean, "
            f"but input.particle_types are {list(options.particle_types)}; choose gas or "
            "dark_matter"
        )
    return _FIELDS[chosen[0]]


def _group(file: h5py.File, name: str, path: Path) -> h5py.Group:
    group = subgroup(file, name, path)
    if group is None:
        raise SnapshotError(f"{path}: has no group {name}, expected one as Nyx's converter writes")
    return group


def _shape(domain: h5py.Group, path: Path) -> int:
    """Cells a side by the header."""
    shape = numbers(domain, "shape", path)
    if shape is None or shape.dtype.kind not in "iu" or len(shape) != 3 or len(set(shape)) != 1:
        raise SnapshotError(
            f"{path}: the shape of its domain is {None if shape is None else shape.tolist()}, "
            "expected three equal whole numbers: a cube"
        )
    return int(shape[0])


def _density(file: h5py.File, field: str, n_grid: int, path: Path) -> h5py.Dataset:
    dset = float_dataset(_group(file, "native_fields", path), field, (n_grid,) * 3, path)
    if dset is None:
        raise SnapshotError(f"{path}: has no native_fields/{field}, expected the density")
    unit = dset.attrs.get("units", _MEAN_UNIT)
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    if text.strip() != _MEAN_UNIT:
        raise SnapshotError(
            f"{path}: {field} is in {text!r}, expected {_MEAN_UNIT!r}; divide it by its mean"
        )
    return dset
