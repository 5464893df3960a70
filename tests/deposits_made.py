"""Whole snapshots on a grid of whole units, for tests that count what arrives."""

from __future__ import annotations

import numpy as np

from pipeline.deposit import Scheme
from pipeline.field import fill_counts
from pipeline.snapshot import Snapshot


def deposit_snapshot(snapshot: Snapshot, n_grid: int, scheme: Scheme, origin: str) -> np.ndarray:
    """``(n_grid, n_grid, n_grid)`` int64 in the scheme's unit."""
    grid = np.empty((n_grid,) * 3, np.int64)
    fill_counts(snapshot, grid, scheme, origin)
    return grid
