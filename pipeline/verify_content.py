"""Checking what the shards hold: every sample decoded, moments and targets compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr

from pipeline.errors import DatasetError
from pipeline.manifest import (
    Layout,
    Manifest,
    Shard,
    SnapshotRecord,
    SplitName,
    Universe,
    scale_target,
)
from pipeline.samples import ZARR_ERRORS, shard_samples
from pipeline.subvolume import subvolume_indices

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
    """The samples of a data set, read only from files whose digests are right.

    Attributes
    ----------
    dataset : Path
    manifest : Manifest
    sound : set of str
        Paths of the files whose digests are right.
    samples : int
        Decoded so far.
    """

    dataset: Path
    manifest: Manifest
    sound: set[str]
    samples: int = 0

    def __post_init__(self) -> None:
        self._by_id = {universe.id: universe for universe in self.manifest.universes}

    def faults(self, name: SplitName) -> Iterator[str]:
        """One line for every fault in the content of a split."""
        if self.manifest.layout.format == "zarr":
            yield from self._table_faults(name)
        yield from self._cell_faults(name)

    def _expected_targets(self, universe: str) -> np.ndarray:
        parameters = self._by_id[universe].parameters
        limits = self.manifest.targets.items()
        return np.array([scale_target(parameters[n], *r) for n, r in limits], dtype=np.float32)

    def _expected_rows(self, name: SplitName, universe: str) -> dict[str, np.ndarray]:
        split = self.manifest.splits[name]
        places = subvolume_indices(self.manifest.layout.subvolumes)
        n = split.samples_per_universe
        physical = [self._by_id[universe].parameters[p] for p in self.manifest.targets]
        return {
            "target": np.tile(self._expected_targets(universe), (n, 1)),
            "parameters": np.tile(np.array(physical), (n, 1)),
            "universe": np.array([universe] * n, dtype=object),
            "subvolume": np.tile(places, (split.variants, 1)),
            "variant": np.repeat(np.arange(split.variants), len(places)),
        }

    def _table_faults(self, name: SplitName) -> Iterator[str]:
        """Targets, parameters and places of every sample, against the universes."""
        metadata = {f.path for f in self.manifest.files if f.path.startswith(f"{name}.zarr/")}
        if not metadata <= self.sound:
            return
        try:
            group = zarr.open_group(self.dataset / f"{name}.zarr", mode="r")
            arrays = {key: np.asarray(group[key][...]) for key in _TABLE}  # type: ignore[index]
        except ZARR_ERRORS as error:
            yield f"{name}.zarr: its arrays {', '.join(_TABLE)} cannot be read: {error}"
            return
        n = self.manifest.splits[name].samples_per_universe
        for number, universe in enumerate(self.manifest.splits[name].universes):
            rows = slice(number * n, (number + 1) * n)
            for key, expected in self._expected_rows(name, universe).items():
                if not np.array_equal(arrays[key][rows], expected):
                    yield (
                        f"{name}.zarr/{key}: samples {rows.start} to {rows.stop - 1} are not "
                        f"those of universe {universe}"
                    )

    def _cell_faults(self, name: SplitName) -> Iterator[str]:
        """Add up every universe's samples and compare with what was deposited."""
        split = self.manifest.splits[name]
        n = split.samples_per_universe
        moments = _Moments.zeros(len(split.universes), len(self.manifest.layout.redshifts))
        complete = np.ones(len(split.universes), dtype=bool)
        for shard in self.manifest.shards_of(name):
            stop = shard.first_sample + shard.samples
            owners = slice(shard.first_sample // n, (stop - 1) // n + 1)
            if not self._readable(shard):
                complete[owners] = False
                continue
            try:
                for number, sample in enumerate(self._decoded(shard), shard.first_sample):
                    moments.add(number // n, sample)
                    self.samples += 1
            except DatasetError as error:
                complete[owners] = False
                yield str(error)
        for owner in np.flatnonzero(complete).tolist():
            universe = self._by_id[split.universes[owner]]
            yield from self._mass_fault(universe, moments.mass[owner], split.variants)
            n_cells = n * math.prod(self.manifest.layout.sample_shape[:3])
            yield from self._moment_faults(universe, moments, owner, n_cells)

    def _readable(self, shard: Shard) -> bool:
        """Whether all files that reading the shard needs are right."""
        needed = {shard.path}
        if self.manifest.layout.format == "zarr":
            needed.add(f"{shard.split}.zarr/density/zarr.json")
        return needed <= self.sound

    def _mass_fault(self, universe: Universe, mass: np.ndarray, variants: int) -> Iterator[str]:
        tolerance = FLOAT_MASS_TOLERANCE if self.manifest.layout.dtype == "float32" else 0.0
        for snapshot in universe.snapshots:
            found = mass[snapshot.channel]
            claims = [c * variants for c in _claimed_masses(snapshot, self.manifest.layout)]
            wrong = [c for c in claims if not abs(found - c) <= tolerance * c]  # NaN, too
            for expected in wrong[:1]:
                yield (
                    f"universe {universe.id}, redshift {snapshot.redshift:.4g}: its samples "
                    f"hold {found:.10g} {_HELD[self.manifest.layout.quantity]}, "
                    f"expected {expected:.10g}"
                )

    def _moment_faults(
        self, universe: Universe, moments: _Moments, owner: int, n_cells: int
    ) -> Iterator[str]:
        """Largest cell and variance; symmetries and shifts of a cube change neither."""
        is_float = self.manifest.layout.dtype == "float32"
        tolerance = FLOAT_TOLERANCE if is_float else INTEGER_TOLERANCE
        for snapshot in universe.snapshots:
            place = owner, snapshot.channel
            where = f"universe {universe.id}, redshift {snapshot.redshift:.4g}"
            maximum, expected = float(moments.maximum[place]), snapshot.maximum
            if abs(maximum - expected) > tolerance.maximum * expected:
                yield f"{where}: the largest cell holds {maximum:.10g}, expected {expected:.10g}"
            mean = float(moments.mass[place]) / n_cells
            if mean == 0:  # said of its mass
                continue
            variance = float(moments.square[place]) / n_cells / mean**2 - 1
            expected = snapshot.variance
            allowed = tolerance.variance * abs(expected) + tolerance.rounding * (1 + variance)
            if not abs(variance - expected) <= allowed:
                yield f"{where}: the variance is {variance:.10g}, expected {expected:.10g}"

    def _decoded(self, shard: Shard) -> Iterator[np.ndarray]:
        """Cells of each sample; where the shard holds targets, they are compared."""
        split = self.manifest.splits[shard.split]
        for number, sample in enumerate(shard_samples(self.dataset, self.manifest, shard)):
            owner = split.universes[(shard.first_sample + number) // split.samples_per_universe]
            found = sample.targets
            if found is not None and not np.array_equal(found, self._expected_targets(owner)):
                raise DatasetError(
                    f"{shard.path}: record {number} has targets {found}, not those of {owner}"
                )
            yield sample.cells


@dataclass(frozen=True)
class _Moments:
    """Sum, sum of squares and maximum of the cells, each ``(universe, channel)`` float64."""

    mass: np.ndarray
    square: np.ndarray
    maximum: np.ndarray

    @classmethod
    def zeros(cls, universes: int, channels: int) -> _Moments:
        return cls(*(np.zeros((universes, channels)) for _ in range(3)))

    def add(self, owner: int, sample: np.ndarray) -> None:
        """Take in a sample ``(x, y, z, channel)``."""
        for channel in range(sample.shape[3]):
            cells = sample[..., channel].astype(np.float64).ravel()
            place = owner, channel
            self.mass[place] += cells.sum()
            self.square[place] += cells @ cells
            self.maximum[place] = max(self.maximum[place], cells.max())


def _claimed_masses(snapshot: SnapshotRecord, layout: Layout) -> list[float]:
    """All that a record says of the sum of its channel: the same for counts and masses."""
    if layout.quantity == "density":
        return [snapshot.mass]
    return [float(snapshot.n_particles), snapshot.mass]
