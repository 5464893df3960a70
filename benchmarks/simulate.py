"""How many universes a minute, in how much memory, on this machine.

python benchmarks/simulate.py --universes 12 --processes 1 2
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from pipeline.simulate import EnsembleSpec, simulate_ensemble


@dataclass
class Measurement:
    """One ensemble, made from nothing."""

    processes: int
    first_seconds: float
    warm_seconds: float
    per_minute: float
    total_seconds: float
    peak_gb: float
    megabytes_per_universe: float


class PeakMemory:
    """Peak resident memory of this process and its children, sampled, in bytes."""

    def __init__(self, interval: float = 0.1) -> None:
        self.peak = 0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(self._interval):
            total = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


def measure(spec: EnsembleSpec, processes: int) -> Measurement:
    """Make the ensemble in a temporary folder; the rate leaves out the compiling universes."""
    calls: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as memory:
        start = time.perf_counter()
        simulate_ensemble(
            spec,
            Path(folder) / "sims",
            lambda done, total, name, seconds: calls.append((time.perf_counter(), seconds)),
            processes,
        )
        total_seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.hdf5"))
    compiled_at = calls[processes - 1][0]
    warm = [seconds for _, seconds in calls[processes:]]
    return Measurement(
        processes,
        first_seconds=calls[0][1],
        warm_seconds=sum(warm) / len(warm),
        per_minute=60 * len(warm) / (calls[-1][0] - compiled_at),
        total_seconds=total_seconds,
        peak_gb=memory.peak / 1e9,
        megabytes_per_universe=size / 1e6 / spec.n_universes,
    )


def print_table(spec: EnsembleSpec, rows: list[Measurement]) -> None:
    table = Table(
        title=f"{spec.n_universes} universes of {spec.n_particles}^3 particles, "
        f"{spec.box_size:g} Mpc/h, {len(spec.redshifts)} redshifts, {spec.time_steps} steps"
    )
    names = ("processes", "first (compiles)", "warm", "universes/min", "total")
    for name in (*names, "peak memory", "disk a universe"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row.processes),
            f"{row.first_seconds:.1f} s",
            f"{row.warm_seconds:.2f} s",
            f"{row.per_minute:.1f}",
            f"{row.total_seconds:.1f} s",
            f"{row.peak_gb:.2f} GB",
            f"{row.megabytes_per_universe:.1f} MB",
        )
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--universes", type=int, default=12)
    parser.add_argument("--particles", type=int, default=64, help="particles a side")
    parser.add_argument("--box-size", type=float, default=128.0, help="Mpc/h")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    if arguments.universes < 2 * max(arguments.processes):
        parser.error("--universes must be at least twice the number of processes")
    spec = EnsembleSpec(
        arguments.universes, n_particles=arguments.particles, box_size=arguments.box_size
    )
    print_table(spec, [measure(spec, processes) for processes in arguments.processes])


if __name__ == "__main__":
    main()
