"""Units: comoving Mpc/h for lengths, 1e10 Msun/h for masses.

Snapshots are converted once, when they are read; nothing above the readers
knows another unit.
"""

from __future__ import annotations

from typing import Literal

LengthUnit = Literal["kpc/h", "Mpc/h", "kpc", "Mpc", "box"]
"""Comoving length units that a snapshot may be written in; ``box`` is the box side."""

Quantity = Literal["counts", "mass", "density"]
"""What cells hold: particles; mass in units of the mean particle mass; density over its mean."""

CM_PER_MPC = 3.0856775814913673e24
"""Centimetres in a megaparsec (IAU 2015 Resolution B2)."""

RHO_CRIT = 27.75366
"""Critical density today in 1e10 Msun/h per (Mpc/h)^3: 3 (100 km/s/Mpc)^2 / (8 pi G)."""


def length_in_mpc_h(unit: LengthUnit, h: float | None, box_size: float | None = None) -> float:
    """One ``unit`` of comoving length, in Mpc/h.

    Parameters
    ----------
    unit : LengthUnit
        The unit of the file.
    h : float or None
        Hubble parameter H_0 / (100 km/s/Mpc); needed for ``kpc`` and ``Mpc``.
    box_size : float or None
        Box side in Mpc/h; needed for ``box``.

    Raises
    ------
    ValueError
        If the value that the unit needs is missing.
    """
    if unit in ("kpc/h", "Mpc/h"):
        return 1e-3 if unit == "kpc/h" else 1.0
    if unit == "box":
        if box_size is None:
            raise ValueError("lengths in units of the box need the box size in Mpc/h")
        return box_size
    if h is None:
        raise ValueError(f"lengths in {unit} need h to become Mpc/h")
    return h * (1e-3 if unit == "kpc" else 1.0)


def mean_matter_density(Omega_m: float) -> float:
    """Mean comoving matter density, in 1e10 Msun/h per (Mpc/h)^3."""
    return Omega_m * RHO_CRIT
