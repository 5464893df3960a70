"""Augmentation of whole cubes: the 48 symmetries of the cube and periodic shifts.

The physics is isotropic and a simulated box is periodic, so each of these
gives another universe of the same cosmology (SC18, Mathuriya et al. 2018).
Variant 0 is always the cube itself; the others follow from (seed, universe,
variant) alone.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable

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
    symmetry, offsets = _drawn(cube.shape[0], seed, universe, number)
    if shifts:
        cube = np.roll(cube, offsets, axis=(0, 1, 2))
    return apply_symmetry(cube, symmetry)


def _drawn(n_grid: int, seed: int, universe: str, number: int) -> tuple[int, tuple[int, ...]]:
    """Symmetry, and cells to shift by along each axis, of a variant above 0."""
    rng = np.random.default_rng([seed, zlib.crc32(universe.encode())])
    order = 1 + rng.permutation(len(SYMMETRIES) - 1)
    offsets = rng.integers(0, n_grid, size=(len(SYMMETRIES), 3))
    return int(order[(number - 1) % len(order)]), tuple(offsets[number].tolist())


def variant_block(
    read: Callable[[tuple[int, ...]], np.ndarray],
    n_grid: int,
    first: tuple[int, int, int],
    side: int,
    *,
    seed: int,
    universe: str,
    number: int,
    shifts: bool = False,
) -> np.ndarray:
    """A block of a variant of a cube that is nowhere in memory as a whole.

    Parameters
    ----------
    read : callable
        ``read(first)`` is the block ``(side, side, side, channels)`` of the cube
        itself from cell ``first`` on, periodic.
    n_grid : int
        Cells a side of the cube.
    first : tuple of int
        First cell of the block in the variant; it does not reach over its end.
    side : int
        Cells a side of the block.
    seed, universe, number, shifts
        As of :func:`variant`.
    """
    if number == 0:
        return read(first)
    symmetry, offsets = _drawn(n_grid, seed, universe, number)
    permutation, flips = SYMMETRIES[symmetry]
    there = [0, 0, 0]
    for axis, start, flip in zip(permutation, first, flips, strict=True):
        there[axis] = n_grid - start - side if flip else start
    if shifts:
        there = [(start - offset) % n_grid for start, offset in zip(there, offsets, strict=True)]
    return apply_symmetry(read(tuple(there)), symmetry)
