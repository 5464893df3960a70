"""Where many independent calls run: threads of this process, or a Dask cluster.

A local cluster takes seconds to start, as long as threads need for some
gigabytes.  What takes long in verifying (reading, digests, decoding) lets
other threads run, so threads serve up to :data:`CLUSTER_BYTES`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from typing import Any

from pipeline.calls import Killed, results
from pipeline.cluster import ClusterChoice, connect_to
from pipeline.errors import BuildError

CLUSTER_BYTES = 4 << 30
"""Bytes from which ``local`` means a cluster of processes; below, threads."""

IN_FLIGHT_PER_THREAD = 2

Call = tuple[Any, ...]
"""A function and its arguments."""

Run = Callable[[Iterable[Call]], AbstractContextManager[Iterator[Any]]]
"""``with run(calls) as results``: results of the calls as they finish, in any order.

A bounded number of calls is taken ahead; leaving the block starts no more.
"""


@contextmanager
def runner(choice: ClusterChoice | None, n_bytes: int) -> Iterator[Run]:
    """Something that runs calls, as the user chose and the work is worth.

    Parameters
    ----------
    choice : ClusterChoice or None
        None: threads.  ``local``: threads, or from :data:`CLUSTER_BYTES` and with more than
        one worker, a local cluster.  A scheduler: that one, whatever the size.
    n_bytes : int
        That will be read.
    """
    choice = choice or ClusterChoice(workers=os.cpu_count())
    if choice.cluster == "local" and (choice.workers == 1 or n_bytes < CLUSTER_BYTES):
        yield partial(_on_threads, choice.workers or os.cpu_count() or 1)
        return
    with connect_to(choice) as client:
        yield partial(_on_cluster, client)


@contextmanager
def _on_cluster(client: Any, calls: Iterable[Call]) -> Iterator[Iterator[Any]]:
    with results(client, calls) as ended:
        yield map(_not_killed, ended)


def _not_killed(result: Any) -> Any:
    if isinstance(result, Killed):
        raise BuildError(
            f"{result.deaths} workers died on {result.call[-1]!s:.200}, out of memory perhaps; "
            "give each more memory (--memory-limit), or take fewer (--workers)"
        )
    return result


@contextmanager
def _on_threads(threads: int, calls: Iterable[Call]) -> Iterator[Iterator[Any]]:
    pool = ThreadPoolExecutor(threads)
    try:
        yield _as_they_finish(pool, iter(calls), IN_FLIGHT_PER_THREAD * threads)
    finally:
        pool.shutdown(cancel_futures=True)


def _as_they_finish(
    pool: ThreadPoolExecutor, calls: Iterator[Call], in_flight: int
) -> Iterator[Any]:
    pending: set[Future[Any]] = {pool.submit(*call) for call in islice(calls, in_flight)}
    while pending:
        ended, pending = wait(pending, return_when=FIRST_COMPLETED)
        pending |= {pool.submit(*call) for call in islice(calls, len(ended))}
        yield from (future.result() for future in ended)
