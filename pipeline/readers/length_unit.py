"""Which length unit a snapshot is in: as the recipe says, as the file says, or as follows.

The mean density of matter is known from Omega_m, so the total mass tells how
large the box is, to within a few per cent; kpc and Mpc differ by 10^9 in
density and a forgotten 1/h by a factor 2 or 3.  Nothing is guessed beyond that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import SnapshotError
from pipeline.snapshot import DENSITY_TOLERANCE, ReadOptions
from pipeline.units import CM_PER_MPC, LengthUnit, length_in_mpc_h, mean_matter_density

_WITH_H: tuple[LengthUnit, ...] = ("kpc/h", "Mpc/h")
_WITHOUT_H: tuple[LengthUnit, ...] = ("kpc", "Mpc")
_SAME_LENGTH = 1e-3
"""Relative tolerance of a stated length: codes round the parsec and the box differently."""


@dataclass(frozen=True)
class LengthScale:
    """A length unit.

    Attributes
    ----------
    name : str
        As it is shown to the user.
    in_mpc_h : float
        One unit in comoving Mpc/h.
    """

    name: str
    in_mpc_h: float


@dataclass(frozen=True)
class Evidence:
    """What a snapshot says that bears on its length unit.

    Attributes
    ----------
    name : str
        The snapshot, to show in errors.
    box : float
        Box side in the file's unit; not positive if it is not recorded.
    mass : float or None
        Mass of all particles, 1e10 Msun/h (or 1e10 Msun, if lengths have no h).
    Omega_m, h : float or None
        Cosmology, from the recipe or the file.
    stated_cm : float or None
        The unit in centimetres, if the file states it.
    stated_per_h : bool
        Whether ``stated_cm`` means cm/h, as in all of Gadget's family.
    """

    name: str
    box: float
    mass: float | None
    Omega_m: float | None
    h: float | None
    stated_cm: float | None = None
    stated_per_h: bool = True


def choose_scale(evidence: Evidence, options: ReadOptions) -> LengthScale:
    """Length unit of a snapshot: of the recipe, else stated by the file, else inferred.

    Raises
    ------
    SnapshotError
        If nothing tells the unit; asks for ``input.length_unit``.
    """
    if options.length_unit == "box":
        _check_box_is_one(evidence)
    if options.length_unit is not None:
        return _scale(options.length_unit, evidence, options.box_size)
    if evidence.stated_cm is not None:
        return _stated_scale(evidence, evidence.stated_cm)
    return _inferred_scale(evidence, options)


def mass_in_box(evidence: Evidence, scale: LengthScale, box_size: float) -> float | None:
    """Total mass in 1e10 Msun/h, given the length unit.

    A code that writes lengths without 1/h may or may not write masses without
    it: the one nearer to the mean density of Omega_m is taken.  In units of the
    box there is no mass unit either.

    Parameters
    ----------
    evidence : Evidence
        The masses as the file has them.
    scale : LengthScale
        The unit chosen for lengths.
    box_size : float
        Box side in Mpc/h.
    """
    if evidence.mass is None or scale.name == "box":
        return None
    if scale.name not in _WITHOUT_H or evidence.h is None or not evidence.Omega_m:
        return evidence.mass
    expected = mean_matter_density(evidence.Omega_m)
    return min(
        (evidence.mass, evidence.mass * evidence.h),
        key=lambda mass: abs(_density(mass, box_size) / expected - 1),
    )


def _density(mass: float, box_size: float) -> float:
    return mass / box_size / box_size / box_size  # unlike box_size**3, never an OverflowError


def _check_box_is_one(evidence: Evidence) -> None:
    if evidence.box > 0 and not math.isclose(evidence.box, 1, rel_tol=_SAME_LENGTH):
        raise SnapshotError(
            f"{evidence.name}: the header's box size is {evidence.box:g}, expected 1 (or none) for "
            "input.length_unit: box; give the unit that positions are in"
        )


def _scale(unit: LengthUnit, evidence: Evidence, box_size: float | None = None) -> LengthScale:
    try:
        return LengthScale(unit, length_in_mpc_h(unit, evidence.h, box_size))
    except ValueError as error:
        key = "input.box_size (Mpc/h)" if unit == "box" else "input.h"
        raise SnapshotError(f"{evidence.name}: {error}; give {key} in the recipe") from error


def _stated_scale(evidence: Evidence, cm: float) -> LengthScale:
    if not (math.isfinite(cm) and cm > 0):
        raise SnapshotError(
            f"{evidence.name}: its unit of length is {cm:g} cm, expected a positive number; "
            "give input.length_unit in the recipe"
        )
    for unit in _WITH_H if evidence.stated_per_h else _WITHOUT_H:
        mpc = length_in_mpc_h(unit, h=1.0)
        if math.isclose(cm / CM_PER_MPC, mpc, rel_tol=_SAME_LENGTH):
            return _scale(unit, evidence)
    in_mpc_h = cm / CM_PER_MPC * (1 if evidence.stated_per_h else _scale("Mpc", evidence).in_mpc_h)
    return LengthScale(f"{cm:g} cm{'/h' if evidence.stated_per_h else ''}", in_mpc_h)


def _inferred_scale(evidence: Evidence, options: ReadOptions) -> LengthScale:
    agrees = _box_agrees if options.box_size is not None else _density_agrees
    for units in (_WITH_H, _WITHOUT_H if evidence.h is not None else ()):
        scales = [_scale(unit, evidence) for unit in units]
        matching = [scale for scale in scales if agrees(evidence, scale, options.box_size)]
        if len(matching) == 1:
            return matching[0]
    raise SnapshotError(
        f"{evidence.name}: the file does not state its unit of length, and "
        f"{_why_not_inferred(evidence, options)}; "
        "give input.length_unit (kpc/h, Mpc/h, kpc, Mpc or box) in the recipe"
    )


def _box_agrees(evidence: Evidence, scale: LengthScale, box_size: float | None) -> bool:
    return box_size is not None and math.isclose(
        evidence.box * scale.in_mpc_h, box_size, rel_tol=_SAME_LENGTH
    )


def _density_agrees(evidence: Evidence, scale: LengthScale, _: float | None) -> bool:
    box = evidence.box * scale.in_mpc_h
    if not (math.isfinite(box) and box > 0 and evidence.Omega_m):
        return False
    mass = mass_in_box(evidence, scale, box)
    expected = mean_matter_density(evidence.Omega_m)
    return mass is not None and abs(_density(mass, box) / expected - 1) <= DENSITY_TOLERANCE


def _why_not_inferred(evidence: Evidence, options: ReadOptions) -> str:
    if options.box_size is not None:
        return (
            f"the header's box size of {evidence.box:g} is not the {options.box_size:g} Mpc/h of "
            "input.box_size in any unit"
        )
    if evidence.mass is None:
        return "it cannot be inferred from the density, as the mass of its particles is not known"
    if not evidence.Omega_m:
        return "it cannot be inferred from the density, as Omega_m is not recorded (input.Omega_m)"
    return f"its density matches Omega_m = {evidence.Omega_m:g} in none of kpc/h, Mpc/h, kpc, Mpc"
