"""What the tests of quarantine and extensions do to an input, and ask of a data set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cosmoflow_model.catalog import Catalog
from cosmoflow_model.feed import Feed
from pipeline.manifest import Manifest, load, scale_target
from pipeline.rounds import Progress
from pipeline.samples import universe_cube

LATER = tuple(f"u{number:03d}" for number in range(10, 15))


def spoil_positions(root: Path, *names: str) -> None:
    """Only reading all positions tells."""
    for name in names:
        with h5py.File(root / "sims" / name / "snap_1.hdf5", "r+") as file:
            file["PartType1/Coordinates"][7] = np.nan


def spoil_headers(root: Path, *names: str) -> None:
    """The survey tells."""
    for name in names:
        path = root / "sims" / name / "snap_1.hdf5"
        os.truncate(path, path.stat().st_size - 100)


def content(output: Path | str) -> dict[str, Any]:
    """All that a data set is, but for the words of the reasons and where it lies."""
    manifest = load(output).model_dump(mode="json")
    for universe in manifest["quarantined"]:
        assert universe.pop("reason")
    manifest["files"] = [f for f in manifest["files"] if not f["path"].endswith("recipe.yaml")]
    return manifest


class Stop:
    """A user who presses Ctrl-C when the build has come to a stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __call__(self, progress: Progress) -> None:
        if progress.stage == self.stage:
            raise KeyboardInterrupt


def arrive(root: Path, *names: str) -> None:
    for name in names or LATER:
        shutil.move(root / "later" / name, root / "sims" / name)


def files_of(output: Path) -> dict[str, tuple[int, bytes]]:
    """All that readers of a data set see, with the times of the last change."""
    manifest = load(output)
    indices = [shard.index for shard in manifest.shards if shard.index]
    paths = [f.path for f in (*manifest.files, *manifest.shards, *indices)]
    return {
        path: ((output / path).stat().st_mtime_ns, (output / path).read_bytes()) for path in paths
    }


def splits_of(manifest: Manifest) -> dict[str, str]:
    return {u: name for name, split in manifest.splits.items() for u in split.universes}


def same_samples(output: Path, manifest: Manifest, whole: Path) -> int:
    """Cubes of all universes as in another data set of them; how many."""
    other = load(whole)
    for universe in manifest.universes:
        ours = universe_cube(output, manifest, universe.id)
        np.testing.assert_array_equal(ours, universe_cube(whole, other, universe.id))
    return len(manifest.universes)


def rows_are_right(output: Path) -> None:
    """What training reads: every sample's targets are those of the universe it says."""
    catalog = Catalog.open(output)
    by_id = {universe.id: universe for universe in catalog.manifest.universes}
    for name, split in catalog.manifest.splits.items():
        catalog.require(name)
        feed = Feed(catalog, name, 4, shuffle=True, seed=3)
        seen = []
        for batch in feed.batches(0):
            for cube, target, sample in zip(batch.x, batch.y, batch.samples, strict=True):
                universe = split.universes[int(sample) // split.samples_per_universe]
                expected = [
                    scale_target(by_id[universe].parameters[p], *limits)
                    for p, limits in catalog.manifest.targets.items()
                ]
                np.testing.assert_allclose(target, expected, atol=1e-6)
                cells = universe_cube(output, catalog.manifest, universe)
                place = int(sample) % split.samples_per_universe
                ix, iy, iz = place // 4 * 4, place // 2 % 2 * 4, place % 2 * 4
                part = cells[ix : ix + 4, iy : iy + 4, iz : iz + 4]
                np.testing.assert_allclose(cube, np.log1p(part.astype(float)), rtol=1e-5)
                seen.append(int(sample))
        assert sorted(set(seen)) == list(range(split.samples))
