"""From a recipe and surveyed universes to shard tasks: pure arithmetic, no I/O.

Samples of a split are numbered universe by universe (in the order of ids),
variant by variant, sub-volume by sub-volume.  A shard is a run of
``samples_per_shard`` of them; a task makes whole universes into whole shards,
so that no cube is computed twice and no shard is written by two.

Universes that cannot be used are left out after the splits are made; an
extension of a data set has tasks, shards and shard numbers of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline import worker_memory
from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.manifest import (
    SPLITS,
    Quarantined,
    SplitName,
    inside,
    part_folder,
    split_place,
)
from pipeline.quarantine import close_gaps, refusals_text
from pipeline.split import Parameters, assign_splits, extension_shares
from pipeline.survey import Refusal, SurveyedUniverse, check_boxes
from pipeline.units import Quantity


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
    """Whole universes that become whole shards; the unit of work of a build.

    ``part`` is that of the data set: 0, or the number of an extension.
    """

    split: SplitName
    universes: tuple[SurveyedUniverse, ...]
    shards: tuple[ShardPlan, ...]
    part: int = 0

    @property
    def name(self) -> str:
        """E.g. ``train/3`` or ``part-0001/train/3``: the split and its first shard."""
        return inside(part_folder(self.part), f"{self.split}/{self.shards[0].number}")


@dataclass(frozen=True)
class Published:
    """What an extension adds to.

    Attributes
    ----------
    part : int
        Number of the part that is added; 0: a data set is begun.
    universes : dict
        Universes that are there, by split.
    """

    part: int = 0
    universes: dict[SplitName, int] = field(default_factory=dict)


NOTHING = Published()


@dataclass(frozen=True)
class Plan:
    """All that a build will do.

    ``before`` is what was published before; ``quarantined`` are the universes
    that it leaves out.
    """

    recipe: Recipe
    splits: dict[SplitName, list[SurveyedUniverse]]
    tasks: tuple[ShardTask, ...]
    before: Published = NOTHING
    quarantined: tuple[Quarantined, ...] = ()

    @property
    def quantity(self) -> Quantity:
        """What the cells hold."""
        return quantity_of((u for members in self.splits.values() for u in members), self.recipe)

    @property
    def n_universes(self) -> int:
        """Universes over all splits."""
        return sum(len(universes) for universes in self.splits.values())

    def n_samples(self, split: SplitName) -> int:
        """Samples of a split that it will make."""
        return len(self.splits[split]) * self.recipe.samples_per_universe(split)

    def first_sample(self, split: SplitName) -> int:
        """Number in its split of the first sample that it will make."""
        return first_sample(self.recipe, self.before, split)

    @property
    def n_shards(self) -> int:
        """Shards over all splits."""
        return sum(len(task.shards) for task in self.tasks)

    @property
    def output_bytes(self) -> int:
        """Bytes of all samples before compression."""
        samples = sum(self.n_samples(split) for split in self.splits)
        return samples * worker_memory.sample_bytes(self.recipe)

    @property
    def worker_bytes(self) -> int:
        """Bound of the memory of a worker that makes whole universes, one task at a time."""
        return worker_memory.whole(self.recipe, self.most_particles)

    @property
    def worker_bytes_in_parts(self) -> int | None:
        """The least memory of workers that make universes in parts; None: they cannot."""
        if self.recipe.grid.scheme == "ready":
            return None
        return worker_memory.in_parts(self.recipe)

    @property
    def scratch_bytes(self) -> int | None:
        """Bound of the scratch files for that: those of a task's universes."""
        if self.recipe.grid.scheme == "ready":
            return None
        more = max((len(task.universes) for task in self.tasks), default=1) - 1
        cubes = more * worker_memory.cube_bytes(self.recipe)
        return cubes + worker_memory.scratch_bytes(self.recipe, self.most_particles)

    @property
    def most_particles(self) -> int:
        """Particles of the largest snapshot; 0 for ready grids."""
        universes = (u for members in self.splits.values() for u in members)
        return max((c.header.n_particles for u in universes for c in u.channels), default=0)


