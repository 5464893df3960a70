"""Particle masses as whole numbers of a mass unit, so that their sums do not depend on order.

The unit is a power of two, at most ``2^-28`` of the mean mass of a particle for
up to 2^32 particles and twice as much for every doubling beyond (all masses
together stay below 2^62).  A particle's mass is rounded to it once; from there
on every sum is exact.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.deposit.schemes import MOST_AMOUNT, UNIT_BITS

TOTAL_BITS = 62
"""All particles in one cell still fit an int64."""

_PLAUSIBLE_MEAN = (1e-100, 1e100)


def mass_unit(total_mass: float, n_particles: int) -> float:
    """Unit of mass for particles of that mass in all: a power of two.

    Parameters
    ----------
    total_mass : float
        Of all particles; the result is in the same unit.
    n_particles : int

    Raises
    ------
    ValueError
        If the mean mass is no plausible number.
    """
    mean = total_mass / max(n_particles, 1)
    if not _PLAUSIBLE_MEAN[0] < mean < _PLAUSIBLE_MEAN[1]:
        raise ValueError(f"the mean mass of a particle is {mean:g}, expected a positive number")
    bits = min(UNIT_BITS, TOTAL_BITS - 2 - n_particles.bit_length())
    _, exponent = math.frexp(mean)
    return math.ldexp(1.0, exponent - 1 - bits)


def bad_masses(masses: np.ndarray) -> np.ndarray:
    """``(n,)`` bool: where a mass is NaN, infinite or negative."""
    return ~((masses >= 0) & (masses < np.inf))


def quantise(masses: np.ndarray, unit: float) -> np.ndarray:
    """Masses as ``(n,)`` int64 numbers of ``unit``, rounded to the nearest.

    Parameters
    ----------
    masses : numpy.ndarray
        ``(n,)`` float64, none of :func:`bad_masses`.
    unit : float
        Of :func:`mass_unit`.

    Raises
    ------
    ValueError
        If they would not fit: one is millions of times heavier than the mean,
        or they are heavier in all than was said before.
    """
    numbers = np.rint(masses / unit)
    if numbers.max(initial=0.0) >= MOST_AMOUNT:
        raise ValueError(
            f"a particle of mass {masses.max():g} is too heavy beside the others: expected less "
            f"than {MOST_AMOUNT * unit:g}, some millions of the mean"
        )
    if float(numbers.sum()) >= 2.0**TOTAL_BITS:
        raise ValueError(f"masses of {float(masses.sum()):g} in all are more than was expected")
    return numbers.astype(np.int64)
