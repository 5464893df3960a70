"""One shard task on a worker: universes to cubes to samples to shards to a ledger line.

Everything here is a pure function of the recipe, the universes and their
files; where and in what order tasks run does not show in the bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import ledger
from pipeline.augment import variant
from pipeline.config import Recipe
from pipeline.deposit import get_scheme
from pipeline.errors import CosmoflowError, SnapshotError
from pipeline.field import (
    ChannelStatistics,
    count_scale,
    deposit_snapshot,
    measure,
    store_channel,
)
from pipeline.ledger import Entry
from pipeline.manifest import SnapshotRecord, SplitName, Universe, scale_target
from pipeline.mass_field import deposit_masses
from pipeline.plan import ShardTask
from pipeline.readers import open_snapshot
from pipeline.ready_field import fill_ready
from pipeline.snapshot import GridSnapshot, Snapshot
from pipeline.subvolume import split_cube
from pipeline.survey import ChannelInput, SurveyedUniverse
from pipeline.write.shards import write_shard


@dataclass(frozen=True)
class Job:
    """What all tasks of a build share.

    Attributes
    ----------
    recipe : Recipe
    root : Path
        Folder of the recipe; input files inside it are recorded relative to it.
    output : Path
        Folder of the data set.
    """

    recipe: Recipe
    root: Path
    output: Path


@dataclass
class StageClock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to stage ``name``."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def run_task(task: ShardTask, job: Job) -> Entry:
    """Do one task and write it into the ledger.

    Raises
    ------
    SnapshotError
        If a snapshot cannot be trusted; nothing of this task is left behind.
    OutputError
        If a shard cannot be written.
    """
    clock, recipe = StageClock(), job.recipe
    samples = np.empty(
        (sum(shard.samples for shard in task.shards), *recipe.sample_shape), recipe.dtype
    )
    per_universe = recipe.samples_per_universe(task.split)
    universes = []
    for number, universe in enumerate(task.universes):
        part = samples[number * per_universe : (number + 1) * per_universe]
        universes.append(_make_universe(universe, task.split, job, part, clock))
    with clock.stage("write"):
        targets = np.repeat(scaled_targets(recipe, task.universes), per_universe, axis=0)
        shards = []
        for shard in task.shards:
            start = shard.first_sample - task.shards[0].first_sample
            run = slice(start, start + shard.samples)
            shards.append(write_shard(recipe, job.output, shard, samples[run], targets[run]))
    entry = Entry(task=task.name, shards=shards, universes=universes, seconds=clock.seconds)
    ledger.append(job.output, entry)
    return entry


@dataclass(frozen=True)
class TaskFailure:
    """A task that could not be done, for a reason that the user can mend."""

    task: str
    error: CosmoflowError


def try_task(task: ShardTask, job: Job) -> Entry | TaskFailure:
    """:func:`run_task`, with the user's errors as a value: Dask need not log them."""
    try:
        return run_task(task, job)
    except CosmoflowError as error:
        return TaskFailure(task.name, error)


def scaled_targets(recipe: Recipe, universes: tuple[SurveyedUniverse, ...]) -> np.ndarray:
    """``(n_universes, n_targets)`` float32 in [-1, 1]."""
    rows = [
        [scale_target(u.parameters[name], *limits) for name, limits in recipe.targets.items()]
        for u in universes
    ]
    return np.array(rows, dtype=np.float32)


def _make_universe(
    universe: SurveyedUniverse,
    split: SplitName,
    job: Job,
    samples: np.ndarray,
    clock: StageClock,
) -> Universe:
    """Fill ``samples`` with all samples of one universe."""
    recipe = job.recipe
    n_grid = recipe.grid.n_grid
    cube = np.empty((n_grid, n_grid, n_grid, len(universe.channels)), recipe.dtype)
    records = [
        _make_channel(channel, number, cube[..., number], job, clock)
        for number, channel in enumerate(universe.channels)
    ]
    with clock.stage("split"):
        k = recipe.split.subvolumes
        for number in range(recipe.variants(split)):
            changed = variant(cube, recipe.split.seed, universe.id, number, recipe.augment.shifts)
            samples[number * k**3 : (number + 1) * k**3] = split_cube(changed, k)
    return Universe(id=universe.id, split=split, parameters=universe.parameters, snapshots=records)


def _make_channel(
    channel: ChannelInput,
    number: int,
    cells: np.ndarray,
    job: Job,
    clock: StageClock,
) -> SnapshotRecord:
    """Make the channel ``cells`` of a cube of one snapshot."""
    with clock.stage("read and deposit"):
        snapshot = _reopened(channel, job.recipe)
    try:
        if isinstance(snapshot, GridSnapshot):
            with clock.stage("read and deposit"):
                statistics = fill_ready(snapshot, cells)
        else:
            statistics = _fill(snapshot, job.recipe, cells, clock)
    except SnapshotError as error:
        if channel.header.name in str(error):
            raise
        raise SnapshotError(f"{channel.header.name}: {error}") from error
    return _record(channel, number, statistics, job.root)


def _reopened(channel: ChannelInput, recipe: Recipe) -> Snapshot:
    """The snapshot that was surveyed."""
    header = channel.header
    for snapshot in open_snapshot(header.files, recipe.input.read_options()).epochs():
        if snapshot.header == header:
            return snapshot
    raise SnapshotError(f"{header.name}: the header changed while the build ran; start it again")


def _fill(
    snapshot: Snapshot, recipe: Recipe, cells: np.ndarray, clock: StageClock
) -> ChannelStatistics:
    """Deposit particles, or their masses, into the channel ``cells`` of a cube."""
    scheme, n_particles = get_scheme(recipe.grid.scheme), snapshot.header.n_particles
    arguments = (snapshot, recipe.grid.n_grid, scheme, recipe.grid.origin)
    with clock.stage("read and deposit"):
        if recipe.grid.weight == "mass":
            grid, scale = deposit_masses(*arguments)
        else:
            grid, scale = deposit_snapshot(*arguments), count_scale(n_particles, scheme)
    with clock.stage("check"):
        statistics = measure(grid, n_particles, scale)
        store_channel(grid, scale, cells)
    return statistics


def _record(
    channel: ChannelInput, number: int, statistics: ChannelStatistics, root: Path
) -> SnapshotRecord:
    header = channel.header
    return SnapshotRecord(
        channel=number,
        redshift=header.redshift,
        redshift_wanted=channel.redshift_wanted,
        box_size=header.box_size,
        n_particles=statistics.n_particles,
        mass=statistics.mass,
        mass_deviation=statistics.mass_deviation,
        maximum=statistics.maximum,
        variance=statistics.variance,
        particle_mass=statistics.particle_mass,
        scheme=header.grid.scheme if header.grid else None,
        fingerprint=channel.fingerprint,
        files=[_relative(path, root) for path in header.files],
    )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
