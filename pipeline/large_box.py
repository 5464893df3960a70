"""A universe in parts: the tasks of several workers that together make what one could not hold.

1. Sections of a snapshot are read, each by one task (:func:`bin_section`): its
   particles are sorted into the tiles of the grid and written into files, of each
   tile the particles or its sums, whichever is smaller.
2. Runs of tiles are summed, each by one task (:func:`sum_owner`), over all sections.
   Sums are whole numbers, so the cells are those of the path of one worker.
3. Shards are written, each by one task (:func:`make_shard`), which reads only
   those tiles that its samples touch.

What is made lies in the scratch folder (``scratch``); only paths and records travel.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.augment import variant_block
from pipeline.config import Recipe
from pipeline.deposit import get_scheme, pool
from pipeline.deposit.assign import square_divisor
from pipeline.deposit.parts import Assignment, Binner, TileSums, joined, sum_tiles
from pipeline.errors import CosmoflowError, SnapshotError
from pipeline.field import ChannelStatistics, counted
from pipeline.manifest import Shard, SnapshotRecord
from pipeline.mass_field import Amounts, MassSums, read_masses, unit_of_mass
from pipeline.plan import ShardPlan, ShardTask
from pipeline.read_ahead import ahead
from pipeline.scratch import Records, folder_name
from pipeline.scratch_cube import CubeFile, ScratchChannel, ScratchCube
from pipeline.shard_task import (
    Job,
    check_unchanged,
    reopened,
    scaled_targets,
    snapshot_record,
)
from pipeline.snapshot import Snapshot
from pipeline.subvolume import subvolume_indices
from pipeline.survey import ChannelInput, SurveyedUniverse
from pipeline.threads import threads_of_task
from pipeline.write.shards import write_shard


@dataclass(frozen=True)
class BoxJob:
    """What the tasks of one build's universes in parts share.

    Attributes
    ----------
    job : Job
    root : Path
        Scratch folder.
    bin_bytes : int
        Most memory of the bins of a task.
    """

    job: Job
    root: Path
    bin_bytes: int

    def records(self, name: str) -> Records:
        """Scratch of a universe or a task."""
        return Records(self.root / folder_name(name))


@dataclass(frozen=True)
class Piece:
    """One channel of a universe that is made in parts.

    Attributes
    ----------
    universe : SurveyedUniverse
    channel : int
    sections, owners : int
        Tasks that read, and tasks that sum.
    """

    universe: SurveyedUniverse
    channel: int
    sections: int
    owners: int

    @property
    def input(self) -> ChannelInput:
        """Its snapshot."""
        return self.universe.channels[self.channel]

    def tiles(self, owner: int, n_tiles: int) -> tuple[int, int]:
        """First tile of an owner, and the end."""
        return owner * n_tiles // self.owners, (owner + 1) * n_tiles // self.owners

    def section_name(self, section: int) -> str:
        """Name of the record of a section."""
        return f"c{self.channel}-section-{section:05d}"

    def mass_name(self, section: int) -> str:
        """Name of the record of a section's masses."""
        return f"c{self.channel}-mass-{section:05d}"

    def owner_name(self, owner: int) -> str:
        """Name of the record, and of the file, of an owner's cells."""
        return f"c{self.channel}-cells-{owner:05d}"

    def assignment(self, recipe: Recipe) -> Assignment:
        """How its particles are assigned."""
        return Assignment(
            recipe.grid.n_grid,
            self.input.header.box_size,
            get_scheme(recipe.grid.scheme),
            recipe.grid.origin,
            recipe.grid.weight == "mass",
        )


@dataclass(frozen=True)
class Section:
    """What a task read of a snapshot.

    Attributes
    ----------
    files : list of str
        Files of tiles, by name.
    read, not_finite : int
        Particles.
    masses : MassSums
        Of particles that are weighted.
    seconds : float
    """

    files: list[str]
    read: int
    not_finite: int
    masses: MassSums
    seconds: float

    @classmethod
    def of(cls, body: dict[str, Any]) -> Section:
        """From its record."""
        return cls(**{**body, "masses": mass_sums(body["masses"])})


