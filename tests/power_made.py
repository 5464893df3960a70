"""Particles with a known power spectrum, and that spectrum by sums over the particles."""

from __future__ import annotations

import numpy as np

from pipeline.deposit import assign, get_scheme
from pipeline.power_spectrum import (
    Estimator,
    PowerSpectrum,
    fourier_modes,
    interlace,
    power_of_modes,
)

BOX_SIZE = 100.0
FUNDAMENTAL = 2 * np.pi / BOX_SIZE


def clusters(
    n_clusters: int = 300, members: int = 30, sigma: float = 1.0, seed: int = 1
) -> np.ndarray:
    """Gaussian clusters at random places, ``(n_clusters * members, 3)`` float64 in the box."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, BOX_SIZE, (n_clusters, 1, 3))
    offsets = rng.normal(0, sigma, (n_clusters, members, 3))
    return np.mod(centres + offsets, BOX_SIZE).reshape(-1, 3)


def overdensity(
    positions: np.ndarray,
    n_grid: int,
    scheme: str,
    shift_cells: float = 0.0,
    origin: str = "cell",
) -> np.ndarray:
    """Overdensity of particles, ``(n_grid,) * 3`` float64."""
    grid = np.empty((n_grid,) * 3)
    assign([positions], grid, BOX_SIZE, get_scheme(scheme), origin=origin, shift=shift_cells)
    return grid * (grid.size / len(positions)) - 1.0


def measured(
    positions: np.ndarray,
    n_grid: int,
    scheme: str,
    edges: np.ndarray | None = None,
    *,
    interlaced: bool = False,
    origin: str = "cell",
    **estimator: bool,
) -> PowerSpectrum:
    """P(k) of particles by our own code."""
    modes = fourier_modes(overdensity(positions, n_grid, scheme, 0.0, origin))
    if interlaced:
        interlace(modes, fourier_modes(overdensity(positions, n_grid, scheme, 0.5, origin)))
    how = Estimator(get_scheme(scheme).support, interlaced=interlaced, **estimator)
    return power_of_modes(modes, BOX_SIZE, edges, how, len(positions))


def binned(power: np.ndarray, numbers: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Means of ``power`` over all modes of mode numbers ``numbers`` a side in bins of k."""
    squares = numbers[:, None, None] ** 2 + numbers[:, None] ** 2 + numbers**2
    k = FUNDAMENTAL * np.sqrt(squares)
    counts, _ = np.histogram(k, edges)
    return np.histogram(k, edges, weights=power)[0] / counts


def exact_power(positions: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """P(k) of point particles without any grid: |sum_j exp(-i k x_j)|^2 V / N^2, in bins."""
    highest = int(edges[-1] / FUNDAMENTAL)
    numbers = np.arange(-highest, highest + 1)
    x, y, z = (np.exp(-1j * FUNDAMENTAL * np.outer(numbers, axis)) for axis in positions.T)
    planes = [np.abs((along * y) @ z.T) ** 2 for along in x]
    return binned(np.stack(planes) * (BOX_SIZE**3 / len(positions) ** 2), numbers, edges)
