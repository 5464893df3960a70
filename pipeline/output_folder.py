"""The place of a build: claimed by one process, begun once, gone on with as it was begun.

A build has begun when ``ledger/software.json`` is there: it is written after
the recipe and the list of universes, so that what a kill leaves before it is
started again.  An extension has all of it in a folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import ledger
from pipeline.config import Recipe, parse_recipe, recipe_difference, recipe_yaml
from pipeline.errors import InputError, OutputError
from pipeline.ledger import LEDGER_FOLDER, Entry
from pipeline.lock import LOCK_NAME, Hold, locked, refuse_held
from pipeline.manifest import MANIFEST_NAME, RECIPE_NAME, Universe, inside, part_folder
from pipeline.plan import Plan, ShardTask
from pipeline.plan_record import record_plan
from pipeline.shard_task import Job
from pipeline.signals import deferred
from pipeline.software import software_versions
from pipeline.survey import SurveyedUniverse
from pipeline.universes import UniverseInput
from pipeline.write.store import Store, StoreError

_BEFORE_THE_BEGINNING = (LOCK_NAME, RECIPE_NAME, LEDGER_FOLDER)


def recipe_name(part: int = 0) -> str:
    """Path of the resolved recipe of a build, or of the extension that adds a part."""
    return inside(part_folder(part), RECIPE_NAME)


def _software_name(part: int) -> str:
    return f"{ledger.folder(part)}/software.json"


def _listing_name(part: int) -> str:
    return f"{ledger.folder(part)}/universes.json"


def is_begun(output: Store, part: int = 0) -> bool:
    """Whether a build, or the extension that adds a part, was begun, finished or not."""
    return output.exists(_software_name(part))


@contextmanager
def claimed(job: Job, resume: bool) -> Iterator[Hold]:
    """Hold the output while the block runs; one that fails before it has begun leaves nothing.

    Raises
    ------
    OutputError
        If the output is held, finished, not a build's, or was begun otherwise.
    """
    with held(job.output, lambda: _check(job, resume)) as hold:
        yield hold


@contextmanager
def held(output: Store, check: Callable[[], None]) -> Iterator[Hold]:
    """Hold the output while the block runs, if it passes a check before and under the lock."""
    refuse_held(output)
    check()
    ours = not output.exists()
    with locked(output) as hold:
        try:
            # again under the lock: another build may have finished in between
            check()
            yield hold
        finally:
            with deferred():
                hold.end_beats()
                if ours and not is_begun(output):
                    output.remove_all()
                else:
                    output.sweep()


def _check(job: Job, resume: bool) -> None:
    output = job.output
    if output.local is not None and output.exists() and not output.local.is_dir():
        raise OutputError(f"{output}: a file, expected a folder to make; change output.path")
    if output.exists(MANIFEST_NAME):
        raise OutputError(
            f"{output}: there is a finished data set; nothing was changed. Add universes to it "
            "with --extend, choose another output.path, or remove the folder to build it again"
        )
    if is_begun(output):
        if not resume:
            raise OutputError(
                f"{output}: a build was started there and did not finish; go on with --resume, "
                "or remove the folder to start again"
            )
        check_same_build(job)
    elif not _is_blank(output):
        raise OutputError(f"{output}: the folder is not empty; choose another output.path")


def _is_blank(output: Store) -> bool:
    """Whether there is nothing but what a build writes before it has begun."""
    strangers = [
        name
        for name in output.names()
        if name not in _BEFORE_THE_BEGINNING and not name.endswith(".tmp")
    ]
    return not strangers and not ledger.journals(output)


def check_same_build(job: Job) -> None:
    """Refuse to go on with another recipe or other software than the output was begun with.

    Raises
    ------
    OutputError
        With every difference.
    """
    differences = recipe_difference(_begun_recipe(job), job.recipe)
    differences += software_difference(_begun_with(job))
    if differences:
        raise OutputError(
            f"{job.output}: was begun with another recipe or software, so the shards would not "
            "fit together:\n  " + "\n  ".join(differences) + "\nrestore them, or remove "
            f"{_begun_place(job)} to start again"
        )


def software_difference(there: Mapping[str, str]) -> list[str]:
    """Readable differences of the versions there from those that are installed."""
    return [
        f"software {name}: {there.get(name)} there, {version} now"
        for name, version in software_versions().items()
        if there.get(name) != version
    ]


def _begun_place(job: Job) -> str:
    """What to remove to start again."""
    if not job.part:
        return str(job.output)
    return f"{job.output.address(part_folder(job.part))} and {ledger.folder(job.part)}"


def _begun_recipe(job: Job) -> Recipe:
    name = recipe_name(job.part)
    try:
        return parse_recipe(job.output.read(name), str(job.output.address(name)))
    except StoreError:
        raise
    except OSError as error:
        raise _unreadable(job, name, error) from error


def _begun_with(job: Job) -> dict[str, str]:
    begun = _begun_json(job, _software_name(job.part))
    return {str(name): str(version) for name, version in begun.items()}


def _begun_json(job: Job, name: str) -> dict[str, Any]:
    try:
        begun = json.loads(job.output.read(name))
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(job, name, error) from error
    if not isinstance(begun, dict):
        raise _unreadable(job, name, TypeError("not an object"))
    return begun


def _unreadable(job: Job, name: str, error: Exception) -> OutputError:
    return OutputError(
        f"{job.output.address(name)}: cannot be read ({error}); remove {_begun_place(job)} to "
        "start again"
    )


def begin(
    job: Job, plan: Plan, listed: Sequence[UniverseInput], recipe_path: Path | None = None
) -> None:
    """Write what a resumed build will be compared with, if this is not one.

    Raises
    ------
    OutputError
        If the output cannot be written.
    """
    record_plan(job.output, plan, recipe_path)
    if is_begun(job.output, job.part):
        return
    listing = {universe.id: universe.parameters for universe in listed}
    job.output.write(recipe_name(job.part), recipe_yaml(job.recipe).encode())
    job.output.write(_listing_name(job.part), json.dumps(listing).encode())
    job.output.write(_software_name(job.part), json.dumps(software_versions()).encode())


def check_same_list(job: Job, listed: Sequence[UniverseInput]) -> None:
    """Refuse other universes or parameters than those that the build was begun with.

    Raises
    ------
    InputError
        Naming the first universe that differs.
    """
    if not is_begun(job.output, job.part):
        return
    begun = _begun_json(job, _listing_name(job.part))
    now = {universe.id: universe.parameters for universe in listed}
    for universe in sorted(begun.keys() | now.keys()):
        if universe not in now:
            raise _changed(job, f"universe {universe!r} is no longer in the input, which")
        if universe not in begun:
            raise _changed(job, f"universe {universe!r} is new in the input, which")
        if begun[universe] != now[universe]:
            raise _changed(
                job,
                f"universe {universe!r}: its parameters",
                _value_difference(begun[universe], now[universe]),
            )


@dataclass(frozen=True)
class Finished:
    """What the ledger has of the tasks of a plan.

    Attributes
    ----------
    entries : dict
        By task: what they made is there, and is what the plan asks for.
    superseded : list of str
        Lines, by digest, of tasks that the plan has otherwise, since other
        universes are quarantined.
    """

    entries: dict[str, Entry]
    superseded: list[str]


def finished(job: Job, plan: Plan) -> Finished:
    """Tasks of a plan that are done already.

    Raises
    ------
    InputError
        If an entry was made from other parameters or snapshots than the plan's.
    """
    lines = ledger.read_history(job.output, job.part).entries
    tasks = {task.name: task for task in plan.tasks}
    universes = {u.id: u for task in plan.tasks for u in task.universes}
    found = Finished({}, [])
    for digest, entry in lines.items():
        _check_same_input(job, entry, universes)
        if entry.task not in tasks or not _is_of(entry, tasks[entry.task]):
            found.superseded.append(digest)
        elif _shards_there(job.output, entry):
            found.entries[entry.task] = entry
    return found


def _is_of(entry: Entry, task: ShardTask) -> bool:
    """Whether an entry is of the same universes in the same shards."""
    made = [(s.path, s.first_sample, s.samples) for s in entry.shards]
    wanted = [(s.path, s.first_sample, s.samples) for s in task.shards]
    return made == wanted and [u.id for u in entry.universes] == [u.id for u in task.universes]


def _check_same_input(job: Job, entry: Entry, universes: Mapping[str, SurveyedUniverse]) -> None:
    for before in entry.universes:
        now = universes.get(before.id)
        if now is None:  # quarantined since
            continue
        if before.parameters != now.parameters:
            differences = _value_difference(before.parameters, now.parameters)
            raise _changed(job, f"universe {before.id!r}: its parameters", differences)
        if [s.fingerprint for s in before.snapshots] != [c.fingerprint for c in now.channels]:
            differences = _snapshot_difference(before, now)
            raise _changed(job, f"universe {before.id!r}: its snapshots", differences)


def _value_difference(then: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    return [
        f"{name}: {then.get(name, 'nothing')} then, {now.get(name, 'nothing')} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _snapshot_difference(then: Universe, now: SurveyedUniverse) -> list[str]:
    return [
        f"redshift {new.redshift_wanted:g}, {new.header.name}: fingerprint {old.fingerprint} then, "
        f"{new.fingerprint} now"
        for old, new in zip(then.snapshots, now.channels, strict=False)
        if old.fingerprint != new.fingerprint
    ]


def _changed(job: Job, what: str, differences: Sequence[str] = ()) -> InputError:
    shown = "".join(f"\n  {line}" for line in differences)
    return InputError(
        f"{what} changed since the build was begun{':' if shown else ''}{shown}"
        f"{chr(10) if shown else '; '}restore them, or remove {_begun_place(job)} to start again"
    )


def _shards_there(output: Store, entry: Entry) -> bool:
    files = [f for shard in entry.shards for f in (shard, shard.index) if f is not None]
    return all(output.size(file.path) == file.bytes for file in files)
