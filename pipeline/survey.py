"""Looking at the input before anything is built: headers, redshifts, fingerprints.

One universe is one call, so that a build can hand them to its workers and
``check`` to a pool of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import Recipe
from pipeline.errors import InputError, SnapshotError
from pipeline.input_rules import FROM_HEADER, HEADER_PARAMETERS
from pipeline.readers import open_snapshot
from pipeline.readers.fingerprint import fingerprint
from pipeline.snapshot import Snapshot, SnapshotHeader, check_header, check_mean_density
from pipeline.universes import UniverseInput, check_targets

MOST_BOX_RATIO = 1.5
"""Largest box over smallest: CosmoFlow's own boxes vary by a fifth, with H_0."""

SAME_PARAMETER = 1e-6
"""Relative difference of a parameter between the headers of one universe."""


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
    unused: tuple[str, ...] = ()
    """Snapshots that are there and serve for no channel, to show."""

    @property
    def n_particles(self) -> int:
        """Particles over all channels; those of ready grids are not known yet."""
        return sum(channel.header.n_particles for channel in self.channels)


@dataclass(frozen=True)
class Refusal:
    """A universe that cannot be used, and why.

    Its parameters, as the input's table has them, tell its split; None where
    they are recorded in its snapshots alone.
    """

    id: str
    reason: str
    parameters: dict[str, float] | None = None


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
    opened = [open_snapshot(files, options) for files in universe.find(options.format)]
    snapshots = {s.header: s for snapshot in opened for s in snapshot.epochs()}
    headers = list(snapshots)
    _check_one_box(universe, headers)
    chosen = [
        _closest(universe, headers, z, recipe.grid.redshift_tolerance)
        for z in recipe.grid.redshifts
    ]
    _check_distinct(universe, chosen)
    for header in chosen:
        check_header(header)
        _check_kind(header, recipe)
        _check_weight(snapshots[header], recipe)
    _check_omega_m(universe, chosen)
    parameters = universe.parameters
    if recipe.input.parameters == FROM_HEADER:
        parameters = _recorded_parameters(universe, chosen)
        check_targets(universe.id, parameters, recipe)
    for header in chosen:
        _check_density(header, parameters)
    channels = tuple(
        ChannelInput(z, header, fingerprint(header.files))
        for z, header in zip(recipe.grid.redshifts, chosen, strict=True)
    )
    unused = tuple(f"{h.name} (z = {h.redshift:.4g})" for h in headers if h not in chosen)
    return SurveyedUniverse(universe.id, parameters, channels, unused)


def try_survey(universe: UniverseInput, recipe: Recipe) -> SurveyedUniverse | Refusal:
    """:func:`survey`, with a refusal as a value instead of an exception."""
    try:
        return survey(universe, recipe)
    except InputError as error:
        return Refusal(universe.id, str(error), universe.parameters or None)


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
    if len({(h.files, h.grid.channel if h.grid else 0) for h in chosen}) < len(chosen):
        names = ", ".join(f"{h.name} (z = {h.redshift:.4g})" for h in chosen)
        raise InputError(
            f"universe {universe.id!r}: one snapshot would serve for two redshifts ({names}); "
            "lower grid.redshift_tolerance or change grid.redshifts"
        )


def _check_kind(header: SnapshotHeader, recipe: Recipe) -> None:
    """Particles are deposited, and ready grids are taken as they are."""
    grid, wanted = header.grid, recipe.grid
    if (grid is not None) != (wanted.scheme == "ready"):
        found, advice = (
            ("particles", "ngp, cic, tsc or pcs") if grid is None else ("a grid", "ready")
        )
        raise InputError(
            f"{header.name}: holds {found}, but grid.scheme is {wanted.scheme}; "
            f"set grid.scheme: {advice} in the recipe"
        )
    if grid is None:
        return
    if grid.n_grid != wanted.n_grid:
        raise InputError(
            f"{header.name}: its grid has {grid.n_grid} cells a side, grid.n_grid is "
            f"{wanted.n_grid}; set grid.n_grid: {grid.n_grid} in the recipe"
        )
    if grid.quantity != "counts" and recipe.dtype != "float32":
        raise InputError(
            f"{header.name}: holds densities, which output.dtype {recipe.dtype} cannot; "
            "set output.dtype: float32 in the recipe"
        )


def _check_weight(snapshot: Snapshot, recipe: Recipe) -> None:
    """A format without masses is found before anything is built."""
    if recipe.grid.weight == "mass":
        next(snapshot.iter_weighted(1), None)


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
                f"{header.name} says {header.Omega_m:g}; check the table"
            )


def _check_density(header: SnapshotHeader, parameters: dict[str, float]) -> None:
    """The mean density against the table's Omega_m, where the file records none."""
    if not header.Omega_m and parameters.get("Omega_m"):
        check_mean_density(replace(header, Omega_m=parameters["Omega_m"]))


def _recorded_parameters(universe: UniverseInput, chosen: list[SnapshotHeader]) -> dict[str, float]:
    """Cosmology that the headers record, the same in all snapshots of a universe."""
    first = _cosmology(chosen[0])
    for header in chosen[1:]:
        for name, value in _cosmology(header).items():
            if not math.isclose(value, first.get(name, math.nan), rel_tol=SAME_PARAMETER):
                raise InputError(
                    f"universe {universe.id!r}: {header.name} records {name} = {value:g}, "
                    f"{chosen[0].name} {first.get(name)}; one universe has one cosmology"
                )
    return first


def _cosmology(header: SnapshotHeader) -> dict[str, float]:
    """:data:`HEADER_PARAMETERS` that a header records, and what else the file does."""
    H_0 = None if header.h is None else 100 * header.h
    values = zip(HEADER_PARAMETERS, (header.Omega_m, header.h, H_0), strict=True)
    recorded = {name: value for name, value in values if value is not None}
    return recorded | dict(header.parameters)


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


def check_boxes(universes: Sequence[SurveyedUniverse]) -> None:
    """Refuse boxes so different that cells of one data set would not be of one kind.

    Raises
    ------
    InputError
        Naming the universes of the smallest and the largest box.
    """
    boxes = {u.id: u.channels[0].header.box_size for u in universes if u.channels}
    if not boxes:
        return
    small, large = min(boxes, key=boxes.__getitem__), max(boxes, key=boxes.__getitem__)
    if boxes[large] > MOST_BOX_RATIO * boxes[small]:
        raise InputError(
            f"the boxes of universes {small!r} ({boxes[small]:g} Mpc/h) and {large!r} "
            f"({boxes[large]:g} Mpc/h) differ by more than a factor of {MOST_BOX_RATIO:g}; is one "
            "in another unit (input.length_unit)? Build them as two data sets"
        )
