"""Other libraries' mass assignment behind one shape, for ``deposit.py``.

An adapter gets a :class:`Job` and gives a call without arguments that deposits
all particles once and returns the grid.  What a user would do only once (tables,
arrays moved to the library's own kind) is done before that call, and positions
are inside the box, so that nothing has to be wrapped.  Where the library adds to
a grid, the grid is made once and cleared in each call, with as many threads.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
import types
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

SCHEMES = ("ngp", "cic", "tsc", "pcs")

Call = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Job:
    """One deposit.

    Attributes
    ----------
    positions : numpy.ndarray
        ``(n, 3)`` float32 in ``[0, box)``; not to be changed.
    grid : numpy.ndarray
        ``(n_grid, n_grid, n_grid)``, reused by every call.
    box : float
        Side of the box, in the unit of the positions.
    scheme : str
    threads : int
    """

    positions: np.ndarray
    grid: np.ndarray
    box: float
    scheme: str
    threads: int


def _no_choice(_: Job) -> list[Mapping[str, Any]]:
    return [{}]


@dataclass(frozen=True)
class Peer:
    """One library.

    Attributes
    ----------
    name : str
        Word in the tables.
    modules : tuple of str
        What must be importable.
    make : callable
        ``make(job, **options)`` gives the call that is timed.
    schemes : tuple of str
    origin : {'node', 'cell'}
        Where the library puts grid points: at ``i h`` or at ``(i + 1/2) h``.
    threaded : bool
        Whether it can use more than one thread.
    choices : callable
        Options to try for a job; the fastest is taken.
    most_particles : int
        More would need too much memory.
    pinned : bool
        Hold the process to as many cores as threads: the library has no setting.
    packages : tuple of str
        Distributions whose versions are stated.
    """

    name: str
    modules: tuple[str, ...]
    make: Callable[..., Call]
    schemes: tuple[str, ...] = SCHEMES
    origin: str = "node"
    threaded: bool = False
    choices: Callable[[Job], list[Mapping[str, Any]]] = field(default=_no_choice)
    most_particles: int = 1 << 40
    pinned: bool = False
    packages: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]


def _clear(pool: ThreadPoolExecutor | None, grid: np.ndarray, threads: int) -> None:
    """Zero a grid; NumPy lets go of the interpreter's lock in ``fill``."""
    if pool is None:
        grid.fill(0)
        return
    list(pool.map(lambda part: part.fill(0), np.array_split(grid, threads)))


def _in_place(job: Job, add: Callable[[], object]) -> Call:
    """Clear the job's grid, then add to it."""
    pool = (
        ThreadPoolExecutor(job.threads) if job.threads > 1 and job.grid.nbytes > 1 << 22 else None
    )

    def call() -> np.ndarray:
        _clear(pool, job.grid, job.threads)
        add()
        return job.grid

    return call


def mass_assignment(job: Job) -> Call:
    """``dens`` makes its own grid; it has no way to reuse one."""
    library = importlib.import_module("mass_assignment")
    n_grid = job.grid.shape[0]

    def call() -> np.ndarray:
        result: np.ndarray = library.dens(
            job.positions,
            n_grid,
            job.box,
            job.scheme.upper(),
            nthreads=job.threads,
            dtype=np.float32,
        )
        return result

    return call


def pylians_serial(job: Job) -> Call:
    library = importlib.import_module("MAS_library")
    add = partial(library.MA, job.positions, job.grid, np.float32(job.box), job.scheme.upper())
    return _in_place(job, add)


def pylians_threads(job: Job) -> Call:
    library = importlib.import_module("MAS_library")
    function = getattr(library, f"{job.scheme.upper()}c3D")
    return _in_place(job, lambda: function(job.positions, job.grid, job.box, job.threads))


def abacus(job: Job, npartition: int) -> Call:
    tsc_parallel = importlib.import_module("abacusnbody.analysis.tsc").tsc_parallel
    add = partial(
        tsc_parallel,
        job.positions,
        job.grid,
        job.box,
        nthread=job.threads,
        wrap=False,
        npartition=npartition,
    )
    return _in_place(job, add)


