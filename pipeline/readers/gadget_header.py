"""What the parts of a Gadget-like snapshot say of themselves, checked and put together.

Binary and HDF5 files of this family have the same header in other clothes;
the readers fill :class:`PartHeader` and everything after that is common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SnapshotError
from pipeline.readers.length_unit import Evidence, choose_scale, mass_in_box
from pipeline.snapshot import ReadOptions, SnapshotHeader

WORD = 1 << 32
"""Particle counts are 32-bit words, their multiples of 2^32 in another array."""

_MAX_HIGH_WORD = 1 << 10
"""4e12 particles; larger high words are what was left in memory when the file was written."""

_BOX_RANGE = (1e-6, 1e6)
_BOX_KEYS = "input.length_unit or input.box_size"
_H_RANGE = (0.01, 10.0)
_OMEGA_RANGE = (1e-3, 10.0)
_SAME_TIME = 0.01
_SAME_HEADER = 1e-6


@dataclass(frozen=True)
class PartHeader:
    """Header of one file of a snapshot, as it is written.

    Attributes
    ----------
    path : Path
        The file.
    counts : tuple of int
        Particles in this file, for each type.
    totals : tuple of int
        Particles in all files, for each type, as this header has it.
    n_files : int
        Number of files of the snapshot.
    mass_table : tuple of float
        Mass of one particle of each type; 0 if each has its own.
    box_size : float
        Box side in the file's unit; 0 if not recorded.
    redshift, time : float or None
        Redshift and expansion factor.
    Omega_m, h : float or None
        Cosmology; None or 0 if not recorded.
    low_words_only : bool
        Whether ``totals`` are certain only modulo 2^32.
    unit_cm : float or None
        Unit of length in centimetres, if stated.
    unit_per_h : bool
        Whether ``unit_cm`` means cm/h.
    unit_mass : float
        Unit of mass in 1e10 Msun/h.
    """

    path: Path
    counts: tuple[int, ...]
    totals: tuple[int, ...]
    n_files: int
    mass_table: tuple[float, ...]
    box_size: float
    redshift: float | None
    time: float | None = None
    Omega_m: float | None = None
    h: float | None = None
    low_words_only: bool = False
    unit_cm: float | None = None
    unit_per_h: bool = True
    unit_mass: float = 1.0

    @property
    def n_particles(self) -> int:
        """Particles of all types in this file."""
        return sum(self.counts)


def with_high_words(low: Sequence[int], high: Sequence[int]) -> tuple[int, ...]:
    """64-bit counts from their two words; implausible high words are left out."""
    return tuple(
        word + WORD * (more if more < _MAX_HIGH_WORD else 0)
        for word, more in zip(low, high, strict=True)
    )


def selected_types(n_types: int, particle_types: Sequence[int]) -> tuple[int, ...]:
    """The chosen types that a file of ``n_types`` types can have, each once, ascending."""
    return tuple(t for t in range(n_types) if t in particle_types)


def table_mass(parts: Sequence[PartHeader], types: Sequence[int] | None = None) -> float | None:
    """Mass of all particles by the mass tables, 1e10 Msun/h.

    Parameters
    ----------
    parts : sequence of PartHeader
        All parts of a snapshot.
    types : sequence of int, optional
        Only these particle types.

    Returns
    -------
    float or None
        None if particles have their own masses.
    """
    total = 0.0
    for part in parts:
        for t, (count, mass) in enumerate(zip(part.counts, part.mass_table, strict=True)):
            if not count or (types is not None and t not in types):
                continue
            _check(part.path, "mass of a particle", mass, math.isfinite(mass) and mass >= 0)
            if mass == 0:
                return None
            total += count * mass * part.unit_mass
    return total


def check_complete(parts: Sequence[PartHeader]) -> None:
    """Refuse parts that are not exactly one whole snapshot.

    Raises
    ------
    SnapshotError
        If a part is missing, doubled or of another snapshot, or the particles
        do not add up to the total in the header; names expected and found counts.
    """
    first = parts[0]
    _check_number(parts)
    for part in parts[1:]:
        _check_same(first, part)
    for t, expected in enumerate(first.totals):
        found = sum(part.counts[t] for part in parts)
        if found == expected or (first.low_words_only and (found - expected) % WORD == 0):
            continue
        raise SnapshotError(
            f"{first.path}: expected {expected} particles of type {t} over {len(parts)} "
            f"{'part' if len(parts) == 1 else 'parts'}, found {found}; "
            "the header is damaged or parts of several snapshots are mixed: copy it again"
        )


def assemble(
    parts: Sequence[PartHeader],
    format: str,
    options: ReadOptions,
    mass: float | None,
    selected_mass: float | None = None,
) -> tuple[SnapshotHeader, float]:
    """One header for complete parts, in Mpc/h, with the recipe's overrides.

    Parameters
    ----------
    parts : sequence of PartHeader
        Headers that :func:`check_complete` accepted.
    format : str
        Name of the reader.
    options : ReadOptions
        Overrides.
    mass : float or None
        Mass of all particles in 1e10 Msun/h, if known.
    selected_mass : float or None
        Mass of those of the chosen types, if known.

    Returns
    -------
    header : SnapshotHeader
        With plausible box, redshift and cosmology.
    factor : float
        Unit of the files in Mpc/h, by which positions are to be multiplied.
    """
    first = parts[0]
    evidence = _evidence(first, options, mass)
    scale = choose_scale(evidence, options)
    box_size = options.box_size
    if box_size is None:
        box_size = first.box_size * scale.in_mpc_h
        _check(first.path, "box side in Mpc/h", box_size, _within(box_size, _BOX_RANGE), _BOX_KEYS)
    types = selected_types(len(first.counts), options.particle_types)
    total_mass = mass_in_box(evidence, scale, box_size)
    header = SnapshotHeader(
        files=tuple(part.path for part in parts),
        format=format,
        box_size=box_size,
        redshift=_redshift(first, options),
        n_particles=sum(part.counts[t] for part in parts for t in types),
        length_unit=scale.name,
        total_mass=total_mass,
        Omega_m=evidence.Omega_m,
        h=evidence.h,
        selected_mass=selected_mass and selected_mass * mass_factor(total_mass, mass),
    )
    return header, scale.in_mpc_h


def mass_factor(total_mass: float | None, mass: float | None) -> float:
    """One 1e10 Msun/h as the files have it, in 1e10 Msun/h: not 1 where they leave out the h.

    Parameters
    ----------
    total_mass : float or None
        Of all particles, as the header of :func:`assemble` has it.
    mass : float or None
        The same, as it was given to :func:`assemble`.
    """
    return total_mass / mass if total_mass and mass else 1.0


def _check(path: Path, what: str, value: float, plausible: bool, key: str | None = None) -> None:
    if not plausible:
        advice = f"give {key} in the recipe" if key else "the header is damaged or of another unit"
        raise SnapshotError(f"{path}: the {what} is {value:g}, expected a plausible one; {advice}")


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _check_number(parts: Sequence[PartHeader]) -> None:
    first = parts[0]
    if len({part.path.resolve() for part in parts}) < len(parts):
        raise SnapshotError(f"{first.path}: the same part is given twice; expected each once")
    if len(parts) != first.n_files:
        raise SnapshotError(
            f"{first.path}: expected {first.n_files} parts ({sum(first.totals)} particles), "
            f"found {len(parts)} ({sum(part.n_particles for part in parts)} particles); "
            "give all parts of one snapshot"
        )


def _check_same(first: PartHeader, part: PartHeader) -> None:
    pairs: dict[str, tuple[object, object]] = {
        "number of particle types": (len(first.counts), len(part.counts)),
        "number of parts": (first.n_files, part.n_files),
        "total particle counts": (_certain_totals(first), _certain_totals(part)),
    }
    numbers = {
        "box size": (first.box_size, part.box_size),
        "redshift": (first.redshift, part.redshift),
    }
    pairs |= {what: pair for what, pair in numbers.items() if not _same_number(*pair)}
    for what, (expected, found) in pairs.items():
        if expected != found:
            raise SnapshotError(
                f"{part.path}: its {what} is {found}, expected {expected} as in {first.path.name}; "
                "parts of several snapshots are mixed, or this one is damaged"
            )


def _certain_totals(part: PartHeader) -> tuple[int, ...]:
    return tuple(total % WORD for total in part.totals) if part.low_words_only else part.totals


def _same_number(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    if math.isnan(a) and math.isnan(b):
        return True  # refused later, by what it is
    return math.isclose(a, b, rel_tol=_SAME_HEADER, abs_tol=_SAME_HEADER)


def _evidence(first: PartHeader, options: ReadOptions, mass: float | None) -> Evidence:
    h = _recorded(first.path, "h", first.h, options.h, _H_RANGE)
    Omega_m = _recorded(first.path, "Omega_m", first.Omega_m, options.Omega_m, _OMEGA_RANGE)
    if options.box_size is None and not (math.isfinite(first.box_size) and first.box_size > 0):
        raise SnapshotError(
            f"{first.path}: the header's box size is {first.box_size:g}, expected a positive "
            "length; give input.box_size (Mpc/h) in the recipe"
        )
    return Evidence(
        name=str(first.path),
        box=first.box_size if math.isfinite(first.box_size) else 0.0,
        mass=mass,
        Omega_m=Omega_m,
        h=h,
        stated_cm=first.unit_cm,
        stated_per_h=first.unit_per_h,
    )


def _recorded(
    path: Path,
    what: str,
    value: float | None,
    override: float | None,
    bounds: tuple[float, float],
) -> float | None:
    if override is not None:
        return override
    if not value:  # initial-condition generators leave 0
        return None
    _check(path, what, value, _within(value, bounds), f"input.{what}")
    return value


def _redshift(first: PartHeader, options: ReadOptions) -> float:
    if options.redshift is not None:
        return options.redshift
    a, redshift = first.time, first.redshift
    if redshift is None and a is not None and 0 < a <= 1:
        return 1 / a - 1
    if redshift is None:
        raise SnapshotError(
            f"{first.path}: the header records no redshift; give input.redshift in the recipe"
        )
    if a is not None and 0 < a <= 1 and abs((1 + redshift) * a - 1) > _SAME_TIME:
        raise SnapshotError(
            f"{first.path}: the header's redshift is {redshift:g}, but its expansion factor is "
            f"{a:g} (redshift {1 / a - 1:g}); give input.redshift in the recipe"
        )
    return redshift
