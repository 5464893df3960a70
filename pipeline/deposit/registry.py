"""The table of mass assignment schemes and the one call that deposits a chunk.

Mass accumulates in integers: one particle is :data:`UNIT` (NGP: 1), or where
particles have masses a number of mass units (``masses``), so that the sum does
not depend on the order of chunks, threads or workers, and the mass of a whole
box is exact to the last unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.deposit import kernels

UNIT = kernels.UNIT
"""Fixed-point mass of one particle in the cloud schemes: 2^32."""

Kernel = Callable[[np.ndarray, np.ndarray, float, float], int]
WeightedKernel = Callable[[np.ndarray, np.ndarray, np.ndarray, float, float], int]


@dataclass(frozen=True)
class Scheme:
    """One mass assignment scheme.

    Attributes
    ----------
    name : str
        Word for ``grid.scheme`` in a recipe.
    support : int
        Cells a side that one particle touches: 1, 2, 3, 4.
    unit : int
        Integer mass of one particle on the grid.
    kernel : callable
        ``kernel(positions, grid, cells_per_length, offset)`` adds the
        particles to the int64 grid and returns how many had a position that
        is not finite (those are not added).
    weighted_kernel : callable
        ``weighted_kernel(positions, amounts, grid, cells_per_length, offset)``,
        where each particle adds its int64 amount in place of ``unit``.
    """

    name: str
    support: int
    unit: int
    kernel: Kernel
    weighted_kernel: WeightedKernel


_schemes: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("ngp", 1, 1, kernels.ngp, kernels.ngp_weighted),
        Scheme("cic", 2, UNIT, kernels.cic, kernels.cic_weighted),
        Scheme("tsc", 3, UNIT, kernels.tsc, kernels.tsc_weighted),
        Scheme("pcs", 4, UNIT, kernels.pcs, kernels.pcs_weighted),
    )
}


def scheme_names() -> tuple[str, ...]:
    """Names of all schemes, by growing support."""
    return tuple(_schemes)


def get_scheme(name: str) -> Scheme:
    """Scheme of that name; KeyError if there is none."""
    return _schemes[name]


def new_grid(n_grid: int) -> np.ndarray:
    """Empty ``(n_grid, n_grid, n_grid)`` int64 grid."""
    return np.zeros((n_grid, n_grid, n_grid), dtype=np.int64)


def deposit(
    positions: np.ndarray, grid: np.ndarray, box_size: float, scheme: Scheme, origin: str = "cell"
) -> int:
    """Add particles to a periodic grid.

    Parameters
    ----------
    positions : numpy.ndarray
        ``(n_particles, 3)`` float32 or float64, in the unit of ``box_size``;
        any finite value, wrapped periodically.  Not changed.
    grid : numpy.ndarray
        ``(n_grid, n_grid, n_grid)`` int64, added to in place.
    box_size : float
        Side of the periodic box.
    scheme : Scheme
        From :func:`get_scheme`.
    origin : {'cell', 'node'}
        Whether grid point ``i`` is the centre of cell ``i``, at ``(i + 1/2) cell_size``
        (NGP is then a histogram with edges ``i cell_size``), or lies at ``i cell_size``.

    Returns
    -------
    int
        Number of particles left out because a coordinate is not finite.
    """
    return int(scheme.kernel(positions, grid, *_placing(grid, box_size, origin)))


def deposit_weighted(
    positions: np.ndarray,
    amounts: np.ndarray,
    grid: np.ndarray,
    box_size: float,
    scheme: Scheme,
    *,
    origin: str = "cell",
) -> int:
    """Add particles with amounts of their own to a periodic grid.

    Parameters
    ----------
    positions, grid, box_size, scheme, origin
        As for :func:`deposit`.
    amounts : numpy.ndarray
        ``(n_particles,)`` int64, none negative, below 2^62 in all.  Each
        particle adds exactly its amount; amounts of less than 4096 are
        rounded down in all cells but one.

    Returns
    -------
    int
        Number of particles left out because a coordinate is not finite.
    """
    placing = _placing(grid, box_size, origin)
    return int(scheme.weighted_kernel(positions, amounts, grid, *placing))


def _placing(grid: np.ndarray, box_size: float, origin: str) -> tuple[float, float]:
    """Cells a length, and the offset of the grid points in cells."""
    return grid.shape[0] / box_size, -0.5 if origin == "cell" else 0.0
