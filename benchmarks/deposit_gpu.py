"""The CUDA backend beside our CPU path: seconds of a deposit from host memory to host memory.

python benchmarks/deposit_gpu.py --rounds 7 --json deposit_gpu.json
python benchmarks/deposit_gpu.py --cases 64/64-lattice --rounds 2

Needs an NVIDIA GPU and the extra ``cuda``.  Both deposit the same particles into
the same kind of grid, turn by turn, after a first call of each that compiles; the
grids' bytes are compared before anything is timed.  What the CUDA backend takes
includes the copies to and from the device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from deposit_cases import CASES, Case, Particles

from pipeline.deposit import assign, backend_names, get_scheme, scheme_names
from pipeline.deposit.cuda import check_device
from pipeline.errors import MissingDependencyError
from pipeline.threads import cores

DEFAULT_CASES = ("64/64-lattice", "256/256-lattice", "256/512-shuffled", "512/512-lattice")


def deposit(backend: str, positions: np.ndarray, grid: np.ndarray, box: float, scheme: str) -> Any:
    """Deposit once; what was deposited."""
    return assign(
        [positions],
        grid,
        box,
        get_scheme(scheme),
        n_particles=len(positions),
        threads=cores(),
        backend=backend,
    )


def measure(case: Case, positions: np.ndarray, scheme: str, rounds: int) -> dict[str, Any]:
    """Seconds of each backend, round by round; exits if their bits differ."""
    grids = {name: np.zeros((case.n_grid,) * 3, np.float32) for name in backend_names()}
    told = {name: deposit(name, positions, grids[name], case.box, scheme) for name in grids}
    if told["cuda"] != told["cpu"] or grids["cuda"].tobytes() != grids["cpu"].tobytes():
        sys.exit(f"{case.name} {scheme}: the backends' bits differ, please report this")
    seconds: dict[str, list[float]] = {name: [] for name in grids}
    for number in range(rounds):
        for name in list(grids)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            deposit(name, positions, grids[name], case.box, scheme)
            seconds[name].append(time.perf_counter() - start)
    return {"case": case.name, "scheme": scheme, "n": len(positions), "seconds": seconds}


def line(row: dict[str, Any]) -> str:
    """A row of the table: million particles a second, and the median ratio within a round."""
    cpu, gpu = row["seconds"]["cpu"], row["seconds"]["cuda"]
    speed = [row["n"] / statistics.median(times) / 1e6 for times in (cpu, gpu)]
    ratio = statistics.median(c / g for c, g in zip(cpu, gpu, strict=True))
    return f"| {row['case']} | {row['scheme']} | {speed[0]:.1f} | {speed[1]:.1f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=DEFAULT_CASES)
    parser.add_argument("--schemes", nargs="+", choices=scheme_names(), default=scheme_names())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    try:
        check_device()
    except MissingDependencyError as error:
        sys.exit(f"not timed: {error}")
    from numba import cuda  # noqa: PLC0415  (there is a device)

    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    print(f"{name}, {cores()} cores\n")
    print("| case | scheme | CPU, M/s | GPU, M/s | GPU over CPU |\n|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        particles = Particles(Path(folder))
        for case in (CASES[chosen] for chosen in arguments.cases):
            positions = np.load(particles.path(case))
            for scheme in arguments.schemes:
                rows.append(measure(case, positions, scheme, arguments.rounds))
                print(line(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": name, "cores": cores(), "rows": rows}))


if __name__ == "__main__":
    main()
