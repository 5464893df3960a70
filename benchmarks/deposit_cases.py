"""The cases of the benchmark of the deposit, and their particles."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from clustered import write_clustered, write_few, write_shuffled

LATTICE, SHUFFLED = "lattice", "shuffled"

FEW = 10_000
FEW_FROM = 64
"""The few particles are some of so many a side, in a box as many times as large."""


@dataclass(frozen=True)
class Case:
    """Particles and a grid; ``side`` 0 is :data:`FEW` particles.

    The box has as many Mpc/h a side as particles (or for few particles, as cells).
    """

    name: str
    side: int
    n_grid: int
    order: str

    @property
    def n_particles(self) -> int:
        """Particles in all."""
        return self.side**3 or FEW

    @property
    def box(self) -> float:
        """Side of the box, Mpc/h."""
        return float(self.side or self.n_grid)


def _cases() -> dict[str, Case]:
    both = LATTICE, SHUFFLED
    sizes = (
        (256, 256, both),
        (256, 512, both),
        (512, 512, (LATTICE,)),
        (128, 128, (LATTICE,)),
        (64, 64, (LATTICE,)),
        (32, 32, (LATTICE,)),
        (0, 256, (SHUFFLED,)),
    )
    return {
        case.name: case
        for side, n_grid, orders in sizes
        for order in orders
        for case in [Case(f"{side or '1e4'}/{n_grid}-{order}", side, n_grid, order)]
    }


CASES = _cases()
QUICK = ("128/128-lattice", "64/64-lattice", "32/32-lattice", "1e4/256-shuffled")


class Particles:
    """Files of positions in a temporary folder, made when they are first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, case: Case, order: str | None = None) -> Path:
        """File of a case's particles, or of the same in another order."""
        if case.side == 0:
            return self._few(case)
        ordered = self.folder / f"{case.side}-{LATTICE}.npy"
        if not ordered.exists():
            start = time.perf_counter()
            write_clustered(ordered, case.side)
            print(f"{case.side}^3 particles made in {time.perf_counter() - start:.0f} s")
        if (order or case.order) == LATTICE:
            return ordered
        shuffled = self.folder / f"{case.side}-{SHUFFLED}.npy"
        if not shuffled.exists():
            write_shuffled(shuffled, ordered)
        return shuffled

    def _few(self, case: Case) -> Path:
        path = self.folder / f"few-{case.n_grid}.npy"
        if not path.exists():
            source = self.path(Case("", FEW_FROM, FEW_FROM, LATTICE))
            write_few(path, source, FEW, case.n_grid / FEW_FROM)
        return path