def product_of(path: Path) -> str:
    """Name of the record of what a scratch file belongs to."""
    found = re.match(r"c\d+-(section|cells)-\d+", path.name)
    return found[0] if found else path.stem


def mass_sums(body: dict[str, Any]) -> MassSums:
    """From its record."""
    return MassSums(**{**body, "by_chunk": tuple(body["by_chunk"])})


@dataclass(frozen=True)
class Owner:
    """What a task summed: sum, largest cell and sum of squares of each of its tiles."""

    totals: list[int]
    largest: list[int]
    squares: list[float]
    seconds: float

    @property
    def sums(self) -> TileSums:
        """As arrays."""
        whole = np.array([self.totals, self.largest], np.int64).T
        return TileSums(whole.reshape(-1, 2), np.array(self.squares, np.float64))


@dataclass(frozen=True)
class Failed:
    """A task that could not be done, with the error."""

    error: CosmoflowError


def attempt(
    name: str, function: Callable[..., dict[str, Any]], *arguments: Any
) -> tuple[str, dict[str, Any] | Failed]:
    """Name and result of a task, with errors of the user or of the scratch as values."""
    try:
        return name, function(*arguments)
    except CosmoflowError as error:
        return name, Failed(error)


def weigh_section(piece: Piece, section: int, boxes: BoxJob) -> dict[str, Any]:
    """Read the masses of a section; the record of their sums."""
    with _named(piece.input):
        body = asdict(read_masses(_section(piece, section, boxes.job.recipe)))
    boxes.records(piece.universe.id).record(piece.mass_name(section), body)
    return body


def bin_section(piece: Piece, section: int, unit: float | None, boxes: BoxJob) -> dict[str, Any]:
    """Sort the particles of a section into tiles; the record of a :class:`Section`.

    Raises
    ------
    SnapshotError
        If the section cannot be read, or masses do not fit.
    OutputError
        If the scratch cannot be written.
    """
    start, records = time.perf_counter(), boxes.records(piece.universe.id)
    name, header = piece.section_name(section), piece.input.header
    # of another attempt at the same, which a lost worker may still be at, no file is taken
    token = secrets.token_hex(4)
    binner = Binner(
        piece.assignment(boxes.job.recipe),
        lambda number: records.path(f"{name}-{token}-{number:05d}.tiles"),
        header.n_particles // piece.sections,
        threads_of_task(),
        boxes.bin_bytes,
    )
    amounts = None if unit is None else Amounts(header, unit)
    try:
        with _named(piece.input), binner.running():
            _bin(_section(piece, section, boxes.job.recipe), binner, amounts)
            not_finite = binner.not_finite
    finally:
        pool.release()  # the next task may be one of another kind
    check_unchanged(piece.input)
    made = Section(
        [f"{name}-{token}-{number:05d}.tiles" for number in range(binner.files)],
        binner.read,
        not_finite,
        MassSums() if amounts is None else amounts.sums(binner.read),
        time.perf_counter() - start,
    )
    records.record(name, asdict(made))
    return asdict(made)


def _bin(snapshot: Snapshot, binner: Binner, amounts: Amounts | None) -> None:
    if amounts is None:
        with ahead(snapshot.iter_positions()) as chunks:
            for positions in chunks:
                binner.add(positions)
    else:
        with ahead(snapshot.iter_weighted()) as pairs:
            for positions, numbers in amounts.of(pairs):
                binner.add(positions, numbers)
    binner.flush()


def _section(piece: Piece, section: int, recipe: Recipe) -> Snapshot:
    sections = reopened(piece.input, recipe).sections(piece.sections)
    return sections[section] if section < len(sections) else _Nothing(piece.input.header)


