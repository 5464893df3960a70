"""Universes that are too large for one worker: when they are made in parts, and how.

The stages of ``large_box`` run one after the other, each over all workers.  What
is there is not made again: after a worker's death, a damaged file or a kill of
the build itself, the same steps are gone through and make what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from distributed import Client

from pipeline import ledger, worker_memory
from pipeline.calls import Killed, alone, results
from pipeline.cluster import memory_of_a_task, total_threads
from pipeline.config import recipe_digest
from pipeline.errors import BuildError, OutputError, RecipeError, SnapshotError
from pipeline.large_box import (
    BoxJob,
    Failed,
    Piece,
    Read,
    attempt,
    bin_section,
    channel_record,
    make_shard,
    product_of,
    read_of,
    shard_name,
    shard_of,
    sum_owner,
    task_key,
    unit_of,
    weigh_section,
)
from pipeline.ledger import Entry
from pipeline.manifest import SnapshotRecord, Universe
from pipeline.plan import ShardTask
from pipeline.quarantine import killed
from pipeline.scratch import Records, check_room, scratch_of, sweep
from pipeline.shard_task import Job, TaskFailure, UniversesRefusedError, refusal_of
from pipeline.software import software_versions
from pipeline.survey import Refusal, SurveyedUniverse
from pipeline.threads import cores
from pipeline.tile_file import ScratchDamagedError

SplitBoxes = Literal["auto", "always", "never"]

TASKS_A_THREAD = 2
"""Sections and owners for each thread of the workers."""

DAMAGES = 5
"""Damaged scratch files of one task after which its disk is not trusted."""

Say = Callable[[str, int, int], None]
"""``say(stage, done, total)``: tasks of a stage of a universe in parts."""


@dataclass(frozen=True)
class BoxOptions:
    """What the user says of universes in parts.

    Attributes
    ----------
    split : {'auto', 'always', 'never'}
        ``auto``: those that one worker's memory does not hold.
    scratch : Path or None
        Folder for scratch files; None: in the data set's own.
    """

    split: SplitBoxes = "auto"
    scratch: Path | None = None

    def __post_init__(self) -> None:
        if self.split not in get_args(SplitBoxes):
            raise RecipeError(
                f"--split-boxes {self.split}: expected {', '.join(get_args(SplitBoxes))}"
            )


WHERE_NEEDED = BoxOptions()


class _DeadlyError(Exception):
    """A universe at which workers die, with nothing else beside it; how many."""

    def __init__(self, deaths: int) -> None:
        super().__init__(deaths)
        self.deaths = deaths


class Boxes:
    """Makes the tasks of a build whose universes are too large for one worker.

    Parameters
    ----------
    client : Client
    job : Job
    options : BoxOptions
    say : callable
        Called as the stages of a universe go on.
    ignore_disk_space : bool
    """

    def __init__(
        self,
        client: Client,
        job: Job,
        options: BoxOptions,
        say: Say = lambda stage, done, total: None,
        ignore_disk_space: bool = False,
    ) -> None:
        self._client, self._job, self._options, self._say = client, job, options, say
        self._ignore_disk_space = ignore_disk_space
        self._limit = memory_of_a_task(client)

    def check(self, tasks: Iterable[ShardTask]) -> None:
        """Refuse, before anything is made, what does not fit the workers' memory.

        Raises
        ------
        BuildError
            With the bytes needed and those that a worker has.
        RecipeError
            If a scratch folder has to be given.
        """
        for task in tasks:
            needed = self._needed(task)
            large = self.is_large(task)
            if not large and self._limit is not None and needed > self._limit:
                raise BuildError(_too_large(task, needed, self._limit, self._cannot(task)))
            if large:
                scratch_of(self._job.output, self._options.scratch)
                self._check_parts(task)

    def _check_parts(self, task: ShardTask) -> None:
        least = worker_memory.in_parts(self._job.recipe)
        if self._limit is not None and least > self._limit:
            raise BuildError(
                f"task {task.name}: a worker needs {least} bytes even for universes in parts, and "
                f"has {self._limit}; give each worker more memory (--memory-limit), or take fewer "
                "(--workers)"
            )

    def _cannot(self, task: ShardTask) -> str:
        if self._job.recipe.grid.scheme == "ready":
            return "ready grids are not made in parts"
        return "take away --split-boxes never, so that several workers make them in parts"

    def _needed(self, task: ShardTask) -> int:
        channels = [c.header for u in task.universes for c in u.channels]
        most = max(header.n_particles for header in channels)
        # as local workers are told; those of a scheduler of others take one
        threads = max(1, cores() // total_threads(self._client))
        return worker_memory.whole(self._job.recipe, most, threads)

    def is_large(self, task: ShardTask) -> bool:
        """Whether the universes of a task are made in parts."""
        if self._job.recipe.grid.scheme == "ready" or self._options.split == "never":
            return False
        if self._options.split == "always":
            return True
        return self._limit is not None and self._needed(task) > worker_memory.FIT * self._limit

    def sweep(self, tasks: Iterable[ShardTask] = ()) -> None:
        """Remove all scratch files but those of tasks that are still to be made."""
        if self._job.output.local is None and self._options.scratch is None:
            return
        names = [n for t in tasks if self.is_large(t) for n in (t.name, *_ids(t))]
        sweep(scratch_of(self._job.output, self._options.scratch), names)

    def make(self, task: ShardTask) -> Entry | TaskFailure:
        """Make a task and write it into the ledger; universes that cannot be used as a value.

        Raises
        ------
        OutputError
            If shards or scratch files cannot be written, or the scratch is damaged again and again.
        BuildError
            If workers die on its shards.
        """
        root = scratch_of(self._job.output, self._options.scratch)
        bin_bytes = worker_memory.bin_bytes_within(self._job.recipe, self._limit)
        made = _InParts(self._client, BoxJob(self._job, root, bin_bytes), task, self._say)
        if not self._ignore_disk_space:
            check_room(root, self._scratch_bytes(task))
        for _ in range(DAMAGES):
            try:
                return made.result()
            except ScratchDamagedError as error:
                Records(error.path.parent).forget(product_of(error.path))
        raise OutputError(
            f"{root}: {DAMAGES} scratch files were damaged while task {task.name} was made; its "
            "disk is not to be trusted: give another folder with --scratch DIR"
        )

    def _scratch_bytes(self, task: ShardTask) -> int:
        recipe = self._job.recipe
        most = max(c.header.n_particles for u in task.universes for c in u.channels)
        cubes = (len(task.universes) - 1) * worker_memory.cube_bytes(recipe)
        return cubes + worker_memory.scratch_bytes(recipe, most)


def _ids(task: ShardTask) -> list[str]:
    return [universe.id for universe in task.universes]


def _too_large(task: ShardTask, needed: int, limit: int, advice: str) -> str:
    return (
        f"task {task.name}: a worker needs up to {needed} bytes for one universe, and has "
        f"{limit}; {advice}, or give each worker more memory (--memory-limit), or take fewer "
        "(--workers)"
    )


class _InParts:
    """One task that is made in parts."""

    def __init__(self, client: Client, boxes: BoxJob, task: ShardTask, say: Say) -> None:
        self._client, self._boxes, self._task, self._say = client, boxes, task, say
        self._refused: list[Refusal] = []
        self._seconds: dict[str, float] = {}
        # what workers say is made: a network file system may show it here only later
        self._bodies: dict[Path, dict[str, Any]] = {}

    def result(self) -> Entry | TaskFailure:
        """The task's entry, or the universes that cannot be used; goes on with what is there."""
        self._refused, self._seconds, self._bodies = [], {}, {}
        universes, pieces = [], {}
        for universe in self._task.universes:
            pieces[universe.id] = self._pieces(universe)
            record = self._universe(universe, pieces[universe.id])
            if record is not None:
                universes.append(record)
        if self._refused:
            self._remove()
            return TaskFailure(self._task.name, UniversesRefusedError(*self._refused))
        entry = Entry(
            task=self._task.name,
            shards=[shard_of(body) for body in self._shards(pieces)],
            universes=universes,
            seconds=self._seconds,
            finished=time.time(),
        )
        ledger.append(self._boxes.job.output, entry, self._boxes.job.part)
        self._remove()
        return entry

    def _remove(self) -> None:
        for name in (self._task.name, *_ids(self._task)):
            self._boxes.records(name).remove()

    def _pieces(self, universe: SurveyedUniverse) -> list[Piece]:
        """Channels of a universe; cut as they were, if it was begun before."""
        recipe = self._boxes.job.recipe
        n = TASKS_A_THREAD * total_threads(self._client)
        key = {
            "recipe": recipe_digest(recipe),
            "software": software_versions(),
            "fingerprints": [channel.fingerprint for channel in universe.channels],
            "how": {"sections": n, "owners": n},
        }
        how = self._boxes.records(universe.id).begin(key)["how"]
        whole = Piece(universe, 0, 1, 1).assignment(recipe).tiling.n_tiles
        owners = min(how["owners"], whole)
        return [
            Piece(universe, channel, how["sections"], owners)
            for channel in range(len(universe.channels))
        ]

    def _universe(self, universe: SurveyedUniverse, pieces: Sequence[Piece]) -> Universe | None:
        """Make the cube of a universe; None if it cannot be used."""
        try:
            snapshots = [self._channel(piece) for piece in pieces]
        except SnapshotError as error:
            self._refused.append(refusal_of(universe, error))
            return None
        except _DeadlyError as error:
            self._refused.append(killed(universe.id, error.deaths, universe.parameters))
            return None
        return Universe(
            id=universe.id,
            split=self._task.split,
            parameters=universe.parameters,
            snapshots=snapshots,
        )

    def _channel(self, piece: Piece) -> SnapshotRecord:
        records = self._boxes.records(piece.universe.id)
        names = [piece.owner_name(owner) for owner in range(piece.owners)]
        missing = [name for name in names if not self._is_there(records, name)]
        read = self._read(piece, bool(missing))
        calls = {
            name: (sum_owner, piece, names.index(name), read.files, read.unit, self._boxes)
            for name in missing
        }
        self._made(records, calls, "sum")
        owners = self._recalled(records, names)
        self._add_seconds("read and bin", read.seconds)
        self._add_seconds("sum tiles", sum(body["seconds"] for body in owners))
        for file in read.files:
            records.path(file).unlink(missing_ok=True)
        return channel_record(piece, read, owners, self._boxes.job)

    def _is_there(self, records: Records, name: str) -> bool:
        there = self._recall(records, name) is not None
        return there and records.path(f"{name}.tiles").is_file()

    def _recall(self, records: Records, name: str) -> dict[str, Any] | None:
        return self._bodies.get(records.path(name)) or records.recall(name)

    def _read(self, piece: Piece, with_files: bool) -> Read:
        """Have all sections of a channel read; their files are there if they are needed."""
        records = self._boxes.records(piece.universe.id)
        unit = self._unit(piece, records)
        names = [piece.section_name(section) for section in range(piece.sections)]
        for name in names if with_files else ():
            body = records.recall(name)
            if body is not None and not all(records.path(f).is_file() for f in body["files"]):
                records.forget(name)
        calls = {
            name: (bin_section, piece, section, unit, self._boxes)
            for section, name in enumerate(names)
            if self._recall(records, name) is None
        }
        self._made(records, calls, "bin")
        return read_of(piece, self._recalled(records, names), unit)

    def _unit(self, piece: Piece, records: Records) -> float | None:
        """Unit of mass, where particles are weighted."""
        if self._boxes.job.recipe.grid.weight != "mass":
            return None
        names: list[str] = []
        if piece.input.header.selected_mass is None:
            names = [piece.mass_name(section) for section in range(piece.sections)]
        calls = {
            name: (weigh_section, piece, section, self._boxes)
            for section, name in enumerate(names)
            if self._recall(records, name) is None
        }
        self._made(records, calls, "weigh")
        return unit_of(piece, self._recalled(records, names))

    def _shards(self, pieces: dict[str, list[Piece]]) -> list[dict[str, Any]]:
        job, task = self._boxes.job, self._task
        records = self._boxes.records(task.name)
        records.begin({**task_key(task, job), "how": None})
        shards = {shard_name(shard): shard for shard in task.shards}
        for name in shards:
            body = records.recall(name)
            if body is not None and job.output.size(body["shard"]["path"]) is None:
                records.forget(name)
        calls = {
            name: (make_shard, task, shard, pieces, self._boxes)
            for name, shard in shards.items()
            if self._recall(records, name) is None
        }
        try:
            self._made(records, calls, "shards")
        except _DeadlyError as error:
            raise BuildError(
                f"{error.deaths} workers died on a shard of task {task.name}, though its universes "
                "were made: out of memory perhaps ('cosmoflow-prep plan' prints what a worker "
                "needs)"
            ) from error
        bodies = self._recalled(records, list(shards))
        for body in bodies:
            for stage, seconds in body["seconds"].items():
                self._add_seconds(stage, seconds)
        return bodies

    def _add_seconds(self, stage: str, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def _recalled(self, records: Records, names: Sequence[str]) -> list[dict[str, Any]]:
        """Records of all; one that is gone or torn is made again."""
        bodies = [self._recall(records, name) for name in names]
        for name, body in zip(names, bodies, strict=True):
            if body is None:
                raise ScratchDamagedError(str(records.path(f"{name}.json")))
        return [body for body in bodies if body is not None]

    def _made(self, records: Records, calls: dict[str, tuple[Any, ...]], stage: str) -> None:
        """Run calls ``(function, *arguments)`` by name on the cluster; they write records."""
        suspects: list[tuple[Any, ...]] = []
        todo = [(attempt, name, *call) for name, call in calls.items()]
        done = 0
        with results(self._client, todo, lambda n, of: self._say("drain", n, of)) as ended:
            for result in ended:
                if isinstance(result, Killed):
                    suspects.append(result.call)
                    continue
                self._take(records, result)
                done += 1
                self._say(stage, done, len(calls))
        for call in suspects:
            result = alone(self._client, call)
            if isinstance(result, Killed):
                raise _DeadlyError(result.deaths)
            self._take(records, result)

    def _take(self, records: Records, result: tuple[str, dict[str, Any] | Failed]) -> None:
        name, body = result
        if isinstance(body, Failed):
            raise body.error
        self._bodies[records.path(name)] = body
