"""The folder of a build: claimed by one process, begun once, gone on with as it was begun.

A build has begun when ``ledger/software.json`` is there: it is written after
the recipe, so that what a kill leaves before it is started again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import ledger
from pipeline.config import load_recipe, recipe_difference, recipe_yaml
from pipeline.errors import InputError, OutputError
from pipeline.ledger import LEDGER_FOLDER, Entry
from pipeline.lock import LOCK_NAME, locked, refuse_held
from pipeline.manifest import MANIFEST_NAME
from pipeline.plan import Plan, ShardTask
from pipeline.publish import RECIPE_NAME
from pipeline.shard_task import Job
from pipeline.software import software_versions
from pipeline.write.atomic import sweep_temporaries, write_atomically

SOFTWARE_NAME = f"{LEDGER_FOLDER}/software.json"
SPARE_DISK_FRACTION = 0.02
_BEFORE_THE_BEGINNING = (LOCK_NAME, RECIPE_NAME, LEDGER_FOLDER)


def is_begun(output: Path) -> bool:
    """Whether a build was begun in the folder, finished or not."""
    return (output / SOFTWARE_NAME).exists()


@contextmanager
def claimed(job: Job, resume: bool) -> Iterator[None]:
    """Hold the output while the block runs; one that fails before it has begun leaves nothing.

    Raises
    ------
    OutputError
        If the output is held, finished, not a build's, or was begun otherwise.
    """
    refuse_held(job.output)
    _check(job, resume)
    ours = not job.output.exists()
    with locked(job.output):
        try:
            # again under the lock: another build may have finished in between
            _check(job, resume)
            yield
        finally:
            if ours and not is_begun(job.output):
                shutil.rmtree(job.output)
            else:
                sweep_temporaries(job.output)


def _check(job: Job, resume: bool) -> None:
    output = job.output
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: a file, expected a folder to make; change output.path")
    if (output / MANIFEST_NAME).exists():
        raise OutputError(
            f"{output}: there is a finished data set; nothing was changed. Choose another "
            "output.path, or remove the folder to build it again"
        )
    if is_begun(output):
        if not resume:
            raise OutputError(
                f"{output}: a build was started there and did not finish; go on with --resume, "
                "or remove the folder to start again"
            )
        _check_same_build(job)
    elif output.is_dir() and not _is_blank(output):
        raise OutputError(f"{output}: the folder is not empty; choose another output.path")


def _is_blank(output: Path) -> bool:
    """Whether there is nothing but what a build writes before it has begun."""
    strangers = [
        path
        for path in output.iterdir()
        if path.name not in _BEFORE_THE_BEGINNING and not path.name.endswith(".tmp")
    ]
    return not strangers and not any((output / LEDGER_FOLDER).glob("*.jsonl"))


def _check_same_build(job: Job) -> None:
    differences = recipe_difference(load_recipe(job.output / RECIPE_NAME), job.recipe)
    versions = _begun_with(job.output)
    for name, version in software_versions().items():
        if versions.get(name) != version:
            differences.append(f"software {name}: {versions.get(name)} there, {version} now")
    if differences:
        raise OutputError(
            f"{job.output}: was begun with another recipe or software, so the shards would not "
            "fit together:\n  " + "\n  ".join(differences) + "\nrestore them, or remove the "
            "folder to start again"
        )


def _begun_with(output: Path) -> dict[str, str]:
    path = output / SOFTWARE_NAME
    try:
        return {str(name): str(version) for name, version in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise OutputError(
            f"{path}: cannot be read ({error}); remove {output} to start again"
        ) from error


def begin(job: Job, plan: Plan) -> None:
    """Write what a resumed build will be compared with, if this is not one.

    Raises
    ------
    OutputError
        If the disk cannot hold the data set, or cannot be written.
    """
    _check_disk(job.output, plan)
    if is_begun(job.output):
        return
    write_atomically(job.output / RECIPE_NAME, recipe_yaml(job.recipe).encode())
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


def finished(job: Job, plan: Plan) -> dict[str, Entry]:
    """Entries of the ledger whose shards are all there, by task.

    Raises
    ------
    InputError
        If an entry was made from other universes, parameters or snapshots than the plan's.
    """
    entries = ledger.read(job.output)
    kept = {task.name: entries[task.name] for task in plan.tasks if task.name in entries}
    for task in plan.tasks:
        if task.name in kept:
            _check_same_input(task, kept[task.name])
    return {name: entry for name, entry in kept.items() if _shards_there(job.output, entry)}


def _check_same_input(task: ShardTask, entry: Entry) -> None:
    begun = {universe.id: universe for universe in entry.universes}
    for universe in task.universes:
        before = begun.get(universe.id)
        if before is None or len(begun) != len(task.universes):
            raise _changed(f"{task.name}: its universes")
        if before.parameters != universe.parameters:
            raise _changed(f"universe {universe.id!r}: its parameters")
        if [s.fingerprint for s in before.snapshots] != [c.fingerprint for c in universe.channels]:
            raise _changed(f"universe {universe.id!r}: its snapshots")
    planned = [(s.path, s.first_sample, s.samples) for s in task.shards]
    if planned != [(s.path, s.first_sample, s.samples) for s in entry.shards]:
        raise _changed(f"{task.name}: the universes of its split")


def _changed(what: str) -> InputError:
    return InputError(
        f"{what} changed since the build was begun; restore them, or remove the output to start "
        "again"
    )


def _shards_there(output: Path, entry: Entry) -> bool:
    files = [f for shard in entry.shards for f in (shard, shard.index) if f is not None]
    return all(
        (output / file.path).is_file() and (output / file.path).stat().st_size == file.bytes
        for file in files
    )
