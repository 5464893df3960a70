"""What can be told from a manifest alone: whether it contradicts itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.faults import Fault
from pipeline.manifest import Manifest, Part, SplitName


def listed_twice(manifest: Manifest) -> Iterator[Fault]:
    """Files that the manifest lists more than once."""
    indices = [shard.index for shard in manifest.shards if shard.index is not None]
    places = Counter(file.path for file in [*manifest.files, *manifest.shards, *indices])
    for path, times in sorted(places.items()):
        if times > 1:
            yield Fault("manifest", f"{path}: listed {times} times, expected once", path)


def split_faults(manifest: Manifest) -> Iterator[Fault]:
    """Every universe is in one split, once, and described."""
    places = Counter(u for split in manifest.splits.values() for u in split.universes)
    for universe_id, times in sorted(places.items()):
        if times > 1:
            yield _of(universe_id, f"{times} times in the splits, expected once")
    for universe_id, times in sorted(Counter(u.id for u in manifest.universes).items()):
        if times > 1:
            yield _of(universe_id, f"described {times} times, expected once")
    for universe in manifest.universes:
        split = manifest.splits.get(universe.split)
        if split is None or universe.id not in split.universes:
            yield _of(universe.id, f"not in its split {universe.split}")
    known = {universe.id for universe in manifest.universes}
    for universe_id in sorted(places.keys() - known):
        yield _of(universe_id, "in a split, but not described")
    for quarantined in manifest.quarantined:
        if quarantined.id in places:
            yield _of(quarantined.id, "quarantined, and yet in a split")


def duplicate_faults(manifest: Manifest) -> Iterator[Fault]:
    """No snapshot is in two universes: the two could be in two splits."""
    seen: dict[str, str] = {}
    for universe in manifest.universes:
        for snapshot in universe.snapshots:
            other = seen.setdefault(snapshot.fingerprint, universe.id)
            if other != universe.id:
                yield _of(universe.id, f"same snapshot as universe {other}")


def universe_faults(manifest: Manifest) -> Iterator[Fault]:
    """Redshifts, channels and targets of every universe."""
    for universe in manifest.universes:
        wanted = [snapshot.redshift_wanted for snapshot in universe.snapshots]
        if wanted != manifest.layout.redshifts:
            expected = manifest.layout.redshifts
            yield _of(universe.id, f"redshifts {wanted}, expected {expected}")
        channels = [snapshot.channel for snapshot in universe.snapshots]
        if channels != list(range(len(channels))):
            yield _of(universe.id, f"channels {channels}, expected them in order from 0")
        for name, (low, high) in manifest.targets.items():
            value = universe.parameters.get(name)
            if value is None or not low <= value <= high:
                yield _of(universe.id, f"{name} = {value}, expected {low:g} to {high:g}")


def _of(universe: str, what: str) -> Fault:
    return Fault("manifest", f"universe {universe}: {what}", universe=universe)


def layout_faults(manifest: Manifest) -> Iterator[Fault]:
    """The shape of a sample, the cube, its redshifts and the splits must agree."""
    layout = manifest.layout
    *sides, channels = layout.sample_shape
    if any(side * layout.subvolumes != layout.n_grid for side in sides):
        yield _said(
            f"samples of {sides} cells, {layout.subvolumes} a side: expected {layout.n_grid} "
            "cells a side in all"
        )
    if channels != len(layout.redshifts):
        yield _said(f"samples of {channels} channels, but {len(layout.redshifts)} redshifts")
    for shard in manifest.shards:
        if shard.split not in manifest.splits:
            yield _said(f"{shard.path}: of the split {shard.split}, which is not described")


def part_key_faults(manifest: Manifest) -> Iterator[Fault]:
    """A part that has samples of a split says which; without that no other is looked up."""
    for part in manifest.parts:
        if part.samples.keys() != part.first_sample.keys():
            yield _said(
                f"part {part.folder!r}: samples of {sorted(part.samples)}, but first samples of "
                f"{sorted(part.first_sample)}"
            )


def coverage_faults(manifest: Manifest, name: SplitName) -> Iterator[Fault]:
    """Shards must cover a split's samples exactly, samples its universes, and parts the shards."""
    split = manifest.splits[name]
    each = split.variants * manifest.layout.subvolumes**3
    if split.samples_per_universe != each:
        yield _said(
            f"{name}: {split.samples_per_universe} samples a universe, expected {each}", name
        )
    expected = len(split.universes) * split.samples_per_universe
    if split.samples != expected:
        yield _said(f"{name}: {split.samples} samples, expected {expected}", name)
    position = 0
    for shard in manifest.shards_of(name):
        if shard.first_sample != position:
            yield _said(
                f"{shard.path}: starts at sample {shard.first_sample}, expected {position}", name
            )
        position = shard.first_sample + shard.samples
    if position != split.samples:
        yield _said(f"{name}: shards hold {position} samples, expected {split.samples}", name)
    yield from _part_faults(manifest, name)


def _part_faults(manifest: Manifest, name: SplitName) -> Iterator[Fault]:
    split, position = manifest.splits[name], 0
    for part in manifest.parts_of(name):
        where = f"{name}, part {part.folder or 'of the first build'}"
        first = part.first_sample[name]
        if first != position:
            yield _said(f"{where}: starts at sample {first}, expected {position}", name)
        if part.samples[name] % split.samples_per_universe:
            yield _said(f"{where}: {part.samples[name]} samples cut a universe", name)
        position += part.samples[name]
        yield from _place_faults(manifest, name, part)
    if position != split.samples:
        yield _said(f"{name}: parts hold {position} samples, expected {split.samples}", name)


def _place_faults(manifest: Manifest, name: SplitName, part: Part) -> Iterator[Fault]:
    """Shards of a part lie in its folder, and cut no other part's samples."""
    place = part.place(name, manifest.layout.format)
    start = part.first_sample[name]
    stop = start + part.samples[name]
    for shard in manifest.shards_of(name):
        if start <= shard.first_sample < stop:
            if not shard.path.startswith(f"{place}/"):
                yield _said(f"{shard.path}: expected in {place}", name)
            if shard.first_sample + shard.samples > stop:
                yield _said(f"{shard.path}: goes beyond the samples of {place}", name)


def _said(message: str, split: SplitName | None = None) -> Fault:
    return Fault("manifest", message, split=split)


def is_unknown(manifest: Manifest, name: SplitName) -> bool:
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
