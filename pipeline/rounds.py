"""The work of a build: rounds over the tasks of a plan until no universe is found bad.

A round runs all tasks.  Universes that it finds bad are quarantined, which
changes the tasks that held them and those that their gaps are filled from; the
next round makes these.  Nothing runs between two rounds, so that no two workers
ever write one shard with different content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from pipeline import ledger
from pipeline.boxes import WHERE_NEEDED, Boxes, BoxOptions
from pipeline.calls import Killed, alone, results
from pipeline.cluster import dashboard_link
from pipeline.config import Recipe
from pipeline.deposit import CPU
from pipeline.disk_space import DiskGuard
from pipeline.errors import BuildError, InputError
from pipeline.ledger import Entry, QuarantineLine
from pipeline.output_folder import begin, finished
from pipeline.plan import NOTHING, Plan, Published, ShardTask, make_plan
from pipeline.quarantine import killed, portable, refusals_text
from pipeline.shard_task import (
    Job,
    TaskFailure,
    UniversesRefusedError,
    compile_deposit,
    try_task,
    try_universe,
)
from pipeline.survey import Refusal, SurveyedUniverse, try_survey
from pipeline.universes import UniverseInput


@dataclass(frozen=True)
class Progress:
    """How far a build is; given to the caller's callback.

    Attributes
    ----------
    stage : {'survey', 'build', 'weigh', 'bin', 'sum', 'shards', 'drain', 'publish'}
        Those from ``weigh`` to ``shards`` are of one universe that is made in parts.
    done, total : int
        Universes surveyed, shards built, tasks of a universe in parts, or running tasks that a
        build that was asked to stop waits for.
    particles : int
        Deposited in this run so far.
    dashboard : str
        Address of the Dask dashboard.
    """

    stage: str
    done: int
    total: int
    particles: int = 0
    dashboard: str = ""


Report = Callable[[Progress], None]
Look = Callable[[UniverseInput, Recipe], SurveyedUniverse | Refusal]


def taken_up(job: Job, retry: bool) -> dict[str, Refusal]:
    """Universes that were quarantined when a build was stopped; none if they are tried again."""
    lines = ledger.read_history(job.output, job.part).quarantined
    if retry:
        ledger.revoke(job.output, lines, job.part)
        return {}
    return {q.id: Refusal(q.id, q.reason, q.parameters) for q in lines.values()}


@dataclass(frozen=True)
class RunOptions:
    """What the user asked for.

    Attributes
    ----------
    recipe_path : Path
    listed : list of UniverseInput
        All universes of the input.
    report : callable
        Called with a :class:`Progress`.
    strict : bool
        Whether the first bad universe ends the build.
    ignore_disk_space, retry_quarantined : bool
    backend : str
        What deposits, see ``deposit.assign``.
    boxes : BoxOptions
        When and where universes are made in parts.
    """

    recipe_path: Path
    listed: list[UniverseInput]
    report: Report
    strict: bool = False
    ignore_disk_space: bool = False
    retry_quarantined: bool = False
    backend: str = CPU
    boxes: BoxOptions = WHERE_NEEDED


@dataclass(frozen=True)
class Run:
    """What stays the same over the rounds of a build.

    Attributes
    ----------
    job : Job
    client : Client
    options : RunOptions
    before : Published
        What an extension adds to.
    """

    job: Job
    client: Client
    options: RunOptions
    before: Published = NOTHING

    def to_the_end(
        self, good: Sequence[SurveyedUniverse], refused: Sequence[Refusal]
    ) -> tuple[Plan, dict[str, Entry], int]:
        """The plan that was done in the end, its entries by task, and shards that were there.

        Raises
        ------
        InputError
            If too few universes can be used, or one cannot and the build is strict.
        BuildError
            If workers keep dying on a task whose universes they can read, or have too
            little memory.
        """
        boxes = self._boxes()
        # one worker compiles, and the others load what it has written
        self.client.submit(compile_deposit, self.job, pure=False).result()
        bad = {r.id: portable(r, self.job.root) for r in refused}
        if bad and self.options.strict:
            raise InputError(refusals_text(list(bad.values()), len(good) + len(bad)))
        kept = None
        while True:
            left = [universe for universe in good if universe.id not in bad]
            plan = make_plan(self.job.recipe, left, list(bad.values()), self.before)
            done = finished(self.job, plan)
            guard = DiskGuard(self.job.output, plan, self.options.ignore_disk_space)
            guard.check_start(done.entries.values())
            left_over = [task for task in plan.tasks if task.name not in done.entries]
            boxes.check(left_over)
            begin(self.job, plan, self.options.listed, self.options.recipe_path)
            self._record(bad.values())
            ledger.revoke(self.job.output, done.superseded, self.job.part)
            if kept is None:
                kept = sum(len(entry.shards) for entry in done.entries.values())
            boxes.sweep(left_over)
            entries, found = self._round(plan, done.entries, guard, boxes)
            if not found:
                boxes.sweep()
                return plan, entries, kept
            bad |= {r.id: portable(r, self.job.root) for r in found}

    def _boxes(self) -> Boxes:
        options = self.options

        def say(stage: str, done: int, total: int) -> None:
            options.report(Progress(stage, done, total))

        return Boxes(self.client, self.job, options.boxes, say, options.ignore_disk_space)

    def _record(self, bad: Iterable[Refusal]) -> None:
        """Put universes into the ledger that are not there as quarantined yet."""
        lines = ledger.read_history(self.job.output, self.job.part).quarantined.values()
        there = {line.id for line in lines}
        for r in sorted(bad, key=lambda r: r.id):
            if r.id not in there:
                line = QuarantineLine(id=r.id, reason=r.reason, parameters=r.parameters)
                ledger.append(self.job.output, line, self.job.part)

    def _round(
        self, plan: Plan, kept: dict[str, Entry], guard: DiskGuard, boxes: Boxes
    ) -> tuple[dict[str, Entry], list[Refusal]]:
        """Run all tasks that are not in ``kept``; entries of all, and universes found bad."""
        entries, refused = dict(kept), list[Refusal]()
        suspects: list[ShardTask] = []
        shown = Shown(self.options.report, plan.n_shards, dashboard_link(self.client))
        shown.add(kept.values(), read=False)
        left = [task for task in plan.tasks if task.name not in kept]
        small = (task for task in left if not boxes.is_large(task))
        todo = ((try_task, task, self.job) for task in guard.admitted(small))
        with results(self.client, todo, shown.drain) as ended:
            for result in ended:
                if isinstance(result, Killed):
                    suspects.append(result.call[1])
                    guard.given_up(result.call[1].name)
                    continue
                if isinstance(result, TaskFailure):
                    guard.given_up(result.task)
                    refused += self._refused(result)
                    continue
                entries[result.task] = result
                guard.finished(result)
                shown.add([result])
        for task in suspects:
            result = self._blamed(task)
            if isinstance(result, Entry):
                entries[result.task] = result
                shown.add([result])
            else:
                refused += result
        for task in guard.admitted(task for task in left if boxes.is_large(task)):
            made = boxes.make(task)
            if isinstance(made, TaskFailure):
                guard.given_up(made.task)
                refused += self._refused(made)
                continue
            entries[made.task] = made
            guard.finished(made)
            shown.add([made])
        return entries, refused

    def _refused(self, failure: TaskFailure) -> Sequence[Refusal]:
        """Universes that a task failed for; its error if there are none, or the build is strict."""
        if self.options.strict or not isinstance(failure.error, UniversesRefusedError):
            raise failure.error
        return failure.error.refused

    def _blamed(self, task: ShardTask) -> Entry | Sequence[Refusal]:
        """Which universes of a task end workers, each tried alone; if none does, the task again."""
        found = list[Refusal]()
        for universe in task.universes:
            result = alone(self.client, (try_universe, universe, task.split, self.job))
            if isinstance(result, Killed):
                result = killed(universe.id, result.deaths, universe.parameters)
                if self.options.strict:
                    raise BuildError(result.reason)
            if result is not None:
                found.append(result)
        if found:
            return found
        result = alone(self.client, (try_task, task, self.job))
        if isinstance(result, Killed):
            raise BuildError(
                f"{result.deaths} workers died on task {task.name}, though each of its universes "
                "can be read: out of memory perhaps ('cosmoflow-prep plan' prints what a worker "
                "needs)"
            )
        return self._refused(result) if isinstance(result, TaskFailure) else result


@dataclass
class Shown:
    """Adds up what a round has done, and reports it."""

    report: Report
    total: int
    dashboard: str
    done: int = 0
    particles: int = 0

    def add(self, entries: Iterable[Entry], read: bool = True) -> None:
        """Finished tasks; ``read``: in this run."""
        for entry in entries:
            self.done += len(entry.shards)
            if read:
                self.particles += sum(s.n_particles for u in entry.universes for s in u.snapshots)
        self.report(Progress("build", self.done, self.total, self.particles, self.dashboard))

    def drain(self, done: int, total: int) -> None:
        """Running tasks that are waited for."""
        self.report(Progress("drain", done, total))


def survey_all(
    universes: Sequence[UniverseInput],
    recipe: Recipe,
    client: Client,
    report: Report = lambda progress: None,
    look: Look = try_survey,
) -> tuple[list[SurveyedUniverse], list[Refusal]]:
    """Survey universes on the cluster: those that can be used, and the others, by id.

    ``look`` looks at one universe, on a worker.
    """
    found: list[SurveyedUniverse | Refusal] = []
    suspects: list[UniverseInput] = []
    link = dashboard_link(client)
    report(Progress("survey", 0, len(universes), dashboard=link))
    with results(client, ((look, u, recipe) for u in universes)) as looked:
        for result in looked:
            if isinstance(result, Killed):
                suspects.append(result.call[1])
                continue
            found.append(result)
            report(Progress("survey", len(found), len(universes), dashboard=link))
    for universe in suspects:
        result = alone(client, (look, universe, recipe))
        if isinstance(result, Killed):
            result = killed(universe.id, result.deaths, universe.parameters or None)
        found.append(result)
    found.sort(key=lambda result: result.id)
    refused = [r for r in found if isinstance(r, Refusal)]
    return [r for r in found if isinstance(r, SurveyedUniverse)], refused
