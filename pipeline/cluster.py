"""Where tasks run: a local Dask cluster, or a scheduler that is already there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client, LocalCluster

from pipeline.errors import BuildError, RecipeError

LOOPBACK = "127.0.0.1"


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
        with _local(choice.workers, choice.memory_limit) as local, Client(local) as client:
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


def _local(workers: int | None, memory_limit: str) -> LocalCluster:
    with warnings.catch_warnings():
        # a second build on this machine: its dashboard takes another port
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        return LocalCluster(
            n_workers=workers or os.cpu_count(),
            threads_per_worker=1,
            processes=True,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:8787",
            memory_limit=memory_limit,
        )


def _existing(cluster: str) -> Client:
    if cluster.startswith(("tcp://", "tls://")):
        arguments = {"address": cluster}
    elif cluster.endswith(".json"):
        if not Path(cluster).is_file():
            raise BuildError(f"{cluster}: no such scheduler file; start the scheduler first")
        arguments = {"scheduler_file": cluster}
    else:
        raise RecipeError(
            f"--cluster {cluster}: expected local, tcp://host:port, or a scheduler file (.json)"
        )
    try:
        client = Client(timeout="20s", **arguments)
        client.wait_for_workers(1, timeout=60)
    except (OSError, TimeoutError) as error:
        raise BuildError(
            f"--cluster {cluster}: no scheduler with workers answers: {error}"
        ) from error
    return client
