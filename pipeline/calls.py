"""Calls on a cluster: few at a time on the scheduler, results as they come, none left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distributed import Client, as_completed, wait
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from pipeline.cluster import total_threads
from pipeline.errors import BuildError

IN_FLIGHT_PER_THREAD = 3
"""Calls on the scheduler for each thread of the workers."""

DRAIN_SECONDS = float(os.environ.get("COSMOFLOW_DRAIN_SECONDS", "20"))
"""How long a build that was asked to stop waits for calls that run on a cluster of others.

Slurm kills 30 s after its SIGTERM (``KillWait``), and the lock has to be given back before.
"""

Waiting = Callable[[int, int], None]
"""``waiting(done, total)``: calls that are waited for before the end."""


@dataclass(frozen=True)
class Killed:
    """Result of a call that was not done, because workers died that had it.

    One that ran beside it may be to blame; :func:`alone` tells.

    Attributes
    ----------
    call : tuple
        The function and its arguments.
    deaths : int
        Workers that died.
    """

    call: tuple[Any, ...]
    deaths: int


@contextmanager
def results(
    client: Client,
    calls: Iterable[tuple[Any, ...]],
    waiting: Waiting = lambda done, total: None,
) -> Iterator[Iterator[Any]]:
    """Results of calls ``(function, *arguments)`` in the order in which they finish.

    Of a call whose workers died, too often to try again, it is :class:`Killed`.
    When the block is left early, no further call starts.  After an error those that run
    are waited for, so that nothing is written once the build has ended.  When the
    user stops, that is for :data:`DRAIN_SECONDS` only, and not at all on a local
    cluster, whose workers end with it: what is lost there is made again.
    """
    futures: set[Any] = set()
    try:
        yield _as_they_finish(client, iter(calls), futures)
    except KeyboardInterrupt:
        _drain(client, _start_no_more(client, futures), waiting)
        raise
    except BaseException:
        running = _start_no_more(client, futures)
        with suppress(OSError, CancelledError):
            wait(running)
        raise


def _as_they_finish(
    client: Client, calls: Iterator[tuple[Any, ...]], futures: set[Any]
) -> Iterator[Any]:
    """Results; ``futures`` are those that are on the scheduler."""
    made: dict[str, tuple[Any, ...]] = {}
    for call in islice(calls, IN_FLIGHT_PER_THREAD * total_threads(client)):
        futures.add(_submit(client, call, made))
    pending = as_completed(futures)
    for future in pending:
        futures.discard(future)
        result = _result(future, made.pop(future.key))
        for call in islice(calls, 1):
            following = _submit(client, call, made)
            futures.add(following)
            pending.add(following)
        yield result


def alone(client: Client, call: tuple[Any, ...]) -> Any:
    """Result of one call with no other on the cluster: if workers die, it is to blame."""
    with results(client, [call]) as ended:
        return next(ended)


def _submit(client: Client, call: tuple[Any, ...], made: dict[str, tuple[Any, ...]]) -> Any:
    future = client.submit(*call, pure=False)
    made[future.key] = call
    return future


def _result(future: Any, call: tuple[Any, ...]) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        return Killed(call, error.allowed_failures + 1)
    except (CancelledError, CommClosedError) as error:
        raise BuildError(
            f"the scheduler went away ({error}); start it again and go on with --resume"
        ) from error


def _start_no_more(client: Client, futures: set[Any]) -> list[Any]:
    """Take back what does not run yet; returns the futures of what does."""
    with suppress(OSError, CancelledError):  # a scheduler that is gone runs nothing
        running = {key for keys in client.processing().values() for key in keys}
        client.cancel([future for future in futures if future.key not in running])
        return [future for future in futures if future.key in running]
    return []


def _drain(client: Client, running: list[Any], waiting: Waiting) -> None:
    if client.cluster is not None or not running:
        return
    waiting(0, len(running))
    with suppress(OSError, CancelledError, TimeoutError):
        wait(running, timeout=DRAIN_SECONDS)
    waiting(sum(future.done() for future in running), len(running))
