"""Making again exactly what is damaged in a published data set, and nothing else.

What ``verify`` finds damaged is made again from recipe, manifest and input, in
memory, and takes the place of the damaged file only if its digest is the one
in the manifest.  Each file is replaced at once, so a repair that is killed
leaves some of the files repaired; the next one finds the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.cluster import ClusterChoice
from pipeline.config import recipe_yaml
from pipeline.errors import CosmoflowError, DatasetError
from pipeline.faults import DAMAGED_FILE, Fault
from pipeline.lock import refuse_held
from pipeline.manifest import MANIFEST_NAME, File, Manifest, Shard, load
from pipeline.output_folder import held, is_begun
from pipeline.remake import (
    Plans,
    Remake,
    Source,
    part_input,
    plan_remakes,
    remake,
    small_files,
    software_notes,
)
from pipeline.repair_ledger import repair_ledger
from pipeline.repair_manifest import manifest_again, manifests_before
from pipeline.runners import Run, runner
from pipeline.verify import Progress, Report, listed, verify_with
from pipeline.verify_files import check_file
from pipeline.write.shards import digest
from pipeline.write.store import Store
from pipeline.write.stores import Place, open_store

Shown = Callable[[str], Report]
"""Callback for a stage: ``verify`` or ``repair``."""


@dataclass(frozen=True)
class Wishes:
    """What a repair may do.

    Attributes
    ----------
    dry_run : bool
        Only say what would be done.
    remove_strangers : bool
        Remove files in the places of samples that the manifest does not list.
    """

    dry_run: bool = False
    remove_strangers: bool = False


@dataclass
class Repair:
    """What was found, done and left.

    Attributes
    ----------
    found : list of Fault
    repaired : list of str
        Paths made again; with ``dry_run`` those that would be.
    removed : list of str
        Strangers.
    left : list of str
        What is still wrong, and why, one line each.
    notes : list of str
        Versions of software that differ from the data set's, where something is left.
    """

    found: list[Fault] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def repair(
    dataset: Place,
    source: Source,
    wishes: Wishes = Wishes(),
    choice: ClusterChoice | None = None,
    shown: Shown = lambda stage: lambda progress: None,
) -> Repair:
    """Make again what is damaged.

    Parameters
    ----------
    dataset : Store, Path or str
        Its folder or URL; held like by a build while it is written to.
    source : Source
        Where its recipe and input are, see :func:`pipeline.remake.find_source`.
    wishes : Wishes
    choice : ClusterChoice, optional
        Where to run, see :func:`pipeline.runners.runner`.
    shown : callable
        Gives a callback for the progress of a stage.

    Raises
    ------
    DatasetError
        If there is no data set, or its manifest is damaged and cannot be made again.
    OutputError
        If another process holds the data set, or it cannot be written.
    RecipeError, InputError
        If the recipe is not the data set's, or the input as a whole cannot be listed.
    """
    store = open_store(dataset)
    with _hold(store, wishes.dry_run):
        result = Repair()
        manifest, raw = _manifest(store, source, choice)
        if raw is not None:
            _put(store, {MANIFEST_NAME: raw}, wishes, result)
            message = f"{MANIFEST_NAME}: changed since it was published"
            result.found.append(Fault("manifest", message, MANIFEST_NAME))
        with runner(choice, sum(file.bytes for file in listed(manifest))) as run:
            work = _Work(run, store, manifest, source, wishes, result)
            work.all(shown)
        return result


@contextmanager
def _hold(store: Store, dry_run: bool) -> Iterator[None]:
    """Hold the data set as a build does, and sweep what a killed one left; not to look only."""
    if dry_run:
        _check_is_published(store)
        yield
        return
    refuse_held(store)
    with held(store, lambda: _check_is_published(store)):
        store.sweep()
        yield


def _check_is_published(store: Store) -> None:
    if not store.exists(MANIFEST_NAME):
        reason = (
            "its build did not finish, or the manifest was deleted: go on with "
            "'cosmoflow-prep build RECIPE --resume', which keeps every whole shard"
            if is_begun(store)
            else "no data set"
        )
        raise DatasetError(f"{store}: no {MANIFEST_NAME} ({reason})")


def _manifest(
    store: Store, source: Source, choice: ClusterChoice | None
) -> tuple[Manifest, bytes | None]:
    """The manifest, and its bytes where they were made again."""
    try:
        return load(store), None
    except DatasetError as error:
        again = manifest_again(store, source, choice, str(error))
        return again.manifest, again.raw


@dataclass
class _Work:
    """One repair of a data set whose manifest is right."""

    run: Run
    store: Store
    manifest: Manifest
    source: Source
    wishes: Wishes
    result: Repair

    def all(self, shown: Shown) -> None:
        found = verify_with(self.run, self.store, self.manifest, shown("verify")).found
        self.result.found += found
        damaged = {f.path for f in found if f.path is not None and f.kind in DAMAGED_FILE}
        self._links(found)
        self._small([file for file in self.manifest.files if file.path in damaged])
        self._shards([s for s in self.manifest.shards if _is_damaged(s, damaged)], shown("repair"))
        self._previous(damaged)
        self._strangers([f.path for f in found if f.kind == "stranger" and f.path is not None])
        self._ledger([fault for fault in found if fault.kind == "ledger"])
        for fault in found:
            if fault.kind in ("content", "manifest"):
                self.result.left.append(
                    f"{fault} (its bytes are those that were published: look with verify --deep, "
                    "and build the data set again)"
                )
        if self.result.left:
            self.result.notes = software_notes(self.manifest)

    def _links(self, found: list[Fault]) -> None:
        """A link out of the data set is taken away, never what it leads to."""
        for fault in found:
            if fault.kind == "link" and fault.path is not None and not self.wishes.dry_run:
                self.store.remove(fault.path)

    def _small(self, damaged: list[File]) -> None:
        if not damaged:
            return
        made = self._recipes({file.path for file in damaged})
        made |= small_files(self.store, self.manifest, self.source, [f.path for f in damaged])
        for file in damaged:
            data = made.get(file.path)
            if data is None:
                self._leave(file.path, "cannot be made from recipe and input")
            elif digest(data) != file.digest:
                self._leave(file.path, f"made again its digest is {digest(data)}: not replaced")
            else:
                _put(self.store, {file.path: data}, self.wishes, self.result)

    def _recipes(self, wanted: set[str]) -> dict[str, bytes]:
        """The resolved recipes; they hold the place of the output, as it was in the recipe."""
        return {
            part.recipe: recipe_yaml(
                part_input(self.store, part, number, self.source).recipe
            ).encode()
            for number, part in enumerate(self.manifest.all_parts())
            if part.recipe in wanted
        }

    def _shards(self, damaged: list[Shard], report: Report) -> None:
        if not damaged:
            return
        paths = {shard.path for shard in damaged}
        plans = plan_remakes(self.store, self.manifest, self.source, paths)
        for path, reason in sorted(plans.missing.items()):
            if path in paths:
                self._leave(path, reason)
        report(Progress(0, len(plans.remakes), 0))
        if self.wishes.dry_run:
            self.result.repaired += sorted(
                s.path for o in plans.remakes for s in o.task.shards if s.path in paths
            )
            return
        for outcome in self._outcomes(plans, damaged, report):
            self.result.repaired += outcome.repaired
            self.result.left += outcome.left

    def _outcomes(self, plans: Plans, damaged: list[Shard], report: Report) -> list[_Outcome]:
        def wanted(order: Remake) -> tuple[Shard, ...]:
            paths = {shard.path for shard in order.task.shards}
            return tuple(shard for shard in damaged if shard.path in paths)

        outcomes = []
        calls = ((_make_again, self.store, wanted(order), order) for order in plans.remakes)
        with self.run(calls) as ended:
            for outcome in ended:
                outcomes.append(outcome)
                report(Progress(len(outcomes), len(plans.remakes), 0))
        return sorted(outcomes, key=lambda outcome: (outcome.repaired, outcome.left))

    def _previous(self, damaged: set[str]) -> None:
        """The manifest before the last extension, which the one of now contains."""
        previous = self.manifest.previous
        if previous is None or previous.path not in damaged:
            return
        for data in manifests_before(self.store, self.manifest):
            if digest(data) == previous.digest:
                _put(self.store, {previous.path: data}, self.wishes, self.result)
                return
        self._leave(previous.path, "cannot be made from the manifest; restore it from a copy")

    def _strangers(self, paths: list[str]) -> None:
        for path in paths:
            if not self.wishes.remove_strangers:
                self._leave(path, "not in the manifest; remove it with --remove-strangers")
            elif not self.wishes.dry_run:
                self.store.remove(path)
                self.result.removed.append(path)
            else:
                self.result.removed.append(path)

    def _ledger(self, faults: list[Fault]) -> None:
        if not faults:
            return
        if self.wishes.dry_run:
            self.result.repaired += list(dict.fromkeys(f.path or str(f) for f in faults))
            return
        repaired, left = repair_ledger(self.store, self.manifest, self.source)
        self.result.repaired += repaired
        self.result.left += left

    def _leave(self, path: str, why: str) -> None:
        self.result.left.append(f"{path}: {why}")


def _is_damaged(shard: Shard, damaged: set[str]) -> bool:
    return shard.path in damaged or (shard.index is not None and shard.index.path in damaged)


def _put(store: Store, files: dict[str, bytes], wishes: Wishes, result: Repair) -> None:
    for path, data in files.items():
        if not wishes.dry_run:
            store.write(path, data)
        result.repaired.append(path)


@dataclass(frozen=True)
class _Outcome:
    repaired: list[str]
    left: list[str]


def _make_again(store: Store, wanted: tuple[Shard, ...], order: Remake) -> _Outcome:
    """Make a task's shards again and put the damaged ones in place, if they are the same."""
    try:
        made = remake(order)
    except CosmoflowError as error:
        return _Outcome([], [f"{shard.path}: {error}" for shard in wanted])
    outcome = _Outcome([], [])
    for shard in wanted:
        for file in (shard, shard.index):
            if file is None or not check_file(store, file).faults:
                continue
            found = digest(made.files[file.path])
            if found != file.digest:
                outcome.left.append(
                    f"{file.path}: made again its digest is {found}, expected {file.digest}: "
                    "not replaced"
                )
                continue
            store.write(file.path, made.files[file.path])
            outcome.repaired.append(file.path)
    return outcome
