"""One build: survey the input, plan, run shard tasks on a cluster, publish the manifest."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from distributed import Client, as_completed, wait
from distributed.scheduler import KilledWorker

from pipeline import ledger
from pipeline.cluster import ClusterChoice, connect_to, dashboard_link, total_threads
from pipeline.config import Recipe, load_recipe, recipe_difference, recipe_yaml
from pipeline.errors import BuildError, CosmoflowError, InputError, OutputError, RecipeError
from pipeline.ledger import LEDGER_FOLDER, Entry
from pipeline.lock import LOCK_NAME, locked
from pipeline.manifest import MANIFEST_NAME, Manifest
from pipeline.plan import Plan, ShardTask, make_plan
from pipeline.publish import RECIPE_NAME, publish
from pipeline.shard_task import Job, TaskFailure, try_task
from pipeline.software import software_versions
from pipeline.survey import Refusal, SurveyedUniverse, check_duplicates, try_survey
from pipeline.universes import UniverseInput, list_universes
from pipeline.write.atomic import explained, sweep_temporaries, write_atomically

SOFTWARE_NAME = f"{LEDGER_FOLDER}/software.json"
TASKS_IN_FLIGHT_PER_THREAD = 3
SPARE_DISK_FRACTION = 0.02


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
    with _claimed(job, resume), connect_to(choice) as client:
        plan = make_plan(recipe, survey_all(universes, recipe, client, report))
        _begin(job, plan)
        kept = _finished(job, plan) if resume else {}
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


@contextmanager
def _claimed(job: Job, resume: bool) -> Iterator[None]:
    """Lock the output; a build that fails before its first shard leaves nothing behind."""
    _check_output(job, resume)
    ours = not job.output.exists()
    with locked(job.output):
        try:
            # again under the lock: another build may have finished in between
            _check_output(job, resume)
            yield
        finally:
            if ours and not (job.output / LEDGER_FOLDER).exists():
                shutil.rmtree(job.output)
            else:
                sweep_temporaries(job.output)


def _check_output(job: Job, resume: bool) -> None:
    output = job.output
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: a file, expected a folder to make; change output.path")
    if (output / MANIFEST_NAME).exists():
        raise OutputError(
            f"{output}: there is a finished data set; nothing was changed. Choose another "
            "output.path, or remove the folder to build it again"
        )
    if (output / LEDGER_FOLDER).exists():
        if not resume:
            raise OutputError(
                f"{output}: a build was started there and did not finish; go on with --resume, "
                "or remove the folder to start again"
            )
        _check_same_build(job)
    elif output.is_dir() and any(p.name != LOCK_NAME for p in output.iterdir()):
        raise OutputError(f"{output}: the folder is not empty; choose another output.path")


def _check_same_build(job: Job) -> None:
    there = load_recipe(job.output / RECIPE_NAME)
    differences = recipe_difference(there, job.recipe)
    versions: dict[str, str] = json.loads((job.output / SOFTWARE_NAME).read_text())
    for name, version in software_versions().items():
        if versions.get(name) != version:
            differences.append(f"software {name}: {versions.get(name)} there, {version} now")
    if differences:
        raise OutputError(
            f"{job.output}: was begun with another recipe or software, so the shards would not "
            "fit together:\n  " + "\n  ".join(differences) + "\nrestore them, or remove the "
            "folder to start again"
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


def _begin(job: Job, plan: Plan) -> None:
    """Write what a resumed build will be compared with, if this is not one."""
    _check_disk(job.output, plan)
    if (job.output / LEDGER_FOLDER).exists():
        return
    write_atomically(job.output / RECIPE_NAME, recipe_yaml(job.recipe).encode())
    with explained(job.output):
        (job.output / LEDGER_FOLDER).mkdir()
    write_atomically(job.output / SOFTWARE_NAME, json.dumps(software_versions()).encode())


def _check_disk(output: Path, plan: Plan) -> None:
    free = shutil.disk_usage(output).free
    # codecs reach 4 to 8 on counts; a quarter of the raw size is the least that can be needed
    needed = plan.output_bytes // 4 if plan.recipe.output.codec != "none" else plan.output_bytes
    if free < needed * (1 + SPARE_DISK_FRACTION):
        raise OutputError(
            f"{output}: {free / 2**30:.1f} GiB free, at least {needed / 2**30:.1f} GiB needed "
            f"for {plan.output_bytes / 2**30:.1f} GiB of samples; free space or change output.path"
        )


def _finished(job: Job, plan: Plan) -> dict[str, Entry]:
    """Entries of the ledger whose shards are all there."""
    entries = ledger.read(job.output)
    kept = {task.name: entries[task.name] for task in plan.tasks if task.name in entries}
    for task in plan.tasks:
        if task.name in kept:
            _check_same_input(task, kept[task.name])
    return {name: entry for name, entry in kept.items() if _shards_there(job.output, entry)}


def _check_same_input(task: ShardTask, entry: Entry) -> None:
    before = {u.id: [s.fingerprint for s in u.snapshots] for u in entry.universes}
    for universe in task.universes:
        if before.get(universe.id) != [c.fingerprint for c in universe.channels]:
            raise InputError(
                f"universe {universe.id!r}: its snapshots changed since the build was begun; "
                "restore them, or remove the output to start again"
            )


def _shards_there(output: Path, entry: Entry) -> bool:
    files = [f for shard in entry.shards for f in (shard, shard.index) if f is not None]
    return all(
        (output / file.path).is_file() and (output / file.path).stat().st_size == file.bytes
        for file in files
    )


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


def _drop(client: Client, futures: set[Any]) -> None:
    """Start no more tasks, and wait for those that run: none writes after the build has ended."""
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
    if (output / MANIFEST_NAME).exists() or not (output / LEDGER_FOLDER).is_dir():
        return None
    return sum(len(entry.shards) for entry in ledger.read(output).values())
