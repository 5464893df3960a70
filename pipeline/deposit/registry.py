"""The table of mass assignment schemes and the one call that deposits a chunk.

Mass accumulates in integers: one particle is :data:`UNIT` (NGP: 1), so that
the sum does not depend on the order of chunks, threads or workers, and the
mass of a whole box is exact to the last unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.deposit import kernels

UNIT = kernels.UNIT
"""Fixed-point mass of one particle in the cloud schemes: 2^32."""

Kernel = Callable[[np.ndarray, np.ndarray, float, float], int]


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
    """

    name: str
    support: int
    unit: int
    kernel: Kernel


_schemes: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("ngp", 1, 1, kernels.ngp),
        Scheme("cic", 2, UNIT, kernels.cic),
        Scheme("tsc", 3, UNIT, kernels.tsc),
        Scheme("pcs", 4, UNIT, kernels.pcs),
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
    cells_per_length = grid.shape[0] / box_size
    offset = -0.5 if origin == "cell" else 0.0
    return int(scheme.kernel(positions, grid, cells_per_length, offset))
