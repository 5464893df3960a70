"""What a path holds: a snapshot, a data set, a build that is not finished, or a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import ledger
from pipeline.config import Recipe, load_recipe
from pipeline.errors import DatasetError
from pipeline.ledger import LEDGER_FOLDER
from pipeline.manifest import MANIFEST_NAME, Manifest, load
from pipeline.readers import open_snapshot
from pipeline.readers.registry import entry_file
from pipeline.snapshot import ReadOptions, ReadyGrid, SnapshotHeader
from pipeline.write.store import Store
from pipeline.write.stores import open_store


def describe(place: Path | str, options: ReadOptions | None = None) -> dict[str, Any]:
    """Facts of whatever a path or URL is, as plain data.

    Parameters
    ----------
    place : Path or str
        A data set's folder or URL, a recipe (``.yaml``), or a snapshot: one of its files, or
        the folder of a bigfile or Zarr snapshot.
    options : ReadOptions, optional
        For a snapshot that does not tell its units or box.

    Returns
    -------
    dict
        ``kind`` is ``data set``, ``unfinished build``, ``recipe``, ``snapshot`` or ``ready grid``.

    Raises
    ------
    CosmoflowError
        If it is none of these, or damaged.
    """
    store = open_store(place)
    if store.exists(MANIFEST_NAME):
        return describe_dataset(store, load(store))
    if store.exists(LEDGER_FOLDER):
        return _describe_unfinished(store)
    if store.local is None:
        raise DatasetError(f"{store}: no data set ({MANIFEST_NAME} is missing)")
    path = store.local
    if entry_file(path).is_dir():
        raise DatasetError(
            f"{path}: no data set ({MANIFEST_NAME} is missing); name a data set, a recipe or a "
            "snapshot"
        )
    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        return _describe_recipe(path, load_recipe(path))
    snapshot = open_snapshot(path, options)
    facts, epochs = describe_snapshot(snapshot.header), snapshot.epochs()
    if len(epochs) > 1:
        facts["redshifts of the file"] = [epoch.header.redshift for epoch in epochs]
    return facts


def describe_snapshot(header: SnapshotHeader) -> dict[str, Any]:
    """Facts of a snapshot's header."""
    if header.grid is not None:
        return _describe_grid(header, header.grid)
    side = round(header.n_particles ** (1 / 3))
    lattice = f" = {side}^3" if side**3 == header.n_particles else ""
    return {
        "kind": "snapshot",
        "files": [str(f) for f in header.files],
        "format": header.format,
        "length unit of the file": header.length_unit,
        "box size [Mpc/h]": header.box_size,
        "redshift": header.redshift,
        "particles": f"{header.n_particles}{lattice}",
        "Omega_m": header.Omega_m,
        "h": header.h,
        "mass [1e10 Msun/h]": header.total_mass,
    }


def _describe_grid(header: SnapshotHeader, grid: ReadyGrid) -> dict[str, Any]:
    return {
        "kind": "ready grid",
        "files": [str(f) for f in header.files],
        "format": header.format,
        "n_grid": grid.n_grid,
        "cells hold": grid.quantity,
        "mass assignment": grid.scheme,
        "box size [Mpc/h]": header.box_size,
        "redshift": header.redshift,
        "Omega_m": header.Omega_m,
        "h": header.h,
        "parameters": dict(header.parameters) or None,
    }


def describe_dataset(place: Store, manifest: Manifest) -> dict[str, Any]:
    """Facts of a finished data set."""
    layout = manifest.layout
    return {
        "kind": "data set",
        "name": manifest.name,
        "path": str(place),
        "version": manifest.version,
        "format": f"{layout.format}, {layout.dtype}, {layout.compression}",
        "samples": {name: split.samples for name, split in manifest.splits.items()},
        "universes": {name: len(split.universes) for name, split in manifest.splits.items()},
        **_quarantined(manifest),
        "sample shape": list(layout.sample_shape),
        "cells hold": layout.quantity,
        "mass assignment": layout.scheme,
        "n_grid": layout.n_grid,
        "sub-volumes a side": layout.subvolumes,
        "redshifts": layout.redshifts,
        "targets": {name: list(limits) for name, limits in manifest.targets.items()},
        "shards": len(manifest.shards),
        "bytes": sum(f.bytes for f in (*manifest.shards, *manifest.files)),
        "particles": sum(s.n_particles for u in manifest.universes for s in u.snapshots),
        "recipe digest": manifest.recipe_digest,
        "software": manifest.software,
    }


def _quarantined(manifest: Manifest) -> dict[str, Any]:
    """Universes of the input that the data set is without, if there are any."""
    bad = {universe.id: universe.reason for universe in manifest.quarantined}
    return {"quarantined": bad} if bad else {}


def _describe_unfinished(store: Store) -> dict[str, Any]:
    entries = ledger.read(store)
    return {
        "kind": "unfinished build",
        "path": str(store),
        "finished tasks": len(entries),
        "finished shards": sum(len(entry.shards) for entry in entries.values()),
        "bytes": sum(shard.bytes for entry in entries.values() for shard in entry.shards),
        "go on with": "cosmoflow-prep build RECIPE --resume",
    }


def _describe_recipe(path: Path, recipe: Recipe) -> dict[str, Any]:
    return {
        "kind": "recipe",
        "path": str(path),
        "sample shape": list(recipe.sample_shape),
        "stored type": recipe.dtype,
        "samples a universe": recipe.samples_per_universe("train"),
        **recipe.model_dump(mode="json"),
    }
