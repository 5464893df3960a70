"""Deriving again what a manifest claims: every byte, every count, every split.

``verify`` never stops at the first fault: it returns all of them, each with
file, shard and sample where it has them.  Files are looked at in two rounds,
many at once: the small ones first, as decoding a shard needs some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.cluster import ClusterChoice
from pipeline.faults import Fault
from pipeline.manifest import MANIFEST_NAME, SPLITS, File, Manifest, Shard, SplitName, load
from pipeline.runners import Call, Run, runner
from pipeline.verify_content import Content
from pipeline.verify_files import Finding, check_file, check_shard
from pipeline.verify_ledger import ledger_faults
from pipeline.verify_manifest import (
    coverage_faults,
    duplicate_faults,
    is_unknown,
    layout_faults,
    listed_twice,
    part_key_faults,
    split_faults,
    universe_faults,
)
from pipeline.write.store import Store
from pipeline.write.stores import Place, open_store


@dataclass(frozen=True)
class Progress:
    """How far ``verify`` is.

    Attributes
    ----------
    done, total : int
        Files.
    bytes : int
        Of the files that are done.
    """

    done: int
    total: int
    bytes: int


Report = Callable[[Progress], None]


@dataclass
class Verification:
    """What was looked at, and every fault found.

    Attributes
    ----------
    found : list of Fault
        None: the data set is whole.
    files, samples, bytes : int
        Looked at.
    """

    found: list[Fault] = field(default_factory=list)
    files: int = 0
    samples: int = 0
    bytes: int = 0

    @property
    def faults(self) -> list[str]:
        """One line each."""
        return [str(fault) for fault in self.found]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.found


def verify(
    dataset: Place,
    report: Report = lambda progress: None,
    choice: ClusterChoice | None = None,
) -> Verification:
    """Check a whole data set.

    Parameters
    ----------
    dataset : Store, Path or str
        Its folder or URL.
    report : callable
        Called with a :class:`Progress`.
    choice : ClusterChoice, optional
        Where to run, see :func:`pipeline.runners.runner`; default: threads.

    Raises
    ------
    DatasetError
        If there is no manifest, or the manifest itself is damaged.
    """
    store = open_store(dataset)
    manifest = load(store)
    with runner(choice, sum(file.bytes for file in listed(manifest))) as run:
        return verify_with(run, store, manifest, report)


def verify_with(run: Run, store: Store, manifest: Manifest, report: Report) -> Verification:
    """:func:`verify` of a manifest that was read, by what runs calls."""
    result = Verification()
    faults = [*part_key_faults(manifest), *listed_twice(manifest), *layout_faults(manifest)]
    looked = _Look(run, store, manifest, report, result)
    small = looked.at((check_file, store, file) for file in small_files(manifest))
    sound = {finding.file.path for finding in small if finding.is_sound}
    content = Content(store, manifest, sound)
    blocked = {name: _not_looked_at(manifest, name, faults) for name in manifest.splits}
    shards = looked.at(_calls(store, manifest, content, blocked))
    result.found += _in_order(manifest, [*small, *shards])
    result.found += _strangers(store, manifest)
    result.found += [*split_faults(manifest), *duplicate_faults(manifest)]
    result.found += [*universe_faults(manifest), *faults]
    for name, reasons in blocked.items():
        result.found += reasons
        if not reasons:
            of_split = [f for f in shards if isinstance(f.file, Shard) and f.file.split == name]
            result.found += content.table_faults(name)
            result.found += content.mass_faults(name, of_split)
    if not faults and not any(blocked.values()):
        result.found += ledger_faults(store, manifest)
    return result


def listed(manifest: Manifest) -> list[File]:
    """All files of a data set, but the manifest itself."""
    return [*small_files(manifest), *manifest.shards]


def small_files(manifest: Manifest) -> list[File]:
    """Files that are no shards."""
    indices = [shard.index for shard in manifest.shards if shard.index is not None]
    previous = [manifest.previous] if manifest.previous else []
    return [*manifest.files, *previous, *indices]


@dataclass
class _Look:
    """Looks at files, counts them and reports."""

    run: Run
    store: Store
    manifest: Manifest
    report: Report
    result: Verification

    def at(self, calls: Iterable[Call]) -> list[Finding]:
        findings = []
        total = len(listed(self.manifest))
        with self.run(calls) as ended:
            for finding in ended:
                findings.append(finding)
                self.result.files += 1
                self.result.bytes += finding.file.bytes
                self.result.samples += finding.samples
                self.report(Progress(self.result.files, total, self.result.bytes))
        return findings


def _calls(
    store: Store, manifest: Manifest, content: Content, blocked: dict[SplitName, list[Fault]]
) -> Iterator[Call]:
    for shard in manifest.shards:
        if blocked.get(shard.split, [shard]):
            yield check_file, store, shard
        else:
            yield check_shard, store, content.check_of(shard)


def _not_looked_at(manifest: Manifest, name: SplitName, before: list[Fault]) -> list[Fault]:
    """Why the samples of a split cannot be looked at; none: they can."""
    faults = [] if before else list(coverage_faults(manifest, name))
    if not before and not faults and not is_unknown(manifest, name):
        return []
    message = f"{name}: its samples were not looked at, for the faults above"
    return [*faults, Fault("manifest", message, split=name)]


def _in_order(manifest: Manifest, findings: list[Finding]) -> list[Fault]:
    """Faults of files in the order of the manifest, whichever was looked at first."""
    places = {file.path: place for place, file in enumerate(listed(manifest))}
    by_digest = {file.digest: file.path for file in listed(manifest)}
    ordered = sorted(findings, key=lambda finding: places[finding.file.path])
    return [_swapped(f, finding, by_digest) for finding in ordered for f in finding.faults]


def _swapped(fault: Fault, finding: Finding, by_digest: dict[str, str]) -> Fault:
    """A file that holds the bytes of another one, said so."""
    other = by_digest.get(finding.digest or "")
    if other is None or fault.path != finding.file.path:
        return fault
    return fault.with_note(f"it holds the bytes of {other}")


def _strangers(store: Store, manifest: Manifest) -> Iterator[Fault]:
    """Files in the places of samples that the manifest does not list: a reader might take them."""
    known = {file.path for file in listed(manifest)}
    places = {
        part.place(split, format)
        for part in manifest.all_parts()
        for split in SPLITS
        for format in ("zarr", "tfrecord")
    }
    for place in sorted(places):
        for path in store.paths(place):
            if path not in known:
                yield Fault("stranger", f"{path}: not in {MANIFEST_NAME}", path)
