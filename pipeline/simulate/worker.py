"""Worker processes: each one compiles PM++ once and simulates on one thread.

Universes are always simulated in processes of their own, one thread each.
That is faster than one process with many threads (scatter and gather are
serial), keeps JAX and its settings out of the caller, and makes the bits of
a universe independent of how many processes there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.simulate.design import Universe
from pipeline.simulate.gadget_output import write_snapshot
from pipeline.simulate.nbody import MESH_PER_PARTICLE, simulator_of
from pipeline.simulate.spec import EnsembleSpec

_BASE_BYTES = 700 << 20
_BYTES_PER_CELL = 64
"""Measured peak memory of a worker: libraries and compiler, and each cell of the force mesh."""

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # a GPU would give other bits
    "NPROC": "1",  # size of XLA's thread pool
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


def default_processes(spec: EnsembleSpec) -> int:
    """How many processes suit this machine: one a core, in at most half of its memory.

    Parameters
    ----------
    spec : EnsembleSpec
        The ensemble; its grid sets the memory of a process.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fitting = memory // 2 // process_memory(spec)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, spec.n_universes, fitting))


def process_memory(spec: EnsembleSpec) -> int:
    """Estimated peak memory of one worker process, in bytes."""
    return _BASE_BYTES + _BYTES_PER_CELL * (MESH_PER_PARTICLE * spec.n_particles) ** 3


@contextmanager
def worker_pool(n_processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of simulating processes that never outlive the block or this process.

    Leaving the block by an error or Ctrl-C stops them at once, in the middle
    of a universe; so does the end of this process, even by SIGKILL.
    """
    context = multiprocessing.get_context("spawn")
    leash, hand = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        n_processes, mp_context=context, initializer=_start_worker, initargs=(leash,)
    )
    try:
        yield pool
        pool.shutdown()
    finally:
        hand.close()
        pool.shutdown(cancel_futures=True)
        leash.close()


def simulate_universe(spec: EnsembleSpec, universe: Universe, folder: Path) -> float:
    """Simulate one universe and write those of its snapshots that are not whole.

    Parameters
    ----------
    spec : EnsembleSpec
        The ensemble.
    universe : Universe
        The universe.
    folder : Path
        Its folder.

    Returns
    -------
    float
        Seconds that it took, with compilation if it is the first one of the process.
    """
    started = time.perf_counter()
    for number, state in enumerate(simulator_of(spec).run(universe)):
        write_snapshot(folder, number, state, spec, universe)
    return time.perf_counter() - started


def _start_worker(leash: Connection) -> None:
    """Settings that must stand before JAX is imported, and the watch on the parent."""
    os.environ.update(_ENVIRONMENT)
    # Ctrl-C reaches the whole group; the parent decides what ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()


def _end_with_parent(leash: Connection) -> None:
    """Leave when the parent lets go of the other end, or is gone."""
    with suppress(EOFError, OSError):
        leash.recv_bytes()
    # no clean-up: it would wait for the universe, and an orphan must not go on writing
    os._exit(1)
