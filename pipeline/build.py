"""One build: survey the input, plan, run shard tasks on a cluster, publish the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from distributed import Client, as_completed, wait
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from pipeline import ledger
from pipeline.cluster import ClusterChoice, connect_to, dashboard_link, total_threads
from pipeline.config import Recipe, load_recipe
from pipeline.errors import BuildError, CosmoflowError, InputError, RecipeError
from pipeline.ledger import Entry
from pipeline.lock import LOCK_NAME
from pipeline.manifest import MANIFEST_NAME, Manifest
from pipeline.output_folder import begin, claimed, finished, is_begun
from pipeline.plan import Plan, make_plan
from pipeline.publish import publish
from pipeline.shard_task import Job, TaskFailure, try_task
from pipeline.survey import (
    Refusal,
    SurveyedUniverse,
    check_duplicates,
    try_survey,
)
from pipeline.universes import UniverseInput, list_universes

TASKS_IN_FLIGHT_PER_THREAD = 3


@dataclass(frozen=True)
class Progress:
    """How far a build is; given to the caller's callback.

    Attributes
    ----------
    stage : {'survey', 'build', 'publish'}
    done, total : int
        Universes surveyed, or shards built.
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


@dataclass
class BuildResult:
    """A finished build.

    Attributes
    ----------
    manifest : Manifest
    output : Path
    seconds : float
        Wall time.
    shards_kept : int
        Shards that an earlier, interrupted run had finished.
    stages : dict
        Seconds of work by stage, over all workers.
    """

    manifest: Manifest
    output: Path
    seconds: float
    shards_kept: int = 0
    stages: dict[str, float] = field(default_factory=dict)


def build(
    recipe_path: Path,
    choice: ClusterChoice | None = None,
    resume: bool = False,
    report: Report = lambda progress: None,
) -> BuildResult:
    """Build the data set of a recipe.

    Parameters
    ----------
    recipe_path : Path
    choice : ClusterChoice, optional
        Where to run; default: a local cluster.
    resume : bool
        Go on with a build that was stopped; its finished shards are kept.
    report : callable
        Called with a :class:`Progress` as the build goes on.

    Raises
    ------
    RecipeError, InputError, SnapshotError
        If the recipe or the input is not right; all refused universes are named.
    OutputError
        If the output exists, is held by another build or cannot be written.
    BuildError
        If workers keep dying on a task.
    """
    started = time.perf_counter()
    recipe = load_recipe(recipe_path)
    root = recipe_path.resolve().parent
    job = Job(recipe, root, root / recipe.output.path)
    choice = choice or ClusterChoice()
    universes = list_universes(recipe, root)
    with claimed(job, resume), connect_to(choice) as client:
        plan = make_plan(recipe, survey_all(universes, recipe, client, report))
        begin(job, plan)
        kept = finished(job, plan) if resume else {}
        entries = _run(plan, job, kept, client, report)
        report(Progress("publish", plan.n_shards, plan.n_shards))
        manifest = publish(plan, entries.values(), job.output)
    return BuildResult(
        manifest,
        job.output,
        time.perf_counter() - started,
        sum(len(entry.shards) for entry in kept.values()),
        _stage_totals(entries.values()),
    )


def survey_all(
    universes: Sequence[UniverseInput],
    recipe: Recipe,
    client: Client,
    report: Report = lambda progress: None,
) -> list[SurveyedUniverse]:
    """Survey every universe on the cluster.

    Raises
    ------
    InputError
        With a line for every universe that is refused, or for one snapshot under two names.
    """
    results = _survey_results(universes, recipe, client, report)
    refused = [r for r in results if isinstance(r, Refusal)]
    if refused:
        raise InputError(refusals_text(refused, len(universes)))
    surveyed = [r for r in results if isinstance(r, SurveyedUniverse)]
    check_duplicates(surveyed)
    return surveyed


def _survey_results(
    universes: Sequence[UniverseInput],
    recipe: Recipe,
    client: Client,
    report: Report,
    look: Look = try_survey,
) -> list[SurveyedUniverse | Refusal]:
    """One result a universe, in the order of ids."""
    results: list[SurveyedUniverse | Refusal] = []
    link = dashboard_link(client)
    report(Progress("survey", 0, len(universes), dashboard=link))
    for result in _completed(client, ((look, u, recipe) for u in universes)):
        results.append(result)
        report(Progress("survey", len(results), len(universes), dashboard=link))
    return sorted(results, key=lambda r: r.id)


def refusals_text(refused: Sequence[Refusal], total: int, most: int = 20) -> str:
    """One line a refusal, at most ``most`` of them."""
    lines = [f"{len(refused)} of {total} universes cannot be used:"]
    lines += [f"  {r.reason}" for r in sorted(refused, key=lambda r: r.id)[:most]]
    if len(refused) > most:
        lines.append(f"  and {len(refused) - most} more; 'cosmoflow-prep check' shows all")
    return "\n".join(lines)


