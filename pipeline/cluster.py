"""Where tasks run: a local Dask cluster, or a scheduler that is already there."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

import dask.utils
from distributed import Client, LocalCluster

from pipeline.errors import BuildError, RecipeError
from pipeline.signals import deferred, kept_from_children
from pipeline.threads import cores, environment_for

LOOPBACK = "127.0.0.1"

FILE_SECONDS = float(os.environ.get("COSMOFLOW_SCHEDULER_FILE_SECONDS", "60"))
"""How long a scheduler file is waited for."""

ALLOWED_DEATHS = 1
"""Workers of a local cluster that may die with a task before it is looked at alone."""

WORKERS_SECONDS = 60
"""How long the first worker is waited for."""


_TRACKER_FILTER = "ignore:resource_tracker:UserWarning"


@dataclass(frozen=True)
class ClusterChoice:
    """Where to run.

    Attributes
    ----------
    cluster : str
        ``local``: a cluster of processes on this machine, one thread each,
        reachable from this machine only.  ``tcp://host:port`` or ``tls://...``:
        a running scheduler.  A path of a ``.json`` file: the scheduler file that
        ``dask scheduler`` and ``dask-mpi`` write.
    workers : int or None
        Processes of a local cluster; None: one a core.
    memory_limit : str
        Of each local worker, e.g. ``2GiB``.
    """

    cluster: str = "local"
    workers: int | None = None
    memory_limit: str = "auto"


@contextmanager
def connect_to(choice: ClusterChoice) -> Iterator[Client]:
    """Client of the cluster chosen; closed at the end, with the cluster if it is local.

    Raises
    ------
    RecipeError
        If ``choice.cluster`` is not one of the kinds there are.
    BuildError
        If the scheduler does not answer.
    """
    if choice.cluster == "local":
        _check_memory_limit(choice.memory_limit)
        with _own_workers(choice) as client:
            yield client
        return
    with _existing(choice.cluster) as client:
        yield client


def dashboard_link(client: Client) -> str:
    """Address of the Dask dashboard."""
    return str(client.dashboard_link)


def total_threads(client: Client) -> int:
    """Tasks that the cluster runs at once, at least 1."""
    return max(1, sum(int(n) for n in client.nthreads().values()))


def memory_of_a_task(client: Client) -> int | None:
    """Bytes of memory that a task may take: of the worker with the least; None: no limit."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [w["memory_limit"] // max(1, w["nthreads"]) for w in workers if w["memory_limit"]]
    return min(limits, default=None)


def _check_memory_limit(text: str) -> None:
    try:
        dask.utils.parse_bytes(text if text != "auto" else "0")
    except ValueError as error:
        raise RecipeError(f"--memory-limit {text}: expected auto or a size like 2GiB") from error


@contextmanager
def _own_workers(choice: ClusterChoice) -> Iterator[Client]:
    """A local cluster that stops at once when the user does."""
    with ExitStack() as stack:
        with deferred():  # half a cluster cannot be closed
            with kept_from_children():
                _start_tracker()
            with kept_from_children():  # again: starting the tracker unblocks signals
                local = stack.enter_context(_local(choice.workers, choice.memory_limit))
            client = stack.enter_context(Client(local))
        try:
            yield client
        except KeyboardInterrupt:
            _kill_workers(local)
            raise
        finally:
            with deferred():
                stack.close()


def _start_tracker() -> None:
    """Start Python's tracker of semaphores so that it does not complain of killed workers'."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, _TRACKER_FILTER]))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _kill_workers(local: LocalCluster) -> None:
    """End the workers now: asked to, they would first finish what they do, and complain."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    for nanny in local.workers.values():
        nanny.auto_restart = False
        if nanny.pid:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def _local(workers: int | None, memory_limit: str) -> LocalCluster:
    n_workers = workers or cores()
    with warnings.catch_warnings():
        # a second build on this machine: its dashboard takes another port
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:8787",
            memory_limit=memory_limit,
            scheduler_kwargs={"allowed_failures": ALLOWED_DEATHS},
            env=environment_for(n_workers),
        )


def _existing(cluster: str) -> Client:
    try:
        client = Client(timeout="20s", **_arguments(cluster))
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except (OSError, TimeoutError) as error:
        raise BuildError(
            f"--cluster {cluster}: no scheduler with workers answers: {error}"
        ) from error
    except ValueError as error:
        raise RecipeError(f"--cluster {cluster}: not an address: {error}") from error
    return client


def _arguments(cluster: str) -> dict[str, str]:
    """What tells Dask's client of a scheduler that is there."""
    if cluster.startswith(("tcp://", "tls://")):
        return {"address": cluster}
    if cluster.endswith(".json"):
        _wait_for_file(Path(cluster))
        return {"scheduler_file": cluster}
    raise RecipeError(
        f"--cluster {cluster}: expected local, tcp://host:port, or a scheduler file (.json)"
    )


def _wait_for_file(path: Path) -> None:
    """Wait for a scheduler file to be whole: the scheduler may have been started just now."""
    deadline = time.monotonic() + FILE_SECONDS
    while not _is_scheduler_file(path):
        if time.monotonic() > deadline:
            raise BuildError(
                f"{path}: no scheduler file after {FILE_SECONDS:.0f} s; start the scheduler first"
            )
        time.sleep(0.2)


def _is_scheduler_file(path: Path) -> bool:
    try:
        return "address" in json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return False
