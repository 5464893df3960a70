"""Small synthetic ensembles and recipes for tests: random particles, real files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.manifest import load
from tests.snapshots_made import write_gadget_hdf5

BOX_SIZE = 100.0


def write_ensemble(
    root: Path,
    n_universes: int = 10,
    n_particles: int = 512,
    redshifts: Sequence[float] = (0.0, 1.0),
    seed: int = 5,
) -> None:
    """``root/sims/u000/snap_0.hdf5`` ... and ``root/cosmology.csv``."""
    rng = np.random.default_rng(seed)
    rows = ["id,Omega_m,sigma_8,n_s"]
    for number in range(n_universes):
        name = f"u{number:03d}"
        Omega_m, sigma_8, n_s = rng.uniform((0.1, 0.6, 0.8), (0.5, 1.0, 1.2))
        rows.append(f"{name},{Omega_m},{sigma_8},{n_s}")
        for channel, redshift in enumerate(redshifts):
            write_gadget_hdf5(
                root / "sims" / name / f"snap_{channel}.hdf5",
                rng.uniform(0, BOX_SIZE, (n_particles, 3)),
                box_size=BOX_SIZE,
                redshift=redshift,
                Omega_m=Omega_m,
            )
    (root / "cosmology.csv").write_text("\n".join(rows) + "\n")


def recipe_data(**changes: Any) -> dict[str, Any]:
    """A small recipe as plain data; ``changes`` replace keys, ``section__key=value`` inner ones."""
    data: dict[str, Any] = {
        "name": "tiny",
        "input": {"universes": "sims/*/", "parameters": "cosmology.csv"},
        "grid": {"n_grid": 8, "scheme": "ngp", "redshifts": [0.0, 1.0]},
        "split": {
            "subvolumes": 2,
            "fractions": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "seed": 7,
        },
        "targets": {"Omega_m": [0.1, 0.5], "sigma_8": [0.6, 1.0], "n_s": [0.8, 1.2]},
        "output": {"path": "out", "format": "zarr", "samples_per_shard": 16},
    }
    for key, value in changes.items():
        section, _, inner = key.partition("__")
        if inner:
            data.setdefault(section, {})[inner] = value
        else:
            data[section] = value
    return data


def write_recipe(root: Path, name: str = "recipe.yaml", **changes: Any) -> Path:
    """Write :func:`recipe_data` to ``root/name``."""
    path = root / name
    path.write_text(yaml.safe_dump(recipe_data(**changes), sort_keys=False))
    return path


def all_digests(output: Path) -> dict[str, str]:
    """Digest of every file that the manifest of ``output`` lists."""
    manifest = load(output)
    return {f.path: f.digest for f in (*manifest.files, *manifest.shards)}
