"""Augmentation of whole cubes: the 48 symmetries of the cube and periodic shifts.

The physics is isotropic and a simulated box is periodic, so each of these
gives another universe of the same cosmology (SC18, Mathuriya et al. 2018).
Variant 0 is always the cube itself; the others follow from (seed, universe,
variant) alone.
"""

from __future__ import annotations

import itertools
import zlib

import numpy as np

SYMMETRIES: tuple[tuple[tuple[int, ...], tuple[bool, ...]], ...] = tuple(
    (permutation, flips)
    for permutation in itertools.permutations((0, 1, 2))
    for flips in itertools.product((False, True), repeat=3)
)
"""The 48 symmetries as (order of axes, axes reversed); number 0 changes nothing."""


def apply_symmetry(cube: np.ndarray, symmetry: int) -> np.ndarray:
    """View of ``cube`` ``(n, n, n, channels)`` under symmetry number 0 to 47."""
    permutation, flips = SYMMETRIES[symmetry]
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return cube.transpose(*permutation, 3)[steps]


def variant(
    cube: np.ndarray, seed: int, universe: str, number: int, shifts: bool = False
) -> np.ndarray:
    """Variant ``number`` of a universe's cube.

    Parameters
    ----------
    cube : numpy.ndarray
        ``(n_grid, n_grid, n_grid, channels)``; not changed.
    seed : int
        ``split.seed`` of the recipe.
    universe : str
        Id of the universe.
    number : int
        0 is the cube itself; the first 48 have different symmetries.
    shifts : bool
        Whether variants above 0 are also shifted periodically.
    """
    if number == 0:
        return cube
    rng = np.random.default_rng([seed, zlib.crc32(universe.encode())])
    order = 1 + rng.permutation(len(SYMMETRIES) - 1)
    offsets = rng.integers(0, cube.shape[0], size=(len(SYMMETRIES), 3))
    if shifts:
        cube = np.roll(cube, tuple(offsets[number]), axis=(0, 1, 2))
    return apply_symmetry(cube, int(order[(number - 1) % len(order)]))
