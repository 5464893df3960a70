"""Comparing what the shards and tables hold with what the manifest says of the universes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import zarr

from pipeline.faults import Fault, bad_samples
from pipeline.manifest import (
    Layout,
    Manifest,
    Part,
    Shard,
    SnapshotRecord,
    SplitName,
    Universe,
    scale_target,
)
from pipeline.moments import Moments
from pipeline.samples import ZARR_ERRORS, zarr_source
from pipeline.subvolume import subvolume_indices
from pipeline.verify_files import Finding, ShardCheck
from pipeline.write.store import Store

FLOAT_MASS_TOLERANCE = 1e-6
"""Relative: float32 cells are rounded to 6e-8 each, at random."""


class Tolerance(NamedTuple):
    """What the largest cell and the variance may differ by from those of the manifest.

    ``maximum`` and ``variance`` are relative, ``rounding`` is of the mean square over the
    squared mean, which the variance is one less than.
    """

    maximum: float
    variance: float
    rounding: float


FLOAT_TOLERANCE = Tolerance(1e-5, 1e-5, 2.0**-22)
INTEGER_TOLERANCE = Tolerance(0.0, 1e-9, 1e-12)
"""Sums of float64 in another order."""

_HELD = {"counts": "particles", "mass": "mean particle masses", "density": "mean densities"}
_TABLE = ("target", "parameters", "universe", "subvolume", "variant")


@dataclass
class Content:
    """What the samples of a data set should hold.

    Attributes
    ----------
    dataset : Store
    manifest : Manifest
    sound : set of str
        Paths of the small files whose digests are right; only they are read.
    """

    dataset: Store
    manifest: Manifest
    sound: set[str]

    def __post_init__(self) -> None:
        self._by_id = {universe.id: universe for universe in self.manifest.universes}
        empty = {
            name: split.model_copy(update={"universes": []})
            for name, split in self.manifest.splits.items()
        }
        self._outline = self.manifest.model_copy(
            update={"universes": [], "shards": [], "files": [], "quarantined": [], "splits": empty}
        )

    def check_of(self, shard: Shard) -> ShardCheck:
        """What a task must know to check a shard."""
        metadata, split = self._metadata(shard), self.manifest.splits[shard.split]
        n = split.samples_per_universe
        numbers = range(shard.first_sample, shard.first_sample + shard.samples)
        owners = tuple(split.universes[number // n] for number in numbers)
        rows = {owner: self._expected_targets(owner) for owner in dict.fromkeys(owners)}
        targets = np.array([rows[owner] for owner in owners], dtype=np.float32)
        return ShardCheck(
            self._outline, shard, owners, targets, metadata or {}, metadata is not None
        )

    def _metadata(self, shard: Shard) -> dict[str, bytes] | None:
        """Small files that decoding a shard needs; None if one of them is damaged."""
        if self.manifest.layout.format == "zarr":
            place = self.manifest.part_of(shard).place(shard.split, "zarr")
            needed = [f"{place}/density/zarr.json"]
            if not self.sound.issuperset(needed):
                return None
        else:  # an index is not needed, but looked at
            needed = [shard.index.path] if shard.index and shard.index.path in self.sound else []
        return {path: self.dataset.read(path) for path in needed}

    def _expected_targets(self, universe: str) -> np.ndarray:
        parameters = self._by_id[universe].parameters
        limits = self.manifest.targets.items()
        return np.array([scale_target(parameters[n], *r) for n, r in limits], dtype=np.float32)

    def table_faults(self, name: SplitName) -> Iterator[Fault]:
        """Targets, parameters and places of every sample, against the universes."""
        if self.manifest.layout.format == "zarr":
            for part in self.manifest.parts_of(name):
                yield from self._group_faults(name, part)

    def _group_faults(self, name: SplitName, part: Part) -> Iterator[Fault]:
        place = part.place(name, "zarr")
        files = [f.path for f in self.manifest.files if f.path.startswith(f"{place}/")]
        if not self.sound.issuperset(files):
            return
        try:
            group = zarr.open_group(**zarr_source(self.dataset, place, files), mode="r")
            arrays = {key: np.asarray(group[key][...]) for key in _TABLE}  # type: ignore[index]
        except ZARR_ERRORS as error:
            message = f"{place}: its arrays {', '.join(_TABLE)} cannot be read: {error}"
            yield Fault("content", message, f"{place}/zarr.json", name)
            return
        n = self.manifest.splits[name].samples_per_universe
        first = part.first_sample[name]
        members = self.manifest.splits[name].universes[first // n :][: part.samples[name] // n]
        expected = self._expected_rows(name, members)
        for key in _TABLE:
            rows = name, first, members
            yield from _row_faults(f"{place}/{key}", arrays[key], expected[key], rows)

    def _expected_rows(self, name: SplitName, members: list[str]) -> dict[str, np.ndarray]:
        """Rows of all samples of some universes."""
        split, targets = self.manifest.splits[name], list(self.manifest.targets)
        places = subvolume_indices(self.manifest.layout.subvolumes)
        n = split.samples_per_universe
        physical = [[self._by_id[u].parameters[p] for p in targets] for u in members]
        scaled = [self._expected_targets(universe) for universe in members]
        variants = np.repeat(np.arange(split.variants), len(places))
        return {
            "target": np.repeat(np.array(scaled), n, axis=0),
            "parameters": np.repeat(np.array(physical), n, axis=0),
            "universe": np.repeat(np.array(members, dtype=object), n),
            "subvolume": np.tile(places, (len(members) * split.variants, 1)),
            "variant": np.tile(variants, len(members)),
        }

    def mass_faults(self, name: SplitName, findings: Iterable[Finding]) -> Iterator[Fault]:
        """Add up every universe's samples and compare with what was deposited."""
        split = self.manifest.splits[name]
        total, seen = self._totals(findings)
        n_cells = split.samples_per_universe * math.prod(self.manifest.layout.sample_shape[:3])
        for universe_id in split.universes:
            if seen.get(universe_id) != split.samples_per_universe:
                continue  # a shard of it is damaged, and named
            universe = self._by_id[universe_id]
            yield from self._mass_fault(universe, total[universe_id].mass, split.variants)
            yield from self._moment_faults(universe, total[universe_id], n_cells)

    def _totals(self, findings: Iterable[Finding]) -> tuple[dict[str, Moments], dict[str, int]]:
        """Moments of universes over their shards, and how many samples they are of."""
        total: dict[str, Moments] = {}
        seen: dict[str, int] = {}
        for finding in findings:
            for owner, (moments, samples) in finding.moments.items():
                zeros = Moments.zeros(self.manifest.layout.sample_shape[3])
                total.setdefault(owner, zeros).add(moments)
                seen[owner] = seen.get(owner, 0) + samples
        return total, seen

    def _mass_fault(self, universe: Universe, mass: np.ndarray, variants: int) -> Iterator[Fault]:
        tolerance = FLOAT_MASS_TOLERANCE if self.manifest.layout.dtype == "float32" else 0.0
        for snapshot in universe.snapshots:
            found = mass[snapshot.channel]
            claims = [c * variants for c in _claimed_masses(snapshot, self.manifest.layout)]
            wrong = [c for c in claims if not abs(found - c) <= tolerance * c]  # NaN, too
            for expected in wrong[:1]:
                yield self._of(
                    universe,
                    f"universe {universe.id}, redshift {snapshot.redshift:.4g}: its samples "
                    f"hold {found:.10g} {_HELD[self.manifest.layout.quantity]}, "
                    f"expected {expected:.10g}",
                )

    def _moment_faults(self, universe: Universe, moments: Moments, n_cells: int) -> Iterator[Fault]:
        """Largest cell and variance; symmetries and shifts of a cube change neither."""
        is_float = self.manifest.layout.dtype == "float32"
        tolerance = FLOAT_TOLERANCE if is_float else INTEGER_TOLERANCE
        for snapshot in universe.snapshots:
            channel = snapshot.channel
            where = f"universe {universe.id}, redshift {snapshot.redshift:.4g}"
            maximum, expected = float(moments.maximum[channel]), snapshot.maximum
            if abs(maximum - expected) > tolerance.maximum * expected:
                said = f"{where}: the largest cell holds {maximum:.10g}, expected {expected:.10g}"
                yield self._of(universe, said)
            mean = float(moments.mass[channel]) / n_cells
            if mean == 0:  # said of its mass
                continue
            variance = float(moments.square[channel]) / n_cells / mean**2 - 1
            expected = snapshot.variance
            allowed = tolerance.variance * abs(expected) + tolerance.rounding * (1 + variance)
            if not abs(variance - expected) <= allowed:
                said = f"{where}: the variance is {variance:.10g}, expected {expected:.10g}"
                yield self._of(universe, said)

    def _of(self, universe: Universe, message: str) -> Fault:
        split = self.manifest.splits[universe.split]
        n = split.samples_per_universe
        first = split.universes.index(universe.id) * n
        where = f" ({universe.split} samples {first} to {first + n - 1})"
        return Fault("content", message + where, None, universe.split, first, n, universe.id)


def _row_faults(
    path: str, found: np.ndarray, expected: np.ndarray, rows: tuple[SplitName, int, list[str]]
) -> Iterator[Fault]:
    """A fault if rows of a table are not those of the universes: the first, and how many.

    ``rows``: their split, the sample of the first, and the universes.
    """
    name, first, members = rows
    if found.shape != expected.shape:
        message = f"{path}: rows {found.shape}, expected {expected.shape}"
        yield Fault("content", message, path, name)
        return
    bad = np.flatnonzero((found != expected).reshape(len(found), -1).any(axis=1))
    if bad.size:
        owner = members[int(bad[0]) * len(members) // len(expected)]
        numbers = [first + int(row) for row in bad]
        said = bad_samples(numbers, owner)
        message = f"{path}: not those of the universe: {name} {said}"
        yield Fault("content", message, path, name, numbers[0], len(numbers), owner)


def _claimed_masses(snapshot: SnapshotRecord, layout: Layout) -> list[float]:
    """All that a record says of the sum of its channel: the same for counts and masses."""
    if layout.quantity == "density":
        return [snapshot.mass]
    return [float(snapshot.n_particles), snapshot.mass]
