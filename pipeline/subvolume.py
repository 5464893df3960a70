"""Cutting a cube into sub-volumes: pure index arithmetic."""

from __future__ import annotations

import numpy as np


def subvolume_indices(subvolumes: int) -> np.ndarray:
    """``(subvolumes^3, 3)`` int32 places (ix, iy, iz); row ``k^2 ix + k iy + iz``."""
    return np.indices((subvolumes,) * 3).reshape(3, -1).T.astype(np.int32)


def split_cube(cube: np.ndarray, subvolumes: int) -> np.ndarray:
    """Sub-volumes of a cube.

    Parameters
    ----------
    cube : numpy.ndarray
        ``(n_grid, n_grid, n_grid, channels)``.
    subvolumes : int
        Sub-volumes a side, ``k``; divides ``n_grid``.

    Returns
    -------
    numpy.ndarray
        ``(k^3, n_grid/k, n_grid/k, n_grid/k, channels)``, sub-volume
        (ix, iy, iz) at index ``k^2 ix + k iy + iz``.

    Raises
    ------
    ValueError
        If ``subvolumes`` does not divide ``n_grid``.
    """
    n_grid, channels = cube.shape[0], cube.shape[3]
    if n_grid % subvolumes:
        raise ValueError(f"n_grid {n_grid} is not divisible by subvolumes {subvolumes}")
    side = n_grid // subvolumes
    blocks = cube.reshape(subvolumes, side, subvolumes, side, subvolumes, side, channels)
    return blocks.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, side, side, side, channels)


def join_subvolumes(samples: np.ndarray) -> np.ndarray:
    """Whole cube ``(n, n, n, channels)`` of all its sub-volumes: inverse of :func:`split_cube`."""
    k = round(samples.shape[0] ** (1 / 3))
    side, channels = samples.shape[1], samples.shape[4]
    blocks = samples.reshape(k, k, k, side, side, side, channels)
    return blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(k * side, k * side, k * side, channels)
