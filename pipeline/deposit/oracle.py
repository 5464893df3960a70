"""Mass assignment in plain float64 NumPy: slow, obvious, the oracle of the kernels' tests.

It is written from the windows' definition as functions of distance, not from
the kernels' polynomials in the fractional part.
"""

from __future__ import annotations

import itertools

import numpy as np


def window(scheme: str, s: np.ndarray) -> np.ndarray:
    """Window of a scheme at distance ``s >= 0`` in cells; see ``tile_kernels`` for the sources."""
    if scheme == "cic":
        return np.where(s < 1, 1 - s, 0.0)
    if scheme == "tsc":
        return np.where(s < 0.5, 0.75 - s**2, np.where(s < 1.5, 0.5 * (1.5 - s) ** 2, 0.0))
    inner, outer = (4 - 6 * s**2 + 3 * s**3) / 6, (2 - s) ** 3 / 6
    return np.where(s < 1, inner, np.where(s < 2, outer, 0.0))


def deposit_reference(
    positions: np.ndarray,
    n_grid: int,
    box_size: float,
    scheme: str,
    origin: str = "cell",
    *,
    masses: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Particles (or their masses) a cell, ``(n_grid, n_grid, n_grid)`` float64.

    Arguments as ``deposit``; ``masses`` has one number, or one a particle.
    """
    offset = -0.5 if origin == "cell" else 0.0
    t = np.asarray(positions, np.float64) * (n_grid / box_size) + offset
    grid = np.zeros((n_grid,) * 3)
    if scheme == "ngp":
        # one offset: half a cell down and up again would lose a tiny negative position
        t = np.asarray(positions, np.float64) * (n_grid / box_size) + (offset + 0.5)
        cells = np.floor(t).astype(np.int64) % n_grid
        np.add.at(grid, tuple(cells.T), masses)
        return grid
    for shift in itertools.product(range(-2, 4), repeat=3):
        cells = np.floor(t).astype(np.int64) + np.array(shift)
        mass = masses * window(scheme, np.abs(t - cells)).prod(axis=1)
        np.add.at(grid, tuple((cells % n_grid).T), mass)
    return grid