def abacus_choices(job: Job) -> list[Mapping[str, Any]]:
    """Numbers of stripes that the library allows on this grid."""
    n_grid = job.grid.shape[0]
    tried = (32, 64, 128, 256)
    allowed = [n for n in tried if n <= n_grid // 3 or n == n_grid // 2]
    small = n_grid // 3 // 2 * 2
    return [{"npartition": n} for n in allowed or [small]]


def pmesh(job: Job) -> Call:
    """Its window module alone: the package's own start imports an MPI FFT that it does not use."""
    if "pmesh" not in sys.modules:
        spec = importlib.util.find_spec("pmesh")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("pmesh is not installed")
        package = types.ModuleType("pmesh")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["pmesh"] = package
    library = importlib.import_module("pmesh.window")
    n_grid = job.grid.shape[0]
    window = library.windows["nnb" if job.scheme == "ngp" else job.scheme]
    placing = library.Affine(3, scale=n_grid / job.box, period=n_grid)
    return _in_place(job, lambda: window.paint(job.grid, job.positions, transform=placing))


def jax_scatter(job: Job) -> Call:
    """CIC as a scatter-add of eight corners, as jaxpm paints."""
    jax = importlib.import_module("jax")
    jnp = jax.numpy
    n_grid = job.grid.shape[0]
    positions = jnp.asarray(job.positions)

    def paint(positions: Any) -> Any:
        t = positions * (n_grid / job.box)
        low = jnp.floor(t)
        up = t - low
        grid = jnp.zeros((n_grid,) * 3, jnp.float32)
        for corner in np.ndindex(2, 2, 2):
            shift = np.array(corner)
            weight = jnp.where(shift == 1, up, 1 - up).prod(-1)
            i, j, k = ((low.astype(jnp.int32) + shift) % n_grid).T
            grid = grid.at[i, j, k].add(weight)
        return grid

    compiled = jax.jit(paint)
    return lambda: np.asarray(compiled(positions).block_until_ready())


def boost_histogram(job: Job) -> Call:
    library = importlib.import_module("boost_histogram")
    n_grid = job.grid.shape[0]
    axis = partial(library.axis.Regular, n_grid, 0, job.box, underflow=False, overflow=False)
    histogram = library.Histogram(axis(), axis(), axis())
    columns = list(job.positions.T)

    def call() -> np.ndarray:
        histogram.reset()
        histogram.fill(*columns, threads=job.threads)
        result: np.ndarray = histogram.view()
        return result

    return call


def numpy_bincount(job: Job) -> Call:
    n_grid = job.grid.shape[0]

    def call() -> np.ndarray:
        # at a cell's edge the rounded product may be n_grid
        cells = np.minimum((job.positions * np.float32(n_grid / job.box)).astype("i4"), n_grid - 1)
        flat = (cells[:, 0] * n_grid + cells[:, 1]) * n_grid + cells[:, 2]
        return np.bincount(flat, minlength=n_grid**3).reshape((n_grid,) * 3)

    return call


def numpy_histogramdd(job: Job) -> Call:
    n_grid = job.grid.shape[0]
    ranges = [(0, job.box)] * 3
    return lambda: np.histogramdd(job.positions, bins=n_grid, range=ranges)[0]


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "mass-assignment",
            ("mass_assignment",),
            mass_assignment,
            threaded=True,
            packages=("mass-assignment",),
        ),
        Peer("Pylians", ("MAS_library",), pylians_serial, packages=("Pylians",)),
        Peer("Pylians c3D", ("MAS_library",), pylians_threads, threaded=True),
        Peer(
            "abacusutils",
            ("abacusnbody",),
            abacus,
            ("tsc",),
            threaded=True,
            choices=abacus_choices,
            packages=("abacusutils",),
        ),
        Peer("pmesh", ("pmesh",), pmesh, packages=("pmesh",)),
        Peer(
            "jax scatter-add",
            ("jax",),
            jax_scatter,
            ("cic",),
            threaded=True,
            most_particles=1 << 25,
            pinned=True,
            packages=("jax",),
        ),
        Peer(
            "boost-histogram",
            ("boost_histogram",),
            boost_histogram,
            ("ngp",),
            origin="cell",
            threaded=True,
            packages=("boost-histogram",),
        ),
        Peer("numpy bincount", ("numpy",), numpy_bincount, ("ngp",), "cell", packages=("numpy",)),
        Peer("numpy histogramdd", ("numpy",), numpy_histogramdd, ("ngp",), "cell"),
    )
}


def fastest(peer: Peer, job: Job) -> tuple[Call, Mapping[str, Any]]:
    """The peer's call with the best of its choices for this job, each tried twice."""
    choices = peer.choices(job)
    if len(choices) == 1:
        return peer.make(job, **choices[0]), choices[0]
    seconds = []
    for options in choices:
        call = peer.make(job, **options)
        call()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    best = choices[int(np.argmin(seconds))]
    return peer.make(job, **best), best


def pin(threads: int) -> None:
    """Hold this process to as many cores."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
