"""An ensemble of a few universes with a crowd in each, to be made in parts and by one worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.manifest import load
from tests.ensembles_made import BOX_SIZE, all_digests, write_recipe
from tests.snapshots_made import write_gadget_hdf5

N_GRID = 40


def crowded(seed: int, n: int, box: float = BOX_SIZE) -> np.ndarray:
    """``(n, 3)``: a quarter anywhere, the others so close together that tiles have many each."""
    rng = np.random.default_rng(seed)
    anywhere = rng.uniform(0, box, (n // 4, 3))
    together = np.mod(rng.normal(0.3 * box, 0.06 * box, (n - len(anywhere), 3)), box)
    return rng.permutation(np.concatenate([anywhere, together]))


def write_boxes(root: Path, n_universes: int = 2, n_particles: int = 60_000) -> None:
    """``root/sims/u0/snap_0.hdf5`` (one file) and ``snap_1.N.hdf5`` (three), and their table."""
    rows = ["id,Omega_m"]
    for number in range(n_universes):
        Omega_m = 0.2 + 0.2 * number / n_universes
        rows.append(f"u{number},{Omega_m}")
        for channel in range(2):
            write_gadget_hdf5(
                root / "sims" / f"u{number}" / f"snap_{channel}.hdf5",
                crowded(10 * number + channel, n_particles),
                box_size=BOX_SIZE,
                redshift=float(channel),
                Omega_m=Omega_m,
                n_files=1 + 2 * channel,
                masses="particles" if channel else "table",
            )
    (root / "cosmology.csv").write_text("\n".join(rows) + "\n")


def box_recipe(root: Path, name: str, **changes: Any) -> Path:
    """Recipe ``root/name.yaml`` that makes ``root/name``."""
    settings: dict[str, Any] = {
        "grid__n_grid": N_GRID,
        "split__fractions": {"train": 1.0},
        "targets": {"Omega_m": [0.1, 0.5]},
        "output__path": name,
        "output__samples_per_shard": 4,
    }
    return write_recipe(root, f"{name}.yaml", **{**settings, **changes})


def content(output: Path) -> dict[str, str]:
    """Digests of all files but the recipe, which names its own place; records of universes."""
    files = {path: d for path, d in all_digests(output).items() if path != "recipe.yaml"}
    manifest = load(output)
    files |= {f"quarantined {q.id}": q.reason for q in manifest.quarantined}
    return files | {u.id: u.model_dump_json() for u in manifest.universes}
