"""``verify --deep``: some shards made again from the input, and compared with those that are there.

A digest shows that a file is as it was published.  That it was published
right, and that nobody changed file and manifest together, shows only what
makes the samples again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import CosmoflowError, DatasetError
from pipeline.faults import Fault
from pipeline.manifest import Manifest, Shard, Universe
from pipeline.remake import (
    Remade,
    Remake,
    Source,
    part_input,
    plan_remakes,
    remake,
    small_files,
    software_notes,
)
from pipeline.runners import Run
from pipeline.samples import StoredSample, shard_samples
from pipeline.verify import Progress, Report
from pipeline.write.memory_store import MemoryStore
from pipeline.write.shards import digest
from pipeline.write.store import Store

FRACTION = 0.1
"""Of the shards, where nothing else is asked."""


@dataclass(frozen=True)
class Sampling:
    """Which shards to make again: ``shards`` of them, or else a ``fraction``, by a ``seed``."""

    fraction: float = FRACTION
    shards: int | None = None
    seed: int = 0

    def choose(self, shards: Sequence[Shard]) -> list[Shard]:
        """At least one; the same for the same seed, and more of them contain fewer."""
        wanted = self.shards if self.shards is not None else math.ceil(self.fraction * len(shards))
        ranked = sorted(shards, key=self._rank)
        return ranked[: max(1, wanted)]

    def _rank(self, shard: Shard) -> bytes:
        return hashlib.sha256(f"{self.seed} {shard.path}".encode()).digest()


@dataclass
class Comparison:
    """What was made again, and what differs.

    Attributes
    ----------
    found : list of Fault
        Shards and small files that are not what the input gives.
    not_compared : list of str
        Shards whose input is gone or another, and why.
    compared : int
        Shards.
    notes : list of str
        Versions of software that differ from the data set's, where something differs.
    """

    found: list[Fault] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    compared: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Compared:
    faults: list[Fault]
    shards: int
    reason: str | None = None


def verify_deep(
    run: Run,
    store: Store,
    manifest: Manifest,
    source: Source,
    *,
    sampling: Sampling = Sampling(),
    report: Report = lambda progress: None,
) -> Comparison:
    """Make a sample of the shards again and compare; nothing is written.

    Raises
    ------
    RecipeError, InputError
        If the recipe is not the data set's, or the input as a whole cannot be listed.
    """
    chosen = {shard.path for shard in sampling.choose(manifest.shards)}
    plans = plan_remakes(store, manifest, source, chosen)
    result = Comparison()
    result.found += _small_faults(store, manifest, source)
    result.not_compared += [f"{path}: {plans.missing[path]}" for path in sorted(plans.missing)]
    found: list[Fault] = []
    done = 0
    calls = ((_compare, store, _outline(manifest, o), o) for o in plans.remakes)
    with run(calls) as ended:
        for compared in ended:
            found += compared.faults
            result.not_compared += [compared.reason] if compared.reason else []
            result.compared += compared.shards
            done += 1
            report(Progress(done, len(plans.remakes), 0))
    result.found += sorted(found, key=lambda fault: (fault.path or "", fault.message))
    result.not_compared.sort()
    if result.found:
        result.notes = software_notes(manifest)
    return result


def _small_faults(store: Store, manifest: Manifest, source: Source) -> Iterator[Fault]:
    """Tables and metadata that recipe and universes do not give; no input is needed."""
    # the recipe first: it says when it is not the data set's
    for number, part in enumerate(manifest.all_parts()):
        part_input(store, part, number, source)
    listed = {file.path: file for file in manifest.files}
    for path, data in sorted(small_files(store, manifest, source, listed).items()):
        if digest(data) != listed[path].digest:
            message = (
                f"{path}: made again its digest is {digest(data)}, expected {listed[path].digest}"
            )
            yield Fault("content", message, path)


def _outline(manifest: Manifest, order: Remake) -> Manifest:
    """The manifest, with no other lists than that of the task's shards."""
    paths = {shard.path for shard in order.task.shards}
    splits = {n: s.model_copy(update={"universes": []}) for n, s in manifest.splits.items()}
    shards = [shard for shard in manifest.shards if shard.path in paths]
    empty: dict[str, list[object]] = {"universes": [], "files": [], "quarantined": []}
    return manifest.model_copy(update={**empty, "splits": splits, "shards": shards})


