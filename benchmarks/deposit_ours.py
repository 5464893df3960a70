"""The one place where the benchmark of the deposit calls this project."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from deposit_float import deposit_float

from pipeline.deposit import assign, get_scheme

OURS = "ours"
FLOAT = "ours, float sums"

ORIGIN = "cell"


def deposit_ours(
    positions: np.ndarray, out: np.ndarray, box: float, scheme: str, threads: int
) -> None:
    """Deposit ``(n, 3)`` float32 positions; what was in ``out`` is replaced.

    ``out`` is ``(n_grid, n_grid, n_grid)``, float32, or int16 for NGP: particles a cell,
    grid points at the middle of their cells.
    """
    assign(
        [positions],
        out,
        box,
        get_scheme(scheme),
        origin=ORIGIN,
        n_particles=len(positions),
        threads=threads,
    )


Deposit = Callable[[np.ndarray, np.ndarray, float, str, int], None]

VARIANTS: dict[str, tuple[Deposit, tuple[str, ...]]] = {
    OURS: (deposit_ours, ("ngp", "cic", "tsc", "pcs")),
    FLOAT: (deposit_float, ("cic", "tsc", "pcs")),
}
"""Ways of ours that are timed, and their schemes; ``FLOAT`` shows what fixed point costs."""

OUTPUTS = {"ngp": ("float32", "int16")}
"""Dtypes of the result by scheme; float32 for the others."""
