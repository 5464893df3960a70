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
from pipeline.deposit import CPU, get_scheme
from pipeline.deposit.warm import warm_up
from pipeline.errors import CosmoflowError, SnapshotError
from pipeline.field import ChannelStatistics, fill_counts
from pipeline.ledger import Entry
from pipeline.manifest import SnapshotRecord, SplitName, Universe, scale_target
from pipeline.mass_field import fill_masses
from pipeline.plan import ShardTask
from pipeline.readers import open_snapshot
from pipeline.readers.fingerprint import fingerprint
from pipeline.ready_field import fill_ready
from pipeline.snapshot import GridSnapshot, Snapshot
from pipeline.subvolume import split_cube
from pipeline.survey import ChannelInput, Refusal, SurveyedUniverse
from pipeline.threads import threads_of_task
from pipeline.write.shards import write_shard
from pipeline.write.store import Store


@dataclass(frozen=True)
class Job:
    """What all tasks of a build share.

    Attributes
    ----------
    recipe : Recipe
    root : Path
        Folder of the recipe; input files inside it are recorded relative to it.
    output : Store
        Place of the data set.
    part : int
        Part of the data set that is made: 0, or the number of an extension.
    backend : str
        What deposits, see ``deposit.assign``; the data set's bytes do not depend on it.
    """

    recipe: Recipe
    root: Path
    output: Store
    part: int = 0
    backend: str = CPU


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
    UniversesRefusedError
        If snapshots cannot be trusted; nothing of this task is left behind.
    OutputError
        If a shard cannot be written.
    """
    clock, recipe = StageClock(), job.recipe
    samples = np.empty(
        (sum(shard.samples for shard in task.shards), *recipe.sample_shape), recipe.dtype
    )
    per_universe = recipe.samples_per_universe(task.split)
    universes, refused = [], []
    for number, universe in enumerate(task.universes):
        part = samples[number * per_universe : (number + 1) * per_universe]
        try:
            universes.append(_make_universe(universe, task.split, job, part, clock))
        except SnapshotError as error:
            refused.append(refusal_of(universe, error))
    if refused:
        raise UniversesRefusedError(*refused)
    with clock.stage("write"):
        targets = np.repeat(scaled_targets(recipe, task.universes), per_universe, axis=0)
        shards = []
        for shard in task.shards:
            start = shard.first_sample - task.shards[0].first_sample
            run = slice(start, start + shard.samples)
            shards.append(write_shard(recipe, job.output, shard, samples[run], targets[run]))
    entry = Entry(
        task=task.name,
        shards=shards,
        universes=universes,
        seconds=clock.seconds,
        finished=time.time(),
    )
    ledger.append(job.output, entry, job.part)
    return entry


class UniversesRefusedError(SnapshotError):
    """Some universes of a task cannot be used; its arguments are their :class:`Refusal`s."""

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """All of the task that were found."""
        return self.args

    def __str__(self) -> str:
        return "\n".join(refusal.reason for refusal in self.refused)


def refusal_of(universe: SurveyedUniverse, error: SnapshotError) -> Refusal:
    """A universe that cannot be used."""
    return Refusal(universe.id, str(error), universe.parameters)


def try_universe(universe: SurveyedUniverse, split: SplitName, job: Job) -> Refusal | None:
    """Make the samples of one universe and throw them away: whether that can be done.

    For a universe under suspicion of ending the workers that read it.
    """
    shape = (job.recipe.samples_per_universe(split), *job.recipe.sample_shape)
    try:
        _make_universe(universe, split, job, np.empty(shape, job.recipe.dtype), StageClock())
    except SnapshotError as error:
        return refusal_of(universe, error)
    return None


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
        snapshot = reopened(channel, job.recipe)
    try:
        if isinstance(snapshot, GridSnapshot):
            with clock.stage("read and deposit"):
                statistics = fill_ready(snapshot, cells)
        else:
            statistics = _fill(snapshot, job, cells, clock)
    except SnapshotError as error:
        if channel.header.name in str(error):
            raise
        raise SnapshotError(f"{channel.header.name}: {error}") from error
    check_unchanged(channel)
    return snapshot_record(channel, number, statistics, job.root)


def reopened(channel: ChannelInput, recipe: Recipe) -> Snapshot:
    """The snapshot that was surveyed."""
    header = channel.header
    for snapshot in open_snapshot(header.files, recipe.input.read_options()).epochs():
        if snapshot.header == header:
            return snapshot
    check_unchanged(channel)
    raise SnapshotError(
        f"{header.name}: the header changed while the build ran; let nothing write to the input, "
        "and take it up again with --resume --retry-quarantined"
    )


def check_unchanged(channel: ChannelInput) -> None:
    """Refuse a snapshot that is not the one that was surveyed: its record would be wrong."""
    now = fingerprint(channel.header.files)
    if now != channel.fingerprint:
        raise SnapshotError(
            f"{channel.header.name}: changed while the build ran: fingerprint "
            f"{channel.fingerprint} when it was surveyed, {now} when it was read; let nothing "
            "write to the input, and take it up again with --resume --retry-quarantined"
        )


def compile_deposit(job: Job) -> None:
    """Have what deposits the job's particles compiled, or loaded, in this process."""
    grid = job.recipe.grid
    if grid.scheme != "ready" and job.backend == CPU:
        warm_up(grid.scheme, str(job.recipe.dtype), grid.weight == "mass")


def _fill(snapshot: Snapshot, job: Job, cells: np.ndarray, clock: StageClock) -> ChannelStatistics:
    """Deposit particles, or their masses, into the channel ``cells`` of a cube."""
    recipe = job.recipe
    fill = fill_masses if recipe.grid.weight == "mass" else fill_counts
    scheme = get_scheme(recipe.grid.scheme)
    with clock.stage("compile"):
        compile_deposit(job)
    with clock.stage("read and deposit"):
        origin = recipe.grid.origin
        return fill(snapshot, cells, scheme, origin, threads_of_task(), backend=job.backend)


def snapshot_record(
    channel: ChannelInput, number: int, statistics: ChannelStatistics, root: Path
) -> SnapshotRecord:
    """What the manifest tells of the snapshot of a channel."""
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
