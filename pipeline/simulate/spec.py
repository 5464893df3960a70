"""What an ensemble of universes is: one frozen, validated description."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import SimulationError

DESIGNS = ("sobol", "latin-hypercube")

QUIJOTE_RANGES: Mapping[str, tuple[float, float]] = {
    "Omega_m": (0.1, 0.5),
    "sigma_8": (0.6, 1.0),
    "n_s": (0.8, 1.2),
}
"""Ranges of the Quijote Latin hypercube (Villaescusa-Navarro et al. 2020, ApJS 250, 2)."""

A_START = 1 / 16
"""Scale factor at which second-order Lagrangian perturbation theory hands over to the mesh."""


@dataclass(frozen=True)
class EnsembleSpec:
    """An ensemble of universes: cosmologies, boxes and outputs.

    The universes' bytes are a pure function of the specification (and of the
    versions of PM++ and JAX), never of how many processes make them.

    Attributes
    ----------
    n_universes : int
        Number of universes.
    ranges : mapping of str to (float, float)
        Lowest and highest ``Omega_m``, ``sigma_8`` and ``n_s``; equal ends
        hold a parameter fixed.
    h : float
        Hubble parameter H_0 / (100 km/s/Mpc) of every universe.
    Omega_b : float
        Baryon density of every universe (in the transfer function only: all
        particles are collisionless).
    design : str
        ``sobol`` (scrambled; universe i does not depend on ``n_universes``)
        or ``latin-hypercube``.
    seed : int
        Seeds the design and, through it, each universe's initial phases.
    box_size : float
        Comoving box side, Mpc/h.
    n_particles : int
        Particles a side, even.
    redshifts : tuple of float
        Output redshifts; kept in descending order.
    time_steps : int
        Leapfrog steps from z = 15 to the last output.
    velocities : bool
        Whether the snapshots hold velocities.
    n_files : int
        Files a snapshot; more than one are written as GADGET-4 does, in a
        ``snapdir_000`` folder.

    Raises
    ------
    SimulationError
        If a value is impossible; says which, and what is expected.
    """

    n_universes: int
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(QUIJOTE_RANGES))
    h: float = 0.6711
    Omega_b: float = 0.049
    design: str = "sobol"
    seed: int = 0
    box_size: float = 128.0
    n_particles: int = 64
    redshifts: tuple[float, ...] = (3.0, 1.5, 0.5, 0.0)
    time_steps: int = 11
    velocities: bool = True
    n_files: int = 1

    def __post_init__(self) -> None:
        _check_ranges(self.ranges)
        _check_numbers(self)
        _check_redshifts(self.redshifts)
        _check_combinations(self)
        ordered = {
            name: (float(self.ranges[name][0]), float(self.ranges[name][1]))
            for name in QUIJOTE_RANGES
        }
        descending = tuple(sorted(map(float, self.redshifts), reverse=True))
        object.__setattr__(self, "ranges", ordered)
        object.__setattr__(self, "redshifts", descending)

    def as_json(self) -> dict[str, Any]:
        """The specification as JSON holds it: numbers, strings, lists and objects."""
        plain = dataclasses.asdict(self)
        plain["ranges"] = {name: list(ends) for name, ends in self.ranges.items()}
        plain["redshifts"] = list(self.redshifts)
        return plain


def _check_ranges(ranges: Mapping[str, tuple[float, float]]) -> None:
    if set(ranges) != set(QUIJOTE_RANGES):
        raise SimulationError(
            f"ranges are given for {', '.join(sorted(ranges)) or 'nothing'}; "
            f"expected exactly {', '.join(QUIJOTE_RANGES)}"
        )
    for name, ends in ranges.items():
        if len(ends) != 2 or not all(_is_positive(end) for end in ends):
            raise SimulationError(
                f"the range of {name} is {ends}; expected two positive numbers: lowest, highest"
            )
        if ends[0] > ends[1]:
            raise SimulationError(
                f"the range of {name} is inverted: {ends[0]:g} to {ends[1]:g}; "
                f"expected the lowest first: {ends[1]:g} to {ends[0]:g}"
            )
    if ranges["Omega_m"][1] > 1:
        raise SimulationError(
            f"the range of Omega_m ends at {ranges['Omega_m'][1]:g}; "
            "expected at most 1 (flat universes with a cosmological constant)"
        )


def _check_numbers(spec: EnsembleSpec) -> None:
    for name, least in (("n_universes", 1), ("seed", 0), ("n_particles", 8), ("n_files", 1)):
        value = getattr(spec, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SimulationError(f"{name} is {value!r}; expected a whole number from {least} on")
    for name in ("h", "Omega_b", "box_size"):
        value = getattr(spec, name)
        if not _is_positive(value):
            raise SimulationError(f"{name} is {value!r}; expected a positive number")
    if spec.design not in DESIGNS:
        raise SimulationError(f"design is {spec.design!r}; expected {' or '.join(DESIGNS)}")
    if not isinstance(spec.velocities, bool):
        raise SimulationError(f"velocities is {spec.velocities!r}; expected true or false")


def _check_redshifts(redshifts: tuple[float, ...]) -> None:
    highest = 1 / A_START - 1
    if not redshifts:
        raise SimulationError("redshifts are empty; expected at least one, for example 0")
    for z in redshifts:
        if not 0 <= z < highest:
            raise SimulationError(
                f"redshift {z} cannot be written; expected 0 or more and "
                f"less than {highest:g}, where the simulation starts"
            )
    if len(set(redshifts)) < len(redshifts):
        raise SimulationError(
            f"redshifts {list(redshifts)} hold one twice; expected each of them once"
        )


def _check_combinations(spec: EnsembleSpec) -> None:
    lowest = spec.ranges["Omega_m"][0]
    if spec.Omega_b >= lowest:
        raise SimulationError(
            f"Omega_b is {spec.Omega_b:g} but Omega_m starts at {lowest:g}; "
            "expected less baryons than matter: raise the range or lower Omega_b"
        )
    if spec.n_particles % 2:
        raise SimulationError(
            f"n_particles is {spec.n_particles}; expected an even number of particles a side"
        )
    # particle identifiers are 32-bit, one for each particle
    if spec.n_particles**3 >= 2**32 or spec.n_files > spec.n_particles**3:
        raise SimulationError(
            f"n_particles is {spec.n_particles} with n_files {spec.n_files}; "
            "expected at most 1624 particles a side and at least one of them in each file"
        )
    if spec.time_steps < len(spec.redshifts):
        raise SimulationError(
            f"time_steps is {spec.time_steps} for {len(spec.redshifts)} redshifts; "
            "expected at least one step to each of them (about 11 for z = 3 to 0)"
        )


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0  # type: ignore[arg-type,operator]