def _compare(store: Store, outline: Manifest, order: Remake) -> _Compared:
    """Make a task's shards again, and say what differs; on a worker."""
    try:
        made = remake(order)
    except CosmoflowError as error:
        return _Compared([], 0, f"{', '.join(s.path for s in outline.shards)}: {error}")
    faults = [f for shard in outline.shards for f in _shard_faults(store, outline, shard, made)]
    faults += _universe_faults(made.entry.universes, order.expected)
    return _Compared(faults, len(outline.shards))


def _shard_faults(store: Store, outline: Manifest, shard: Shard, made: Remade) -> Iterator[Fault]:
    again = next(s for s in made.entry.shards if s.path == shard.path)
    if again.digest != shard.digest:
        yield _difference(store, outline, shard, made)
    if again.index is not None and shard.index is not None and again.index != shard.index:
        message = f"{shard.index.path}: made again it is another, expected {shard.index.digest}"
        yield Fault("content", message, shard.index.path, shard.split)


def _difference(store: Store, outline: Manifest, shard: Shard, made: Remade) -> Fault:
    """Which samples of a shard differ, and by how much."""
    head = f"{shard.path}: is not what the input gives"
    try:
        there = list(shard_samples(store, outline, shard))
        held = MemoryStore({**_metadata(store, outline, shard), **made.files})
        again = list(shard_samples(held, outline, shard))
    except (DatasetError, OSError) as error:
        message = f"{head} (its samples cannot be compared: {error})"
        return Fault("content", message, shard.path, shard.split)
    bad = [n for n, (a, b) in enumerate(zip(there, again, strict=True)) if not _same(a, b)]
    if not bad:
        message = f"{head}: the samples are the same, their encoding differs"
        return Fault("content", message, shard.path, shard.split)
    first, n = bad[0], outline.splits[shard.split].samples_per_universe
    task_starts_at = min(s.first_sample for s in made.entry.shards)
    owner = made.entry.universes[(shard.first_sample + first - task_starts_at) // n].id
    sample = shard.first_sample + first
    message = (
        f"{head}: {len(bad)} of {shard.samples} samples differ, the first is {shard.split} "
        f"sample {sample} (universe {owner}): {_by_how_much(there[first], again[first])}"
    )
    return Fault("content", message, shard.path, shard.split, sample, len(bad), owner)


def _metadata(store: Store, outline: Manifest, shard: Shard) -> dict[str, bytes]:
    if outline.layout.format != "zarr":
        return {}
    path = f"{outline.part_of(shard).place(shard.split, 'zarr')}/density/zarr.json"
    return {path: store.read(path)}


def _same(there: StoredSample, again: StoredSample) -> bool:
    targets = [np.empty(0) if s.targets is None else s.targets for s in (there, again)]
    return np.array_equal(there.cells, again.cells) and np.array_equal(targets[0], targets[1])


def _by_how_much(there: StoredSample, again: StoredSample) -> str:
    """The channel of the largest difference, and that difference."""
    difference = np.abs(there.cells.astype(np.float64) - again.cells.astype(np.float64))
    if not difference.any():
        return f"targets {there.targets}, expected {again.targets}"
    largest = difference.max(axis=(0, 1, 2))
    channel = int(largest.argmax())
    return (
        f"channel {channel} by at most {largest[channel]:g}, in "
        f"{np.count_nonzero(difference[..., channel])} cells"
    )


def _universe_faults(made: Sequence[Universe], expected: Sequence[Universe]) -> Iterator[Fault]:
    """The manifest's own record of each universe; where its files lie may have changed."""
    for again, there in zip(made, expected, strict=True):
        for now, before in zip(again.snapshots, there.snapshots, strict=True):
            for key, value in before.model_dump(exclude={"files"}).items():
                if getattr(now, key) != value:
                    message = (
                        f"universe {there.id}, redshift {before.redshift:.4g}: {key} is {value} "
                        f"in the manifest, the input gives {getattr(now, key)}"
                    )
                    yield Fault("content", message, split=there.split, universe=there.id)
