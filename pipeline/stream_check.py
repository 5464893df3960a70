"""Reading every position of a universe without depositing it: what only the content tells."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from pipeline.config import Recipe
from pipeline.errors import InputError, SnapshotError
from pipeline.readers import open_snapshot
from pipeline.snapshot import GridSnapshot, Snapshot
from pipeline.survey import Refusal, SurveyedUniverse, survey
from pipeline.universes import UniverseInput


@dataclass(frozen=True)
class PositionFacts:
    """What the positions of one snapshot are like.

    Attributes
    ----------
    particles : int
        Read, all of them finite.
    outside : int
        Of these outside of [0, box_size) along some axis; they are wrapped.
    farthest : float
        How far outside the farthest is, Mpc/h.
    """

    particles: int
    outside: int
    farthest: float


@dataclass(frozen=True)
class StreamedUniverse(SurveyedUniverse):
    """A surveyed universe of which every position was read too, one entry a channel."""

    positions: tuple[PositionFacts, ...] = field(default=())


def try_stream(universe: UniverseInput, recipe: Recipe) -> StreamedUniverse | Refusal:
    """Survey a universe and read all positions of the snapshots that it would use."""
    try:
        surveyed = survey(universe, recipe)
        facts = tuple(
            stream(open_snapshot(channel.header.files, recipe.input.read_options()))
            for channel in surveyed.channels
            if channel.header.grid is None
        )
    except InputError as error:
        return Refusal(universe.id, str(error))
    known = {f.name: getattr(surveyed, f.name) for f in fields(surveyed)}
    return StreamedUniverse(**known, positions=facts)


def stream(snapshot: Snapshot) -> PositionFacts:
    """Read all positions of a snapshot.

    Raises
    ------
    SnapshotError
        If some are not finite, or there are more or fewer than the header promises.
    """
    if isinstance(snapshot, GridSnapshot):
        raise SnapshotError(f"{snapshot.header.name}: holds a grid, which has no positions")
    header = snapshot.header
    read = bad = outside = 0
    farthest = 0.0
    for positions in snapshot.iter_positions():
        read += len(positions)
        low, high = float(positions.min()), float(positions.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            bad += int((~np.isfinite(positions).all(axis=1)).sum())
        elif low < 0 or high >= header.box_size:
            outside += int(((positions < 0) | (positions >= header.box_size)).any(axis=1).sum())
            farthest = max(farthest, -low, high - header.box_size)
    if bad:
        raise SnapshotError(
            f"{header.name}: {bad} of {read} positions are NaN or infinite, expected none; the "
            "snapshot is damaged, write it again"
        )
    if read != header.n_particles:
        raise SnapshotError(
            f"{header.name}: {read} particles were read, the header promises {header.n_particles}"
        )
    return PositionFacts(read, outside, farthest)
