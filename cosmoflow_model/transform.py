"""What is done to a sample on its way to the network: pure functions of arrays.

Random choices are drawn from (seed, epoch, sample), so that a sample of an
epoch looks the same on any rank, in any order and after any restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.manifest import unscale_target

Cube = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]

_PERMUTATIONS = tuple(permutations((0, 1, 2)))
SYMMETRIES = len(_PERMUTATIONS) * 8
"""Rotations and reflections that map a cube onto itself."""

_AUGMENTATION = 0x5EED  # keeps these draws apart from those of the order


@dataclass(frozen=True)
class Augmentation:
    """One random view of a sample: a symmetry, then a periodic shift in cells."""

    symmetry: int
    shift: tuple[int, int, int]


def draw_augmentation(
    seed: int, epoch: int, sample: int, sides: Sequence[int], periodic: bool
) -> Augmentation:
    """Uniform draw over the 48 symmetries and, for whole boxes, over all shifts.

    Parameters
    ----------
    seed, epoch, sample : int
        What the draw is a pure function of.
    sides : sequence of int
        Cells a side (x, y, z).
    periodic : bool
        Whether the sample is a whole periodic box; else the shift is 0.
    """
    rng = np.random.default_rng([_AUGMENTATION, seed, epoch, sample])
    symmetry = int(rng.integers(SYMMETRIES))
    if not periodic:
        return Augmentation(symmetry, (0, 0, 0))
    x, y, z = (int(rng.integers(side)) for side in sides)
    return Augmentation(symmetry, (x, y, z))


def apply_augmentation(cube: Cube, augmentation: Augmentation) -> Cube:
    """View or copy of ``cube`` (x, y, z, channel) under an augmentation."""
    turned = apply_symmetry(cube, augmentation.symmetry)
    if any(augmentation.shift):
        return np.roll(turned, augmentation.shift, axis=(0, 1, 2))
    return turned


def apply_symmetry(cube: Cube, symmetry: int) -> Cube:
    """View of a cube (x, y, z, channel) under one of the 48 symmetries; 0 is the identity.

    The symmetry is a permutation of the axes (``symmetry // 8``) and then a
    flip of each axis whose bit of ``symmetry % 8`` is set.
    """
    axes = _PERMUTATIONS[symmetry // 8]
    flips = tuple(slice(None, None, -1 if symmetry >> axis & 1 else 1) for axis in range(3))
    return cube.transpose(*axes, 3)[flips]


def log_counts(cube: Cube) -> npt.NDArray[np.float32]:
    """log(1 + particles a cell) in float32: the huge range of the counts, made even."""
    return np.log1p(cube.astype(np.float32))


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and variance of the network's input, one number a channel."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]


def channel_statistics(cubes: Iterable[Cube]) -> ChannelStatistics:
    """Statistics of log(1 + counts) over stored cubes (x, y, z, channel).

    A channel without any variance gets 1, so that it can be divided by.
    """
    moments = [_moments(log_counts(cube)) for cube in cubes]
    mean, square = np.mean(moments, axis=0)
    variance = square - mean**2
    variance[variance <= 0] = 1.0
    return ChannelStatistics(tuple(mean.tolist()), tuple(variance.tolist()))


def _moments(cube: Floats) -> npt.NDArray[np.float64]:
    """First and second moment of each channel, shape (2, channel)."""
    cells = cube.reshape(-1, cube.shape[-1]).astype(np.float64)
    return np.stack([cells.mean(axis=0), (cells**2).mean(axis=0)])


def unscale(scaled: Floats, ranges: Sequence[tuple[float, float]]) -> npt.NDArray[np.float64]:
    """Physical values of scaled targets (sample, parameter), by the parameters' ranges."""
    columns = np.asarray(scaled, np.float64).T
    physical = [unscale_target(c, *bounds) for c, bounds in zip(columns, ranges, strict=True)]
    return np.stack(physical, axis=-1)
