"""The end of a build: the small arrays of each split, then the manifest, last."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline import manifest as manifests
from pipeline.config import recipe_digest
from pipeline.ledger import Entry
from pipeline.manifest import File, Layout, Manifest, Split, SplitName
from pipeline.plan import Plan
from pipeline.shard_task import scaled_targets
from pipeline.software import software_versions
from pipeline.subvolume import subvolume_indices
from pipeline.units import Quantity
from pipeline.write.atomic import write_atomically
from pipeline.write.shards import compression_label, digest, write_file
from pipeline.write.zarr import DensityArray, SampleTable, codec_name, encode_group

RECIPE_NAME = "recipe.yaml"

UNITS: dict[Quantity, str] = {
    "counts": "particles per cell",
    "mass": "mean particle masses per cell",
    "density": "mean densities",
}
"""The attribute ``units`` of the density array."""


def publish(plan: Plan, entries: Iterable[Entry], output: Path) -> Manifest:
    """Write what is left of the data set and, last of all, its manifest.

    Parameters
    ----------
    plan : Plan
    entries : iterable of Entry
        One for every task of the plan.
    output : Path
        Folder of the data set; its recipe is already there.

    Raises
    ------
    OutputError
        If a file cannot be written; the data set is then not published.
    """
    recipe = plan.recipe
    done = sorted(entries, key=lambda e: (e.shards[0].split, e.shards[0].first_sample))
    files = [_describe(output, RECIPE_NAME)]
    if recipe.output.format == "zarr":
        files += [file for split in plan.splits for file in _write_group(plan, split, output)]
    manifest = Manifest(
        name=recipe.name,
        recipe_digest=recipe_digest(recipe),
        software=software_versions(),
        layout=_layout(plan),
        targets=recipe.targets,
        splits={name: _split(plan, name) for name in plan.splits},
        shards=[shard for entry in done for shard in entry.shards],
        files=files,
        universes=sorted((u for entry in done for u in entry.universes), key=lambda u: u.id),
    )
    write_atomically(output / manifests.MANIFEST_NAME, manifests.dump(manifest))
    return manifest


def _describe(output: Path, path: str) -> File:
    data = (output / path).read_bytes()
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


def _write_group(plan: Plan, split: SplitName, output: Path) -> list[File]:
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
    return [
        write_file(output, f"{split}.zarr/{key}", data) for key, data in sorted(encoded.items())
    ]
