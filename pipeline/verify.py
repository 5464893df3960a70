"""Deriving again what a manifest claims: every byte, every count, every split.

``verify`` never stops at the first fault: it returns all of them, each with
file, shard and sample where it has them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.manifest import MANIFEST_NAME, SPLITS, File, Manifest, SplitName, load
from pipeline.verify_content import Content

BLOCK_BYTES = 1 << 22
Report = Callable[[int, int], None]


@dataclass
class Verification:
    """What was looked at, and every fault found.

    Attributes
    ----------
    faults : list of str
        One line each; empty: the data set is whole.
    files, samples, bytes : int
        Looked at.
    """

    faults: list[str] = field(default_factory=list)
    files: int = 0
    samples: int = 0
    bytes: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


def verify(dataset: Path, report: Report = lambda done, total: None) -> Verification:
    """Check a whole data set.

    Parameters
    ----------
    dataset : Path
        Its folder.
    report : callable
        Called with (files done, files in all).

    Raises
    ------
    DatasetError
        If there is no manifest, or the manifest itself is damaged.
    """
    manifest = load(dataset)
    result = Verification()
    sound = _check_files(dataset, manifest, result, report)
    result.faults += _strangers(dataset, manifest)
    result.faults += _split_faults(manifest)
    result.faults += _duplicate_faults(manifest)
    result.faults += _universe_faults(manifest)
    layout = list(_layout_faults(manifest))
    result.faults += layout
    # content is only decoded where the bytes are right: a damaged file is named once
    content = Content(dataset, manifest, sound)
    for split in manifest.splits:
        coverage = list(_coverage_faults(manifest, split))
        result.faults += coverage
        if layout or coverage or _is_unknown(manifest, split):
            result.faults.append(f"{split}: its samples were not looked at, for the faults above")
        else:
            result.faults += content.faults(split)
    result.samples = content.samples
    return result


def _listed(manifest: Manifest) -> list[File]:
    indices = [shard.index for shard in manifest.shards if shard.index is not None]
    return [*manifest.files, *manifest.shards, *indices]


def _check_files(
    dataset: Path, manifest: Manifest, result: Verification, report: Report
) -> set[str]:
    """Digest every listed file; paths of those that are right."""
    sound = set()
    files = _listed(manifest)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = pool.map(lambda file: _file_fault(dataset, file), files)
        for done, (file, fault) in enumerate(zip(files, faults, strict=True), start=1):
            if fault:
                result.faults.append(fault)
            else:
                sound.add(file.path)
            result.files += 1
            result.bytes += file.bytes
            report(done, len(files))
    return sound


def _file_fault(dataset: Path, file: File) -> str | None:
    path = dataset / file.path
    if not path.resolve().is_relative_to(dataset.resolve()):
        return f"{file.path}: a link out of the data set"
    try:
        size = path.stat().st_size
        if size != file.bytes:
            return f"{file.path}: {size} bytes, expected {file.bytes}"
        found = _digest(path)
    except FileNotFoundError:
        return f"{file.path}: missing, expected {file.bytes} bytes"
    except OSError as error:
        return f"{file.path}: cannot be read: {error.strerror}"
    return None if found == file.digest else f"{file.path}: changed (its digest is {found})"


def _digest(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            state.update(block)
    return "sha256:" + state.hexdigest()


def _strangers(dataset: Path, manifest: Manifest) -> Iterator[str]:
    """Files in the splits that the manifest does not list: a reader might take them."""
    listed = {file.path for file in _listed(manifest)}
    for split in SPLITS:
        for folder in (dataset / split, dataset / f"{split}.zarr"):
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(dataset).as_posix()
                if path.is_file() and name not in listed:
                    yield f"{name}: not in {MANIFEST_NAME}"


def _split_faults(manifest: Manifest) -> Iterator[str]:
    places = Counter(u for split in manifest.splits.values() for u in split.universes)
    for universe_id, times in sorted(places.items()):
        if times > 1:
            yield f"universe {universe_id}: {times} times in the splits, expected once"
    for universe in manifest.universes:
        split = manifest.splits.get(universe.split)
        if split is None or universe.id not in split.universes:
            yield f"universe {universe.id}: not in its split {universe.split}"
    known = {universe.id for universe in manifest.universes}
    for universe_id in sorted(places.keys() - known):
        yield f"universe {universe_id}: in a split, but not described"


def _duplicate_faults(manifest: Manifest) -> Iterator[str]:
    seen: dict[str, str] = {}
    for universe in manifest.universes:
        for snapshot in universe.snapshots:
            other = seen.setdefault(snapshot.fingerprint, universe.id)
            if other != universe.id:
                yield f"universe {universe.id}: same snapshot as universe {other}"


def _universe_faults(manifest: Manifest) -> Iterator[str]:
    for universe in manifest.universes:
        wanted = [snapshot.redshift_wanted for snapshot in universe.snapshots]
        if wanted != manifest.layout.redshifts:
            expected = manifest.layout.redshifts
            yield f"universe {universe.id}: redshifts {wanted}, expected {expected}"
        channels = [snapshot.channel for snapshot in universe.snapshots]
        if channels != list(range(len(channels))):
            yield f"universe {universe.id}: channels {channels}, expected them in order from 0"
        for name, (low, high) in manifest.targets.items():
            value = universe.parameters.get(name)
            if value is None or not low <= value <= high:
                yield f"universe {universe.id}: {name} = {value}, expected {low:g} to {high:g}"


def _layout_faults(manifest: Manifest) -> Iterator[str]:
    """The shape of a sample, the cube, its redshifts and the splits must agree."""
    layout = manifest.layout
    *sides, channels = layout.sample_shape
    if any(side * layout.subvolumes != layout.n_grid for side in sides):
        yield (
            f"samples of {sides} cells, {layout.subvolumes} a side: expected {layout.n_grid} "
            "cells a side in all"
        )
    if channels != len(layout.redshifts):
        yield f"samples of {channels} channels, but {len(layout.redshifts)} redshifts"
    for shard in manifest.shards:
        if shard.split not in manifest.splits:
            yield f"{shard.path}: of the split {shard.split}, which is not described"


def _coverage_faults(manifest: Manifest, name: SplitName) -> Iterator[str]:
    """Shards must cover a split's samples exactly, and samples its universes."""
    split = manifest.splits[name]
    each = split.variants * manifest.layout.subvolumes**3
    if split.samples_per_universe != each:
        yield f"{name}: {split.samples_per_universe} samples a universe, expected {each}"
    expected = len(split.universes) * split.samples_per_universe
    if split.samples != expected:
        yield f"{name}: {split.samples} samples, expected {expected}"
    position = 0
    for shard in manifest.shards_of(name):
        if shard.first_sample != position:
            yield f"{shard.path}: starts at sample {shard.first_sample}, expected {position}"
        position = shard.first_sample + shard.samples
    if position != split.samples:
        yield f"{name}: shards hold {position} samples, expected {split.samples}"


def _is_unknown(manifest: Manifest, name: SplitName) -> bool:
    """Whether what the samples of a split should hold cannot be told; said of each universe."""
    by_id = {universe.id: universe for universe in manifest.universes}
    for universe_id in manifest.splits[name].universes:
        universe = by_id.get(universe_id)
        if universe is None or not manifest.targets.keys() <= universe.parameters.keys():
            return True
        n_channels = len(manifest.layout.redshifts)
        if any(snapshot.channel >= n_channels for snapshot in universe.snapshots):
            return True
    return False
