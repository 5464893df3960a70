"""From a recipe and surveyed universes to shard tasks: pure arithmetic, no I/O.

Samples of a split are numbered universe by universe (in the order of ids),
variant by variant, sub-volume by sub-volume.  A shard is a run of
``samples_per_shard`` of them; a task makes whole universes into whole shards,
so that no cube is computed twice and no shard is written by two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.manifest import SPLITS, SplitName
from pipeline.split import assign_splits
from pipeline.survey import SurveyedUniverse, check_boxes
from pipeline.units import Quantity

CHUNK_BYTES = 48 << 20
"""Upper bound of a reader's chunk: 2^20 float64 positions and a copy."""

MASS_CHUNK_BYTES = 40 << 20
"""Masses of the chunk's particles as read, checked and as integers."""

WORKER_BASE_BYTES = 300 << 20
"""An idle worker process: Python, NumPy, numba and Dask."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard: a run of samples of a split, and its path in the data set."""

    split: SplitName
    number: int
    first_sample: int
    samples: int
    path: str


@dataclass(frozen=True)
class ShardTask:
    """Whole universes that become whole shards; the unit of work of a build."""

    split: SplitName
    universes: tuple[SurveyedUniverse, ...]
    shards: tuple[ShardPlan, ...]

    @property
    def name(self) -> str:
        """E.g. ``train/3``: the split and its first shard."""
        return f"{self.split}/{self.shards[0].number}"


@dataclass(frozen=True)
class Plan:
    """All that a build will do."""

    recipe: Recipe
    splits: dict[SplitName, list[SurveyedUniverse]]
    tasks: tuple[ShardTask, ...]

    @property
    def quantity(self) -> Quantity:
        """What the cells hold."""
        return _quantity((u for members in self.splits.values() for u in members), self.recipe)

    @property
    def n_universes(self) -> int:
        """Universes over all splits."""
        return sum(len(universes) for universes in self.splits.values())

    def n_samples(self, split: SplitName) -> int:
        """Samples of a split."""
        return len(self.splits[split]) * self.recipe.samples_per_universe(split)

    @property
    def n_shards(self) -> int:
        """Shards over all splits."""
        return sum(len(task.shards) for task in self.tasks)

    @property
    def output_bytes(self) -> int:
        """Bytes of all samples before compression."""
        return sum(self.n_samples(split) for split in self.splits) * sample_bytes(self.recipe)

    @property
    def worker_bytes(self) -> int:
        """Bound of one worker's memory with one task at a time."""
        return worker_memory(self.recipe)


def sample_bytes(recipe: Recipe) -> int:
    """Bytes of one sample in memory."""
    return math.prod(recipe.sample_shape) * np.dtype(recipe.dtype).itemsize


def worker_memory(recipe: Recipe) -> int:
    """Upper bound of the memory of a worker that runs one task.

    One int64 grid, one chunk of positions (and masses), the samples of the
    task, one cube and its variants' copies, and the shard as it is encoded.
    Ready grids go into the cube a block at a time.
    """
    grid = 0 if recipe.grid.scheme == "ready" else 8 * recipe.grid.n_grid**3
    masses = MASS_CHUNK_BYTES if recipe.grid.weight == "mass" else 0
    one = sample_bytes(recipe)
    cubes = (3 if recipe.augment.shifts else 2) * one * recipe.split.subvolumes**3
    samples = one * max(recipe.output.samples_per_shard, recipe.samples_per_universe("train"))
    # Zarr: the shard's chunks and the file; records: each, joined, and compressed
    copies = 2 if recipe.output.format == "zarr" else 3
    encoded = copies * one * recipe.output.samples_per_shard
    return WORKER_BASE_BYTES + grid + CHUNK_BYTES + masses + cubes + samples + encoded


def make_plan(recipe: Recipe, universes: Sequence[SurveyedUniverse]) -> Plan:
    """Split the universes and cut the splits into tasks.

    Raises
    ------
    InputError
        If there are too few universes for the splits, ready grids hold
        different quantities, or boxes are too different.
    """
    _quantity(universes, recipe)
    check_boxes(universes)
    parameters = {u.id: {name: u.parameters[name] for name in recipe.targets} for u in universes}
    assigned = assign_splits(parameters, recipe.split.fractions, recipe.split.seed)
    ordered = sorted(universes, key=lambda u: u.id)
    splits: dict[SplitName, list[SurveyedUniverse]] = {
        name: [u for u in ordered if assigned[u.id] == name] for name in SPLITS
    }
    splits = {name: members for name, members in splits.items() if members}
    tasks = [task for name in splits for task in _tasks(recipe, name, splits[name])]
    return Plan(recipe, splits, tuple(tasks))


def _quantity(universes: Iterable[SurveyedUniverse], recipe: Recipe) -> Quantity:
    """What the cells of all universes hold."""
    if recipe.grid.scheme != "ready":
        return "mass" if recipe.grid.weight == "mass" else "counts"
    first: dict[Quantity, str] = {}
    for universe in universes:
        for channel in universe.channels:
            if channel.header.grid is not None:
                first.setdefault(channel.header.grid.quantity, channel.header.name)
    if len(first) > 1:
        shown = " and ".join(f"{name} {quantity}" for quantity, name in first.items())
        raise InputError(
            f"ready grids of one data set hold one quantity, but there are several: {shown}; "
            "make a data set of each"
        )
    return next(iter(first), "density")


def _tasks(
    recipe: Recipe, split: SplitName, universes: list[SurveyedUniverse]
) -> Iterator[ShardTask]:
    per_universe = recipe.samples_per_universe(split)
    per_shard = recipe.output.samples_per_shard
    group = max(1, per_shard // per_universe)
    shards_a_group = max(1, per_universe // per_shard)
    total = len(universes) * per_universe
    for start in range(0, len(universes), group):
        first = start * per_universe // per_shard
        numbers = range(first, first + shards_a_group)
        shards = tuple(_shard(recipe, split, number, total) for number in numbers)
        yield ShardTask(split, tuple(universes[start : start + group]), shards)


def _shard(recipe: Recipe, split: SplitName, number: int, total: int) -> ShardPlan:
    per_shard = recipe.output.samples_per_shard
    first = number * per_shard
    return ShardPlan(
        split, number, first, min(per_shard, total - first), _shard_path(recipe, split, number)
    )


def _shard_path(recipe: Recipe, split: SplitName, number: int) -> str:
    if recipe.output.format == "zarr":
        # where the Zarr v3 default chunk key encoding puts shard (number, 0, 0, 0, 0)
        return f"{split}.zarr/density/c/{number}/0/0/0/0"
    return f"{split}/{recipe.name}-{number:05d}.tfrecord"
