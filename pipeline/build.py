"""One build: survey the input, plan, run shard tasks on a cluster, publish the manifest."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import ledger
from pipeline.boxes import WHERE_NEEDED, BoxOptions
from pipeline.cluster import ClusterChoice, connect_to
from pipeline.config import load_recipe
from pipeline.deposit import CPU, get_backend
from pipeline.errors import DatasetError, OutputError, RecipeError
from pipeline.extend import Extension, claimed_extension
from pipeline.ledger import Entry
from pipeline.lock import LOCK_NAME, Hold
from pipeline.manifest import MANIFEST_NAME, Manifest, load
from pipeline.output_folder import check_same_list, claimed, is_begun
from pipeline.plan import Plan, make_plan, quantity_of
from pipeline.publish import publish
from pipeline.quarantine import portable
from pipeline.rounds import Look, Progress, Report, Run, RunOptions, survey_all, taken_up
from pipeline.shard_task import Job
from pipeline.survey import Refusal, SurveyedUniverse, check_boxes, check_duplicates, try_survey
from pipeline.universes import list_universes
from pipeline.write.stores import open_store


@dataclass
class BuildResult:
    """A finished build.

    Attributes
    ----------
    manifest : Manifest
    output : Path or str
        Folder or URL of the data set.
    seconds : float
        Wall time.
    shards_kept : int
        Shards that an earlier, interrupted run had finished.
    stages : dict
        Seconds of work by stage, over all workers.
    """

    manifest: Manifest
    output: Path | str
    seconds: float
    shards_kept: int = 0
    stages: dict[str, float] = field(default_factory=dict)


def build(
    recipe_path: Path,
    choice: ClusterChoice | None = None,
    resume: bool = False,
    report: Report = lambda progress: None,
    ignore_disk_space: bool = False,
    *,
    strict: bool = False,
    retry_quarantined: bool = False,
    extend: bool = False,
    backend: str = CPU,
    boxes: BoxOptions = WHERE_NEEDED,
) -> BuildResult:
    """Build the data set of a recipe, or add universes to it.

    Universes that cannot be used are quarantined: the data set is built without
    them, and its manifest tells which and why.

    Parameters
    ----------
    recipe_path : Path
    choice : ClusterChoice, optional
        Where to run; default: a local cluster.
    resume : bool
        Go on with a build, or an extension, that was stopped; its finished shards are kept.
    report : callable
        Called with a :class:`Progress` as the build goes on.
    ignore_disk_space : bool
        Start, and go on, where the free space may not hold the data set.
    strict : bool
        Stop at the first universe that cannot be used.
    retry_quarantined : bool
        With ``resume`` or ``extend``: try again the universes that were quarantined before.
    extend : bool
        Add the universes of the input that the published data set does not have.
    backend : str
        What deposits, see ``deposit.assign``; the data set is the same.
    boxes : BoxOptions
        When and where universes are made in parts, by several workers; the data set is the same.

    Raises
    ------
    RecipeError, InputError, SnapshotError
        If the recipe or the input is not right; all refused universes are named.
    OutputError
        If the output exists, is held by another build or cannot be written.
    DatasetError
        If there is no data set to extend.
    MissingDependencyError
        If the backend cannot be used here.
    BuildError
        If workers keep dying on a task, or have too little memory.
    """
    started = time.perf_counter()
    recipe = load_recipe(recipe_path)
    root = recipe_path.resolve().parent
    output = open_store(recipe.output.path, root)
    listed = list_universes(recipe, root)
    options = RunOptions(
        recipe_path,
        listed,
        report,
        strict,
        ignore_disk_space,
        retry_quarantined,
        backend,
        boxes,
    )
    choice = choice or ClusterChoice()
    if choice.cluster == "local":  # else the workers' machines count
        get_backend(backend)
    if extend:
        with claimed_extension(recipe, root, output, resume) as (hold, extension):
            done = _extend(extension, options, choice, hold)
    else:
        job = Job(recipe, root, output, backend=backend)
        with claimed(job, resume) as hold:
            done = _begin_or_go_on(job, options, choice, hold)
    return BuildResult(
        done.manifest,
        output.address(),
        time.perf_counter() - started,
        done.shards_kept,
        _stage_totals(done.entries.values()),
    )


class _Done(NamedTuple):
    manifest: Manifest
    entries: dict[str, Entry]
    shards_kept: int


def _begin_or_go_on(job: Job, options: RunOptions, choice: ClusterChoice, hold: Hold) -> _Done:
    with connect_to(choice) as client:
        check_same_list(job, options.listed)
        known = taken_up(job, options.retry_quarantined)
        asked = [universe for universe in options.listed if universe.id not in known]
        good, refused = survey_all(asked, job.recipe, client, options.report)
        check_duplicates(good)
        run = Run(job, client, options)
        plan, entries, kept = run.to_the_end(good, [*known.values(), *refused])
        options.report(Progress("publish", plan.n_shards, plan.n_shards))
        hold.before_publishing()
        return _Done(publish(plan, entries.values(), job.output), entries, kept)


def _extend(extension: Extension, options: RunOptions, choice: ClusterChoice, hold: Hold) -> _Done:
    job, listed = replace(extension.job, backend=options.backend), options.listed
    check_same_list(job, listed)
    known = taken_up(job, options.retry_quarantined)
    asked = extension.asked(listed, known, options.retry_quarantined)
    with connect_to(choice) as client:
        good, refused = survey_all(asked, job.recipe, client, options.report)
        new, bad = extension.new_ones(good, refused)
        check_duplicates(good)
        check_boxes(good)
        quantity_of(good, job.recipe)
        run = Run(job, client, options, extension.published)
        plan, entries, kept = run.to_the_end(new, [*known.values(), *bad])
        options.report(Progress("publish", plan.n_shards, plan.n_shards))
        hold.before_publishing()
        before = extension.remaining(listed, [*asked, *(u for u in listed if u.id in known)])
        return _Done(publish(plan, entries.values(), job.output, before), entries, kept)


def _stage_totals(entries: Any) -> dict[str, float]:
    totals: dict[str, float] = {}
    for entry in entries:
        for stage, seconds in entry.seconds.items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    return totals


def plan_recipe(recipe_path: Path, choice: ClusterChoice | None = None) -> Plan:
    """Plan of a recipe after surveying its input; nothing is written."""
    good, refused = check_recipe(recipe_path, choice)
    check_duplicates(good)
    root = recipe_path.resolve().parent
    return make_plan(load_recipe(recipe_path), good, [portable(r, root) for r in refused])


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
        return survey_all(universes, recipe, client, report, look)


def resumable(recipe_path: Path, extend: bool = False) -> int | None:
    """Finished shards of an interrupted build of a recipe, or of its extension.

    None if there is none to go on with.
    """
    try:
        output = open_store(load_recipe(recipe_path).output.path, recipe_path.resolve().parent)
        if output.exists(MANIFEST_NAME) != extend or output.exists(LOCK_NAME):
            return None
        part = len(load(output).all_parts()) if extend else 0
        if not is_begun(output, part):
            return None
        return sum(len(entry.shards) for entry in ledger.read(output, part).values())
    except (RecipeError, OutputError, DatasetError):  # what is wrong was said by the build itself
        return None
