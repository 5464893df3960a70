"""How far a build is, from its output alone: nothing is locked and nothing is written."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline import ledger
from pipeline.config import load_recipe
from pipeline.disk_space import MARGIN, Measured
from pipeline.errors import QUARANTINED_EXIT_CODE, DatasetError
from pipeline.ledger import Entry
from pipeline.lock import SILENT_SECONDS, Holder, holder_of
from pipeline.manifest import MANIFEST_NAME, File, Manifest, Shard, Universe, load
from pipeline.output_folder import is_begun
from pipeline.plan_record import PlanRecord, read_plan_record, recipe_of
from pipeline.write.store import Store
from pipeline.write.stores import Place, open_store

RATE_SECONDS = 600.0
"""The rate is that of so many last seconds."""

N_LAST = 5
"""Entries of the ledger that are shown."""

State = Literal["running", "silent", "stopped", "finished", "damaged"]

EXIT_CODES: dict[State, int] = {
    "finished": 0,
    "damaged": DatasetError.exit_code,
    "running": 20,
    "silent": 21,
    "stopped": 21,
}
"""Exit codes of ``cosmoflow-prep status``."""


@dataclass(frozen=True)
class Process:
    """Who holds an output: seconds since its last sign of life, and since it began (or None)."""

    host: str
    pid: int
    silent_seconds: float | None
    seconds: float | None


@dataclass(frozen=True)
class Last:
    """One of the last tasks that were finished."""

    task: str
    universes: list[str]
    seconds_ago: float | None


@dataclass
class Status:
    """How far a build is.

    Attributes
    ----------
    place : str
        Folder or URL of the data set.
    state : str
        ``running``; ``silent``: held by a process that gave no sign of life for long;
        ``stopped``; ``finished``; or ``damaged``.
    stage : str
        ``survey`` before the plan is there, then ``build``, ``publish``, ``done``.
    shards_done, samples_done, universes_done : int
    shards, samples, universes : int or None
        All of them; None before the plan is there.
    quarantined : dict
        Reason by id of each universe that is left out.
    particles_done, particles : int or None
        Deposited; of all headers.
    bytes_written : int
    bytes_needed : int or None
        Still to be written, as expected from the ratio of compression so far.
    bytes_free : int or None
        None where the place does not tell.
    shards_a_minute, bytes_a_second : float or None
        Over the last :data:`RATE_SECONDS` of a build that runs.
    seconds_left : float or None
        At that rate.
    stage_seconds : dict
        Work of all workers by stage.
    last : list of Last
        Newest first.
    process : Process or None
        Who holds the output.
    faults : list of str
        What is wrong.
    advice : str
        What to do next.
    """

    place: str
    state: State = "stopped"
    stage: str = "survey"
    shards_done: int = 0
    shards: int | None = None
    samples_done: int = 0
    samples: int | None = None
    universes_done: int = 0
    universes: int | None = None
    quarantined: dict[str, str] = field(default_factory=dict)
    particles_done: int = 0
    particles: int | None = None
    bytes_written: int = 0
    bytes_needed: int | None = None
    bytes_free: int | None = None
    shards_a_minute: float | None = None
    bytes_a_second: float | None = None
    seconds_left: float | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)
    last: list[Last] = field(default_factory=list)
    process: Process | None = None
    faults: list[str] = field(default_factory=list)
    advice: str = ""

    @property
    def exit_code(self) -> int:
        """Code that ``cosmoflow-prep status`` leaves with."""
        if self.state == "finished" and self.quarantined:
            return QUARANTINED_EXIT_CODE
        return EXIT_CODES[self.state]


def status_of(place: Place) -> Status:
    """How far the build of a data set is.

    Parameters
    ----------
    place : Store, Path or str
        The data set's folder or URL, or the recipe's file.

    Raises
    ------
    DatasetError
        If no build was started there.
    RecipeError
        If the recipe is not right.
    OutputError
        If a remote place does not answer.
    """
    store, recipe = _named(place)
    held = holder_of(store)
    if held is None and not store.exists(MANIFEST_NAME) and not ledger.journals(store):
        _check_begun(store, recipe)
    status = Status(str(store.address()), bytes_free=store.free_bytes())
    if held is not None:
        _add_holder(status, *held)
    part = 0
    if store.exists(MANIFEST_NAME):
        manifest = _manifest(status, store)
        part = len(manifest.all_parts()) if manifest is not None else 0
        if manifest is None:
            return status
        if not is_begun(store, part):  # no extension that is not finished
            _add_manifest(status, store, manifest)
            return status
    _add_ledger(status, store, recipe, part)
    return status


def _named(place: Place) -> tuple[Store, Path | None]:
    """The data set's place, and the recipe if that was named."""
    store = open_store(place)
    path = store.local
    if path is None or path.suffix not in (".yaml", ".yml") or not path.is_file():
        return store, None
    return open_store(load_recipe(path).output.path, path.resolve().parent), path


def _check_begun(store: Store, recipe: Path | None) -> None:
    if is_begun(store):
        return
    there = "no build was started there" if store.exists() else "there is no such place"
    start = f"; start one with: {_command(recipe, '')}" if recipe else ""
    raise DatasetError(f"{store}: {there}, expected a data set, a build or a recipe{start}")


def _add_holder(status: Status, holder: Holder, silence: float | None) -> None:
    now = time.time()
    since = max(0.0, now - holder.since) if holder.since else None
    status.process = Process(holder.host, holder.pid, silence, since)
    if holder.is_gone:
        status.state = "stopped"
    elif silence is not None and silence > SILENT_SECONDS:
        status.state = "silent"
    else:
        status.state = "running"