class _Nothing(Snapshot):
    """No particles: where a snapshot has fewer sections than were asked for."""

    def iter_positions(self, chunk_particles: int = 1) -> Iterator[np.ndarray]:
        """None."""
        return iter(())

    def iter_weighted(self, chunk_particles: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """None."""
        return iter(())


@contextmanager
def _named(channel: ChannelInput) -> Iterator[None]:
    """Have errors name the snapshot."""
    try:
        yield
    except SnapshotError as error:
        if channel.header.name in str(error):
            raise
        raise SnapshotError(f"{channel.header.name}: {error}") from error


def unit_of(piece: Piece, weighed: Iterable[dict[str, Any]]) -> float:
    """Unit of mass of a channel; ``weighed`` are the records of its masses, if it needs them."""
    sums = [mass_sums(body) for body in weighed]
    with _named(piece.input):
        return unit_of_mass(
            piece.input.header,
            lambda: MassSums(
                sum(s.read for s in sums),
                sum(s.bad for s in sums),
                0,
                tuple(mass for s in sums for mass in s.by_chunk),
            ),
        )


@dataclass
class Read:
    """What all sections of a channel were: for its statistics, and for its cells' unit.

    Attributes
    ----------
    files : list of str
    n_particles, not_finite : int
    amounts : Amounts or None
        Masses, if it has them.
    seconds : float
    """

    files: list[str] = field(default_factory=list)
    n_particles: int = 0
    not_finite: int = 0
    amounts: Amounts | None = None
    seconds: float = 0.0

    @property
    def unit(self) -> float | None:
        """Whole units that become 1 in a cell; None: the scheme's."""
        return None if self.amounts is None else self.amounts.mean


def read_of(piece: Piece, sections: Iterable[dict[str, Any]], unit: float | None) -> Read:
    """All sections of a channel together, in order."""
    amounts = None if unit is None else Amounts(piece.input.header, unit)
    read = Read(amounts=amounts)
    for body in sections:
        section = Section.of(body)
        read.files += section.files
        read.n_particles += section.read
        read.not_finite += section.not_finite
        read.seconds += section.seconds
        if amounts is not None:
            with _named(piece.input):
                amounts.add(section.masses)
    return read


def sum_owner(
    piece: Piece, owner: int, files: list[str], unit: float | None, boxes: BoxJob
) -> dict[str, Any]:
    """Add up the tiles of an owner over all sections and write their cells.

    Raises
    ------
    ScratchDamagedError
        If a section's file is not as it was written.
    OutputError
        If the scratch cannot be written.
    """
    start, records = time.perf_counter(), boxes.records(piece.universe.id)
    recipe, name = boxes.job.recipe, piece.owner_name(owner)
    how = piece.assignment(recipe)
    sums = sum_tiles(
        how,
        [records.path(file) for file in files],
        piece.tiles(owner, how.tiling.n_tiles),
        records.path(f"{name}.tiles"),
        np.dtype(recipe.dtype),
        unit,
    )
    made = Owner(
        sums.whole[:, 0].tolist(),
        sums.whole[:, 1].tolist(),
        sums.squares.tolist(),
        time.perf_counter() - start,
    )
    records.record(name, asdict(made))
    return asdict(made)


def channel_record(
    piece: Piece, read: Read, owners: Iterable[dict[str, Any]], job: Job
) -> SnapshotRecord:
    """What the manifest tells of a channel, if it is as it should be.

    Raises
    ------
    SnapshotError
        As the path of one worker does.
    """
    recipe, scheme = job.recipe, get_scheme(job.recipe.grid.scheme)
    dtype, n_cells = np.dtype(recipe.dtype), recipe.grid.n_grid**3
    sums = joined([Owner(**body).sums for body in owners])
    divisor = square_divisor(dtype, scheme, read.unit)
    assigned = sums.assigned(read.n_particles, read.not_finite, divisor)
    with _named(piece.input):
        found: ChannelStatistics = (
            counted(piece.input.header, assigned, scheme, n_cells, dtype)
            if read.amounts is None
            else read.amounts.measured(assigned, n_cells)
        )
    return snapshot_record(piece.input, piece.channel, found, job.root)


def make_shard(
    task: ShardTask, shard: ShardPlan, pieces: dict[str, list[Piece]], boxes: BoxJob
) -> dict[str, Any]:
    """Write one shard of universes whose cubes are in the scratch.

    Parameters
    ----------
    task : ShardTask
    shard : ShardPlan
        One of its shards.
    pieces : dict
        Channels of each universe of the task, by id.
    boxes : BoxJob

    Raises
    ------
    ScratchDamagedError
        If a cube is not as it was written.
    OutputError
        If the shard cannot be written.
    """
    job, recipe = boxes.job, boxes.job.recipe
    per_universe = recipe.samples_per_universe(task.split)
    first = shard.first_sample - task.shards[0].first_sample
    samples = np.empty((shard.samples, *recipe.sample_shape), recipe.dtype)
    cubes: dict[str, ScratchCube] = {}
    start = time.perf_counter()
    for number in range(shard.samples):
        which, sample = divmod(first + number, per_universe)
        universe = task.universes[which]
        if universe.id not in cubes:
            cubes = {universe.id: _cube(pieces[universe.id], boxes)}
        samples[number] = _sample(recipe, cubes[universe.id], universe.id, sample)
    cut = time.perf_counter()
    cubes.clear()
    targets = np.repeat(scaled_targets(recipe, task.universes), per_universe, axis=0)
    run = targets[first : first + shard.samples]
    written = write_shard(recipe, job.output, shard, samples, run)
    seconds = {"split": cut - start, "write": time.perf_counter() - cut}
    body = {"shard": written.model_dump(mode="json"), "seconds": seconds}
    boxes.records(task.name).record(shard_name(shard), body)
    return body


def shard_name(shard: ShardPlan) -> str:
    """Name of the record of a shard."""
    return f"shard-{shard.number:06d}"


def shard_of(body: dict[str, Any]) -> Shard:
    """From its record."""
    return Shard.model_validate(body["shard"])


def task_key(task: ShardTask, job: Job) -> dict[str, Any]:
    """What the shards of a task depend on, besides the recipe."""
    shards = [[s.path, s.first_sample, s.samples] for s in task.shards]
    universes = [[u.id, [c.fingerprint for c in u.channels]] for u in task.universes]
    return {"shards": shards, "universes": universes, "part": job.part}


def _cube(pieces: list[Piece], boxes: BoxJob) -> ScratchCube:
    recipe = boxes.job.recipe
    dtype = np.dtype(recipe.dtype)
    channels = []
    for piece in pieces:
        records, tiling = boxes.records(piece.universe.id), piece.assignment(recipe).tiling
        files = [
            CubeFile(
                records.path(f"{piece.owner_name(owner)}.tiles"),
                *piece.tiles(owner, tiling.n_tiles),
            )
            for owner in range(piece.owners)
        ]
        channels.append(ScratchChannel(tiling, dtype, files))
    return ScratchCube(recipe.grid.n_grid, channels, dtype)


def _sample(recipe: Recipe, cube: ScratchCube, universe: str, sample: int) -> np.ndarray:
    """Sample of that number of a universe: a sub-volume of a variant of its cube."""
    k, side = recipe.split.subvolumes, recipe.sample_side
    number, place = divmod(sample, k**3)
    x, y, z = (subvolume_indices(k)[place] * side).tolist()
    return variant_block(
        lambda first: cube.block(first, side),
        recipe.grid.n_grid,
        (x, y, z),
        side,
        seed=recipe.split.seed,
        universe=universe,
        number=number,
        shifts=recipe.augment.shifts,
    )
