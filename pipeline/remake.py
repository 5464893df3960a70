"""Making parts of a published data set again, apart from it, from its input.

What to make follows from the manifest: which universes are in a shard, and in
which order.  The input is looked up by the recipe, and has to be the same: a
universe that is gone, or has other snapshots or parameters, is named and not
made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pipeline.config import (
    Recipe,
    load_recipe,
    parse_recipe,
    recipe_difference,
    recipe_digest,
)
from pipeline.errors import DatasetError, InputError, RecipeError
from pipeline.ledger import Entry
from pipeline.manifest import Manifest, Part, SplitName, Universe
from pipeline.output_folder import software_difference
from pipeline.plan import Plan, Published, ShardTask, shard_tasks
from pipeline.plan_record import read_plan_record, recipe_of
from pipeline.publish import UNITS, sample_table
from pipeline.shard_task import Job, run_task
from pipeline.survey import SurveyedUniverse, survey
from pipeline.universes import UniverseInput, list_universes
from pipeline.write.memory_store import MemoryStore
from pipeline.write.store import Store
from pipeline.write.zarr import DensityArray, codec_name, encode_group


@dataclass(frozen=True)
class Source:
    """Where the input of a data set is said to be.

    Attributes
    ----------
    recipe : Recipe or None
        As the user has it; None: the one that the data set keeps.
    root : Path
        Folder that the recipe's paths are relative to.
    """

    recipe: Recipe | None
    root: Path


def find_source(store: Store, recipe: Path | None, input_root: Path | None = None) -> Source:
    """What the user named, or what the build left a note of.

    Parameters
    ----------
    store : Store
        Place of the data set.
    recipe : Path or None
        The recipe's file.
    input_root : Path or None
        Folder of the original recipe, where that file is gone: the data set keeps a copy.

    Raises
    ------
    RecipeError
        If nothing is named and nothing is known, or the recipe is not valid.
    """
    if recipe is not None:
        return Source(load_recipe(recipe), input_root or recipe.resolve().parent)
    if input_root is not None:
        return Source(None, input_root)
    try:
        record = read_plan_record(store)
    except DatasetError:  # a damaged note is as good as none
        record = None
    noted = recipe_of(store, record) if record else None
    if noted is None:
        raise RecipeError(
            f"{store}: the recipe that it was built with is not known; name it with --recipe, or "
            "the folder that it was in with --input-root"
        )
    return Source(load_recipe(noted), noted.parent)


@dataclass
class PartInput:
    """The recipe of a part of a data set, and the universes that are in its input now."""

    number: int
    part: Part
    recipe: Recipe
    root: Path

    @cached_property
    def universes(self) -> dict[str, UniverseInput]:
        """By id; ``InputError`` if the input as a whole cannot be listed."""
        return {universe.id: universe for universe in list_universes(self.recipe, self.root)}


def part_input(store: Store, part: Part, number: int, source: Source) -> PartInput:
    """The recipe that made a part: the user's, if it is the same, or the kept one.

    Raises
    ------
    RecipeError
        If neither is the recipe that made the part; with the differences.
    """
    kept = _kept_recipe(store, part)
    for recipe in (source.recipe, kept):
        if recipe is not None and recipe_digest(recipe) == part.recipe_digest:
            return PartInput(number, part, recipe, source.root)
    differences = recipe_difference(kept, source.recipe) if kept and source.recipe else []
    raise RecipeError(
        f"{store.address(part.recipe)}: not the recipe that the data set was made with, and "
        + ("the recipe that was named is none either" if source.recipe else "none was named")
        + "".join(f"\n  {line}" for line in differences)
        + "\nname the right one with --recipe"
    )


def _kept_recipe(store: Store, part: Part) -> Recipe | None:
    try:
        return parse_recipe(store.read(part.recipe), part.recipe)
    except (OSError, RecipeError):
        return None


@dataclass(frozen=True)
class Remake:
    """One task that makes shards again.

    Attributes
    ----------
    task : ShardTask
        Its universes are not looked at yet.
    inputs : tuple of UniverseInput
    expected : tuple of Universe
        As the manifest describes them.
    job : Job
        With the data set's place, which is not written to.
    """

    task: ShardTask
    inputs: tuple[UniverseInput, ...]
    expected: tuple[Universe, ...]
    job: Job

    def __str__(self) -> str:
        return self.task.name


@dataclass(frozen=True)
class Remade:
    """What a task made.

    Attributes
    ----------
    files : dict
        Path to bytes, of the task's shards and indices.
    entry : Entry
    """

    files: dict[str, bytes]
    entry: Entry


@dataclass
class Plans:
    """Tasks that make certain shards, and why others cannot be made.

    Attributes
    ----------
    remakes : list of Remake
    missing : dict
        Path of a shard to what its input lacks.
    """

    remakes: list[Remake] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def plan_remakes(
    store: Store, manifest: Manifest, source: Source, shards: Collection[str]
) -> Plans:
    """Tasks that make the shards of the given paths again.

    Raises
    ------
    RecipeError, InputError
        If the recipe is another, or the input as a whole cannot be listed.
    DatasetError
        If the manifest's shards are not those that the recipe gives.
    """
    plans = Plans()
    for number, part in enumerate(manifest.all_parts()):
        of_part = {s.path for s in manifest.shards if manifest.part_of(s).folder == part.folder}
        if of_part.intersection(shards):
            given = part_input(store, part, number, source)
            for task in all_tasks(manifest, given):
                if not {shard.path for shard in task.shards}.isdisjoint(shards):
                    _check_same_shards(manifest, task)
                    _add(plans, store, manifest, given, task)
    return plans


def _add(plans: Plans, store: Store, manifest: Manifest, given: PartInput, task: ShardTask) -> None:
    ids = [universe.id for universe in task.universes]
    absent = [name for name in ids if name not in given.universes]
    if absent:
        reason = f"universe {', '.join(absent)} is not in the input ({given.root})"
        plans.missing.update({shard.path: reason for shard in task.shards})
        return
    by_id = {universe.id: universe for universe in manifest.universes}
    plans.remakes.append(
        Remake(
            task,
            tuple(given.universes[name] for name in ids),
            tuple(by_id[name] for name in ids),
            Job(given.recipe, given.root, store, given.number),
        )
    )


def all_tasks(manifest: Manifest, given: PartInput) -> Iterator[ShardTask]:
    """All tasks of a part, in the order of the manifest; universes are known by id only."""
    before = _before(manifest, given.part, given.number)
    for split in given.part.samples:
        yield from shard_tasks(given.recipe, split, _members(manifest, given.part, split), before)


def _members(manifest: Manifest, part: Part, split: SplitName) -> list[SurveyedUniverse]:
    by_id = {universe.id: universe.parameters for universe in manifest.universes}
    n = manifest.splits[split].samples_per_universe
    first, count = part.first_sample[split] // n, part.samples[split] // n
    ids = manifest.splits[split].universes[first : first + count]
    return [SurveyedUniverse(name, by_id[name], ()) for name in ids]


def _before(manifest: Manifest, part: Part, number: int) -> Published:
    there = {
        split: first // manifest.splits[split].samples_per_universe
        for split, first in part.first_sample.items()
    }
    return Published(number, there)


def _check_same_shards(manifest: Manifest, task: ShardTask) -> None:
    listed = {s.path: (s.first_sample, s.samples) for s in manifest.shards}
    for shard in task.shards:
        if listed.get(shard.path) != (shard.first_sample, shard.samples):
            raise DatasetError(
                f"{shard.path}: the recipe puts {shard.samples} samples from "
                f"{shard.first_sample} into it, the manifest {listed.get(shard.path)}"
            )


def remake(order: Remake) -> Remade:
    """Make the shards of a task, in memory.

    Raises
    ------
    InputError
        If a universe's input is not the one that the data set was made from.
    """
    surveyed = []
    for given, expected in zip(order.inputs, order.expected, strict=True):
        found = survey(given, order.job.recipe)
        _check_same_input(found, expected)
        surveyed.append(found)
    held = MemoryStore(name="made again")
    entry = run_task(
        replace(order.task, universes=tuple(surveyed)), replace(order.job, output=held)
    )
    wanted = {f.path for s in entry.shards for f in (s, s.index) if f is not None}
    return Remade({path: held.files[path] for path in wanted}, entry)


def _check_same_input(found: SurveyedUniverse, expected: Universe) -> None:
    if found.parameters != expected.parameters:
        raise InputError(
            f"universe {found.id}: its parameters are {found.parameters} now, "
            f"{expected.parameters} in the data set; restore the parameter table"
        )
    for channel, record in zip(found.channels, expected.snapshots, strict=True):
        if channel.fingerprint != record.fingerprint:
            raise InputError(
                f"{channel.header.name}: changed since universe {found.id} was made of it "
                f"(fingerprint {channel.fingerprint:.20}..., {record.fingerprint:.20}... in the "
                "data set); restore the file"
            )


def group_files(manifest: Manifest, given: PartInput, split: SplitName) -> dict[str, bytes]:
    """All small files of a split of a Zarr part, by path: from recipe and manifest, no input."""
    recipe, members = given.recipe, _members(manifest, given.part, split)
    plan = Plan(recipe, {split: members}, (), _before(manifest, given.part, given.number))
    density = DensityArray(
        (given.part.samples[split], *recipe.sample_shape),
        recipe.dtype,
        recipe.output.samples_per_shard,
        codec_name(recipe.output.codec),
        UNITS[manifest.layout.quantity],
    )
    encoded = encode_group(
        density, sample_table(plan, split), list(recipe.grid.redshifts), {"name": recipe.name}
    )
    place = given.part.place(split, "zarr")
    return {f"{place}/{key}": data for key, data in encoded.items()}


def small_files(
    store: Store, manifest: Manifest, source: Source, wanted: Collection[str]
) -> dict[str, bytes]:
    """Bytes that the small files of these paths should have, by path.

    The recipe is not looked at; what is in no part's groups is left out.

    Raises
    ------
    RecipeError
        If the recipe of a part is not known.
    """
    made: dict[str, bytes] = {}
    if manifest.layout.format != "zarr":
        return made
    for number, part in enumerate(manifest.all_parts()):
        for split in part.samples:
            place = part.place(split, "zarr")
            if any(path.startswith(f"{place}/") for path in wanted):
                made |= group_files(manifest, part_input(store, part, number, source), split)
    return {path: made[path] for path in wanted if path in made}


def software_notes(manifest: Manifest) -> list[str]:
    """Versions that differ from those that made the data set: why bytes may differ."""
    lines = [line for part in manifest.all_parts() for line in software_difference(part.software)]
    return list(dict.fromkeys(lines))