def make_plan(
    recipe: Recipe,
    universes: Sequence[SurveyedUniverse],
    refused: Sequence[Refusal] = (),
    before: Published = NOTHING,
) -> Plan:
    """Split the universes and cut the splits into tasks.

    Parameters
    ----------
    recipe : Recipe
    universes : sequence of SurveyedUniverse
        Those that can be used; of an extension, the new ones.
    refused : sequence of Refusal
        Those that cannot: they have a split as all others, and are left out of it.
    before : Published
        What an extension adds to.

    Raises
    ------
    InputError
        If there are too few universes for the splits, ready grids hold
        different quantities, or boxes are too different.
    """
    quantity_of(universes, recipe)
    check_boxes(universes)
    assigned = _assigned(recipe, universes, refused, before)
    by_id, bad = {u.id: u for u in universes}, {r.id for r in refused}
    splits: dict[SplitName, list[SurveyedUniverse]] = {}
    for name in SPLITS:
        members = sorted(universe for universe in assigned if assigned[universe] == name)
        if members:
            splits[name] = [by_id[universe] for universe in close_gaps(members, bad)]
    _check_none_lost(splits, refused, len(universes), before)
    splits = {name: members for name, members in splits.items() if members}
    tasks = [task for name in splits for task in _tasks(recipe, name, splits[name], before)]
    quarantined = tuple(
        Quarantined(id=r.id, split=assigned.get(r.id), reason=r.reason)
        for r in sorted(refused, key=lambda r: r.id)
    )
    return Plan(recipe, splits, tuple(tasks), before, quarantined)


def shard_tasks(
    recipe: Recipe,
    split: SplitName,
    universes: Sequence[SurveyedUniverse],
    before: Published = NOTHING,
) -> list[ShardTask]:
    """Tasks that make the given universes of a split, in the given order, into a part's shards."""
    return list(_tasks(recipe, split, universes, before))


def first_sample(recipe: Recipe, before: Published, split: SplitName) -> int:
    """Samples that a split has already."""
    return before.universes.get(split, 0) * recipe.samples_per_universe(split)


def _assigned(
    recipe: Recipe,
    universes: Sequence[SurveyedUniverse],
    refused: Sequence[Refusal],
    before: Published,
) -> dict[str, SplitName]:
    """Split of every universe whose parameters are known, good or bad."""
    known: dict[str, Parameters] = {r.id: r.parameters for r in refused if r.parameters is not None}
    known |= {u.id: u.parameters for u in universes}
    targets = {u: {name: p[name] for name in recipe.targets} for u, p in known.items()}
    shares = recipe.split.fractions
    if before.part and not known:
        return {}
    if before.part:
        shares = extension_shares(before.universes, shares, len(known))
    try:
        return assign_splits(targets, shares, recipe.split.seed)
    except InputError as error:
        if not refused:
            raise
        text = refusals_text(refused, len(universes) + len(refused))
        raise InputError(f"{error}\n{text}") from error


def _check_none_lost(
    splits: dict[SplitName, list[SurveyedUniverse]],
    refused: Sequence[Refusal],
    n_good: int,
    before: Published,
) -> None:
    """Refuse to go on where nothing of a split, or of an extension, is left."""
    empty = [name for name, members in splits.items() if not members]
    lost = n_good == 0 if before.part else bool(empty)
    if refused and lost:
        what = "nothing is left to add" if before.part else f"{' and '.join(empty)} would be empty"
        raise InputError(f"{what}: {refusals_text(refused, n_good + len(refused))}")


def quantity_of(universes: Iterable[SurveyedUniverse], recipe: Recipe) -> Quantity:
    """What the cells of all universes hold.

    Raises
    ------
    InputError
        If ready grids hold different quantities.
    """
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
    recipe: Recipe, split: SplitName, universes: Sequence[SurveyedUniverse], before: Published
) -> Iterator[ShardTask]:
    per_universe = recipe.samples_per_universe(split)
    per_shard = recipe.output.samples_per_shard
    group = max(1, per_shard // per_universe)
    shards_a_group = max(1, per_universe // per_shard)
    total = len(universes) * per_universe
    for start in range(0, len(universes), group):
        first = start * per_universe // per_shard
        numbers = range(first, first + shards_a_group)
        shards = tuple(_shard(recipe, split, number, total, before) for number in numbers)
        yield ShardTask(split, tuple(universes[start : start + group]), shards, before.part)


def _shard(
    recipe: Recipe, split: SplitName, number: int, total: int, before: Published
) -> ShardPlan:
    per_shard = recipe.output.samples_per_shard
    first = number * per_shard
    return ShardPlan(
        split,
        number,
        first_sample(recipe, before, split) + first,
        min(per_shard, total - first),
        _shard_path(recipe, split, number, before.part),
    )


def _shard_path(recipe: Recipe, split: SplitName, number: int, part: int) -> str:
    place = split_place(part_folder(part), split, recipe.output.format)
    if recipe.output.format == "zarr":
        # where the Zarr v3 default chunk key encoding puts shard (number, 0, 0, 0, 0)
        return f"{place}/density/c/{number}/0/0/0/0"
    return f"{place}/{recipe.name}-{number:05d}.tfrecord"