def _run(
    plan: Plan, job: Job, kept: dict[str, Entry], client: Client, report: Report
) -> dict[str, Entry]:
    """Run all tasks that are not in ``kept``; entries of all by task name."""
    entries = dict(kept)
    done = sum(len(entry.shards) for entry in kept.values())
    particles = 0
    todo = ((try_task, task, job) for task in plan.tasks if task.name not in kept)
    report(Progress("build", done, plan.n_shards, 0, dashboard_link(client)))
    for entry in _entries(client, todo):
        entries[entry.task] = entry
        done += len(entry.shards)
        particles += sum(s.n_particles for u in entry.universes for s in u.snapshots)
        report(Progress("build", done, plan.n_shards, particles, dashboard_link(client)))
    return entries


def _entries(client: Client, calls: Iterator[tuple[Any, ...]]) -> Iterator[Entry]:
    """Entries of tasks as they finish; the first that failed ends the build."""
    with closing(_completed(client, calls)) as results:
        for result in results:
            if isinstance(result, TaskFailure):
                raise result.error
            yield result


def _completed(client: Client, calls: Iterator[tuple[Any, ...]]) -> Generator[Any]:
    """Results of calls as they finish, with a bounded number of them on the scheduler."""
    in_flight = TASKS_IN_FLIGHT_PER_THREAD * total_threads(client)
    open_futures = {_submit(client, call) for call in islice(calls, in_flight)}
    pending = as_completed(open_futures)
    try:
        for future in pending:
            open_futures.discard(future)
            result = _result(future)
            for call in islice(calls, 1):
                following = _submit(client, call)
                open_futures.add(following)
                pending.add(following)
            yield result
    except (CosmoflowError, GeneratorExit):
        _drop(client, open_futures)
        raise
    except KeyboardInterrupt:
        if client.cluster is None:  # the workers of a local cluster end with it
            _drop(client, open_futures)
        raise


def _submit(client: Client, call: tuple[Any, ...]) -> Any:
    return client.submit(*call, pure=False)


def _result(future: Any) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        raise BuildError(
            f"workers died {error.allowed_failures + 1} times on task {error.task}, out of "
            "memory perhaps ('cosmoflow-prep plan' prints what a worker needs)"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise BuildError(
            f"the scheduler went away ({error}); start it again and go on with --resume"
        ) from error


def _drop(client: Client, futures: set[Any]) -> None:
    """Start no more tasks, and wait for those that run: none writes after the build has ended."""
    with suppress(OSError, CancelledError):  # a scheduler that is gone runs nothing
        running = {key for keys in client.processing().values() for key in keys}
        client.cancel([future for future in futures if future.key not in running])
        wait([future for future in futures if future.key in running])


def _stage_totals(entries: Any) -> dict[str, float]:
    totals: dict[str, float] = {}
    for entry in entries:
        for stage, seconds in entry.seconds.items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    return totals


def plan_recipe(recipe_path: Path, choice: ClusterChoice | None = None) -> Plan:
    """Plan of a recipe after surveying its input; nothing is written."""
    recipe = load_recipe(recipe_path)
    universes = list_universes(recipe, recipe_path.resolve().parent)
    with connect_to(choice or ClusterChoice()) as client:
        return make_plan(recipe, survey_all(universes, recipe, client))


def check_recipe(
    recipe_path: Path,
    choice: ClusterChoice | None = None,
    report: Report = lambda progress: None,
    look: Look = try_survey,
) -> tuple[list[SurveyedUniverse], list[Refusal]]:
    """Survey the input of a recipe: the universes that can be used, and the refused ones.

    ``look`` looks at one universe, on a worker.
    """
    recipe = load_recipe(recipe_path)
    universes = list_universes(recipe, recipe_path.resolve().parent)
    with connect_to(choice or ClusterChoice()) as client:
        results = _survey_results(universes, recipe, client, report, look)
    surveyed = [r for r in results if isinstance(r, SurveyedUniverse)]
    refused = [r for r in results if isinstance(r, Refusal)]
    return surveyed, refused


def resumable(recipe_path: Path) -> int | None:
    """Finished shards of an interrupted build of a recipe; None if there is none to go on with."""
    try:
        recipe = load_recipe(recipe_path)
    except RecipeError:
        return None
    output = recipe_path.resolve().parent / recipe.output.path
    if (output / MANIFEST_NAME).exists() or (output / LOCK_NAME).exists() or not is_begun(output):
        return None
    return sum(len(entry.shards) for entry in ledger.read(output).values())