def _manifest(status: Status, store: Store) -> Manifest | None:
    try:
        return load(store)
    except DatasetError as error:
        status.state, status.faults = "damaged", [str(error)]
        status.advice = "restore the manifest, or remove the data set and build it again"
        return None


def _add_manifest(status: Status, store: Store, manifest: Manifest) -> None:
    """A data set that was published: its numbers, and whether all its files are there."""
    status.stage = "done"
    entries = [
        entry
        for part in range(len(manifest.all_parts()))
        for entry in ledger.read(store, part).values()
    ]
    status.quarantined = {bad.id: bad.reason for bad in manifest.quarantined}
    _count(status, manifest.shards, manifest.universes, sum(s.bytes for s in manifest.files))
    status.shards, status.samples = status.shards_done, status.samples_done
    status.universes, status.particles = status.universes_done, status.particles_done
    status.stage_seconds, status.last = _stage_seconds(entries), _last(entries)
    status.bytes_needed = 0
    status.faults = _absent(store, _files(manifest))
    status.state = "damaged" if status.faults else "finished"
    verify = f"cosmoflow-prep verify {shlex.quote(status.place)}"
    status.advice = f"{verify} {'names every fault' if status.faults else 'reads every byte'}"


def _files(manifest: Manifest) -> list[File]:
    index = [shard.index for shard in manifest.shards if shard.index]
    return [*manifest.shards, *index, *manifest.files]


def _absent(store: Store, files: Sequence[File]) -> list[str]:
    """Files that are not there; of a folder also those of another size.  Contents are not read."""
    if store.local is None:
        there = set(store.paths())  # one listing is one request a thousand files
        return [f"{f.path}: is missing" for f in files if f.path not in there]
    found = ((file, store.size(file.path)) for file in files)
    return [
        f"{file.path}: {'is missing' if size is None else f'{size} bytes'}, "
        f"expected {file.bytes} bytes"
        for file, size in found
        if size != file.bytes
    ]


def _add_ledger(status: Status, store: Store, recipe: Path | None, part: int) -> None:
    """A build, or an extension by a part, that is not finished."""
    entries = ledger.read(store, part)
    lines = ledger.read_history(store, part).quarantined.values()
    status.quarantined = {line.id: line.reason for line in lines}
    shards = [shard for entry in entries.values() for shard in entry.shards]
    universes = [universe for entry in entries.values() for universe in entry.universes]
    _count(status, shards, universes, 0)
    status.stage_seconds, status.last = _stage_seconds(entries.values()), _last(entries.values())
    record = None
    try:
        record = read_plan_record(store, part)
    except DatasetError as error:
        status.faults.append(str(error))
    if record is not None:
        _add_plan(status, record, entries.values())
        recipe = recipe or recipe_of(store, record)
    if status.state == "running":
        _add_rate(status, entries.values())
    else:
        status.faults += [f"{fault}; it is made again" for fault in _absent(store, shards)]
    status.advice = _advice(status, store, recipe, part)


def _add_plan(status: Status, record: PlanRecord, entries: Iterable[Entry]) -> None:
    status.shards, status.particles = record.shards, record.particles
    status.samples = sum(record.samples.values())
    status.universes = sum(record.universes.values())
    status.stage = "build" if status.shards_done < record.shards else "publish"
    measured = Measured(record.sample_bytes)
    for entry in entries:
        measured.add(entry)
    left = max(0, status.samples - status.samples_done)
    status.bytes_needed = int(measured.expected(left) * MARGIN)


def _add_rate(status: Status, entries: Iterable[Entry]) -> None:
    """Rate of this run: what earlier runs did long ago does not enter."""
    now = time.time()
    run = status.process.seconds if status.process else None
    window = min(RATE_SECONDS, run) if run else RATE_SECONDS
    recent = [entry for entry in entries if now - window < entry.finished <= now]
    if not recent or not window:
        return
    shards = [shard for entry in recent for shard in entry.shards]
    status.shards_a_minute = 60 * len(shards) / window
    status.bytes_a_second = sum(shard.bytes for shard in shards) / window
    if status.shards is not None:
        left = max(0, status.shards - status.shards_done)
        status.seconds_left = 60 * left / status.shards_a_minute


def _count(
    status: Status, shards: Sequence[Shard], universes: Sequence[Universe], other: int
) -> None:
    status.shards_done = len(shards)
    status.samples_done = sum(shard.samples for shard in shards)
    status.universes_done = len(universes)
    status.particles_done = sum(s.n_particles for u in universes for s in u.snapshots)
    index = sum(shard.index.bytes for shard in shards if shard.index)
    status.bytes_written = sum(shard.bytes for shard in shards) + index + other


def _stage_seconds(entries: Iterable[Entry]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for entry in entries:
        for stage, seconds in entry.seconds.items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    return totals


def _last(entries: Iterable[Entry]) -> list[Last]:
    now = time.time()
    newest = sorted(entries, key=lambda entry: (entry.finished, entry.task), reverse=True)[:N_LAST]
    return [
        Last(
            entry.task,
            [universe.id for universe in entry.universes],
            max(0.0, now - entry.finished) if entry.finished else None,
        )
        for entry in newest
    ]


def _advice(status: Status, store: Store, recipe: Path | None, part: int) -> str:
    go_on = f"go on with: {_command(recipe, ' --extend --resume' if part else ' --resume')}"
    if status.state == "running":
        return "wait for it; nothing else may write there"
    if status.state == "silent":
        return f"if that process has ended, remove {store.address('.lock')}, then {go_on}"
    return go_on


def _command(recipe: Path | None, options: str) -> str:
    return f"cosmoflow-prep build {shlex.quote(str(recipe)) if recipe else 'RECIPE'}{options}"
