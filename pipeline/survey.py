"""Looking at the input before anything is built: headers, redshifts, fingerprints.

One universe is one call, so that a build can hand them to its workers and
``check`` to a pool of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Recipe
from pipeline.errors import InputError, SnapshotError
from pipeline.readers import open_snapshot
from pipeline.readers.fingerprint import fingerprint
from pipeline.snapshot import SnapshotHeader
from pipeline.universes import UniverseInput


@dataclass(frozen=True)
class ChannelInput:
    """The snapshot chosen for one channel of a universe's cube."""

    redshift_wanted: float
    header: SnapshotHeader
    fingerprint: str


@dataclass(frozen=True)
class SurveyedUniverse:
    """A universe whose headers were read and found right, one channel a redshift."""

    id: str
    parameters: dict[str, float]
    channels: tuple[ChannelInput, ...]

    @property
    def n_particles(self) -> int:
        """Particles over all channels."""
        return sum(channel.header.n_particles for channel in self.channels)


@dataclass(frozen=True)
class Refusal:
    """A universe that cannot be used, and why."""

    id: str
    reason: str


def survey(universe: UniverseInput, recipe: Recipe) -> SurveyedUniverse:
    """Read a universe's headers and choose a snapshot for each redshift.

    Raises
    ------
    SnapshotError
        If a snapshot cannot be trusted or boxes differ.
    InputError
        If a redshift of the recipe is not there.
    """
    options = recipe.input.read_options()
    headers = [open_snapshot(f, options).header for f in universe.find(options.format)]
    _check_one_box(universe, headers)
    chosen = [
        _closest(universe, headers, z, recipe.grid.redshift_tolerance)
        for z in recipe.grid.redshifts
    ]
    _check_distinct(universe, chosen)
    _check_omega_m(universe, chosen)
    channels = tuple(
        ChannelInput(z, header, fingerprint(header.files))
        for z, header in zip(recipe.grid.redshifts, chosen, strict=True)
    )
    return SurveyedUniverse(universe.id, universe.parameters, channels)


def try_survey(universe: UniverseInput, recipe: Recipe) -> SurveyedUniverse | Refusal:
    """:func:`survey`, with a refusal as a value instead of an exception."""
    try:
        return survey(universe, recipe)
    except InputError as error:
        return Refusal(universe.id, str(error))


def _closest(
    universe: UniverseInput, headers: list[SnapshotHeader], wanted: float, tolerance: float
) -> SnapshotHeader:
    def distance(header: SnapshotHeader) -> float:
        return abs(header.redshift - wanted) / (1 + wanted)

    ordered = sorted(headers, key=distance)
    if distance(ordered[0]) > tolerance:
        there = ", ".join(f"{z:.4g}" for z in sorted({h.redshift for h in headers}))
        raise InputError(
            f"{universe.folder}: universe {universe.id!r} has no snapshot at redshift {wanted:g} "
            f"(has {there}); change grid.redshifts or grid.redshift_tolerance ({tolerance:g})"
        )
    if len(ordered) > 1 and distance(ordered[0]) == distance(ordered[1]):
        raise InputError(
            f"universe {universe.id!r} has two snapshots equally near redshift {wanted:g}: "
            f"{ordered[0].name} and {ordered[1].name}; choose with input.snapshots"
        )
    return ordered[0]


def _check_distinct(universe: UniverseInput, chosen: list[SnapshotHeader]) -> None:
    if len({header.files for header in chosen}) < len(chosen):
        names = ", ".join(f"{h.name} (z = {h.redshift:.4g})" for h in chosen)
        raise InputError(
            f"universe {universe.id!r}: one snapshot would serve for two redshifts ({names}); "
            "lower grid.redshift_tolerance or change grid.redshifts"
        )


def _check_one_box(universe: UniverseInput, headers: list[SnapshotHeader]) -> None:
    first = headers[0]
    for header in headers[1:]:
        if abs(header.box_size / first.box_size - 1) > 1e-6:
            raise SnapshotError(
                f"universe {universe.id!r}: {header.name} has a box of {header.box_size:g} Mpc/h, "
                f"{first.name} one of {first.box_size:g} Mpc/h; one universe has one box: "
                "separate them, or choose with input.snapshots"
            )


def _check_omega_m(universe: UniverseInput, chosen: list[SnapshotHeader]) -> None:
    """A row of the table that went to the wrong folder shows in Omega_m."""
    listed = universe.parameters.get("Omega_m")
    for header in chosen:
        if listed and header.Omega_m and abs(header.Omega_m - listed) > 1e-3:
            raise InputError(
                f"universe {universe.id!r} has Omega_m = {listed:g} in the parameter table, but "
                f"{header.name} says {header.Omega_m:g}; check the table, or set input.Omega_m"
            )


def check_duplicates(universes: list[SurveyedUniverse]) -> None:
    """Refuse one snapshot under two names: it could be in two splits.

    Raises
    ------
    InputError
        Naming both universes and files.
    """
    seen: dict[str, tuple[str, Path]] = {}
    for universe in universes:
        for channel in universe.channels:
            here = (universe.id, channel.header.files[0])
            other = seen.setdefault(channel.fingerprint, here)
            if other != here:
                raise InputError(
                    f"{here[1]} (universe {here[0]!r}) and {other[1]} (universe {other[0]!r}) hold "
                    "the same snapshot; remove one, or a universe could be in two splits"
                )
