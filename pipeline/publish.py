"""The end of a build: the small arrays of each split, then the manifest, last.

An extension writes arrays of its own, keeps the manifest of before under
another name, and puts the new one in its place: the data set is the old one or
the new one at any instant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from pipeline import manifest as manifests
from pipeline.config import recipe_digest
from pipeline.ledger import Entry
from pipeline.manifest import (
    MANIFEST_NAME,
    RECIPE_NAME,
    SPLITS,
    File,
    Layout,
    Manifest,
    Part,
    Shard,
    Split,
    SplitName,
    inside,
    part_folder,
    split_place,
)
from pipeline.plan import Plan
from pipeline.shard_task import scaled_targets
from pipeline.software import software_versions
from pipeline.subvolume import subvolume_indices
from pipeline.units import Quantity
from pipeline.write.shards import compression_label, digest, write_file
from pipeline.write.store import Store
from pipeline.write.zarr import DensityArray, SampleTable, codec_name, encode_group

UNITS: dict[Quantity, str] = {
    "counts": "particles per cell",
    "mass": "mean particle masses per cell",
    "density": "mean densities",
}
"""The attribute ``units`` of the density array."""


def publish(
    plan: Plan, entries: Iterable[Entry], output: Store, previous: Manifest | None = None
) -> Manifest:
    """Write what is left of the data set and, last of all, its manifest.

    Parameters
    ----------
    plan : Plan
    entries : iterable of Entry
        One for every task of the plan.
    output : Store
        Place of the data set; its recipe is already there.
    previous : Manifest, optional
        Of the data set that the plan extends; quarantined are those that remain so.

    Raises
    ------
    OutputError
        If a file cannot be written; the data set is then not published.
    """
    done = list(entries)
    shards = _in_order(shard for entry in done for shard in entry.shards)
    files = [_describe(output, inside(part_folder(plan.before.part), RECIPE_NAME))]
    if plan.recipe.output.format == "zarr":
        files += [file for split in plan.splits for file in _write_group(plan, split, output)]
    _remove_superseded(output, plan, {f.path for f in _with_indices(shards)})
    manifest = Manifest(
        name=plan.recipe.name,
        recipe_digest=recipe_digest(plan.recipe),
        software=software_versions(),
        layout=_layout(plan),
        targets=plan.recipe.targets,
        splits={name: _split(plan, name) for name in plan.splits},
        shards=shards,
        files=files,
        universes=sorted((u for entry in done for u in entry.universes), key=lambda u: u.id),
        parts=[_part(plan)],
        quarantined=list(plan.quarantined),
    )
    if previous is not None:
        manifest = extended(previous, _keep_previous(output, previous), manifest)
    output.write(MANIFEST_NAME, manifests.dump(manifest))
    return manifest


def extended(previous: Manifest, kept: File, new: Manifest) -> Manifest:
    """Manifest of a data set with what an extension added.

    Parameters
    ----------
    previous : Manifest
        Of the data set before.
    kept : File
        Where that manifest is kept.
    new : Manifest
        Of the extension alone.
    """
    splits = {
        name: _joined(previous.splits.get(name), new.splits.get(name))
        for name in SPLITS
        if name in previous.splits or name in new.splits
    }
    return new.model_copy(
        update={
            "version": previous.version + 1,
            "previous": kept,
            "splits": splits,
            "shards": _in_order([*previous.shards, *new.shards]),
            "files": [*previous.files, *new.files],
            "universes": sorted([*previous.universes, *new.universes], key=lambda u: u.id),
            "quarantined": sorted([*previous.quarantined, *new.quarantined], key=lambda u: u.id),
            "parts": [
                *previous.all_parts(),
                *(p.model_copy(update={"version": previous.version + 1}) for p in new.parts),
            ],
        }
    )


def _joined(*splits: Split | None) -> Split:
    """A split of several parts, in their order; None: the part adds nothing to it."""
    there = [split for split in splits if split is not None]
    universes = [universe for split in there for universe in split.universes]
    samples = sum(split.samples for split in there)
    return there[0].model_copy(update={"universes": universes, "samples": samples})


def _keep_previous(output: Store, previous: Manifest) -> File:
    """The manifest that is replaced, under a name that tells its version."""
    raw = output.read(MANIFEST_NAME)
    return write_file(output, f"manifest.v{previous.version}.json", raw)


def _in_order(shards: Iterable[Shard]) -> list[Shard]:
    return sorted(shards, key=lambda shard: (shard.split, shard.first_sample))


def _with_indices(shards: Sequence[Shard]) -> list[File]:
    return [*shards, *(shard.index for shard in shards if shard.index is not None)]


def _remove_superseded(output: Store, plan: Plan, listed: Collection[str]) -> None:
    """Remove shards that the plan has no longer, since universes were quarantined after them."""
    format, folder = plan.recipe.output.format, part_folder(plan.before.part)
    pattern = r"density/c/\d+/0/0/0/0" if format == "zarr" else r"[^/]+-\d{5,}\.(tfrecord|idx)"
    for split in SPLITS:
        place = split_place(folder, split, format)
        for path in output.paths(place):
            if path not in listed and re.fullmatch(f"{place}/{pattern}", path):
                output.remove(path)


def _describe(output: Store, path: str) -> File:
    data = output.read(path)
    return File(path=path, bytes=len(data), digest=digest(data))


def _layout(plan: Plan) -> Layout:
    recipe = plan.recipe
    return Layout(
        format=recipe.output.format,
        sample_shape=recipe.sample_shape,
        dtype=recipe.dtype,
        scheme=recipe.grid.scheme,
        n_grid=recipe.grid.n_grid,
        subvolumes=recipe.split.subvolumes,
        redshifts=list(recipe.grid.redshifts),
        samples_per_shard=recipe.output.samples_per_shard,
        compression=compression_label(recipe),
        quantity=plan.quantity,
    )


def _part(plan: Plan) -> Part:
    number = plan.before.part
    return Part(
        version=1,
        folder=part_folder(number),
        recipe=inside(part_folder(number), RECIPE_NAME),
        recipe_digest=recipe_digest(plan.recipe),
        software=software_versions(),
        first_sample={name: plan.first_sample(name) for name in plan.splits},
        samples={name: plan.n_samples(name) for name in plan.splits},
    )


def _split(plan: Plan, name: SplitName) -> Split:
    return Split(
        universes=[universe.id for universe in plan.splits[name]],
        variants=plan.recipe.variants(name),
        samples_per_universe=plan.recipe.samples_per_universe(name),
        samples=plan.n_samples(name),
    )


def sample_table(plan: Plan, split: SplitName) -> SampleTable:
    """The small arrays of a split, from the plan alone."""
    recipe, universes = plan.recipe, plan.splits[split]
    n, k3 = recipe.samples_per_universe(split), recipe.split.subvolumes**3
    physical = np.array([[u.parameters[name] for name in recipe.targets] for u in universes])
    places = subvolume_indices(recipe.split.subvolumes)
    variants = np.repeat(np.arange(recipe.variants(split), dtype=np.int32), k3)
    return SampleTable(
        names=list(recipe.targets),
        targets=np.repeat(scaled_targets(recipe, tuple(universes)), n, axis=0),
        parameters=np.repeat(physical, n, axis=0),
        universe=[u.id for u in universes for _ in range(n)],
        subvolume=np.tile(places, (len(universes) * recipe.variants(split), 1)),
        variant=np.tile(variants, len(universes)),
    )


def _write_group(plan: Plan, split: SplitName, output: Store) -> list[File]:
    recipe = plan.recipe
    density = DensityArray(
        (plan.n_samples(split), *recipe.sample_shape),
        recipe.dtype,
        recipe.output.samples_per_shard,
        codec_name(recipe.output.codec),
        UNITS[plan.quantity],
    )
    encoded = encode_group(
        density, sample_table(plan, split), list(recipe.grid.redshifts), {"name": recipe.name}
    )
    place = split_place(part_folder(plan.before.part), split, recipe.output.format)
    return [write_file(output, f"{place}/{key}", data) for key, data in sorted(encoded.items())]
