"""Chunks of an array, each filled by threads while the one before it is used.

One chunk ahead and no more: memory is two chunks.  What a thread raises, the
caller gets; a caller that stops early leaves no thread behind.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pipeline.threads import cores

MAX_THREADS = 4
"""More do not read faster from one disk, and several workers share a machine."""

Jobs = list[Callable[[], None]]


def n_threads() -> int:
    """Threads that fill one chunk: one a core that this process may use, at most 4."""
    return min(MAX_THREADS, cores())


def read_ahead(
    n_rows: int, rows: int, dtype: np.dtype, jobs: Callable[[np.ndarray, int], Jobs]
) -> Generator[np.ndarray]:
    """Arrays of ``rows`` positions, the last one shorter, until there were ``n_rows``.

    Parameters
    ----------
    n_rows : int
        Positions in all.
    rows : int
        Positions in one chunk.
    dtype : numpy.dtype
        Of the chunks.
    jobs : callable
        ``jobs(out, begin)`` gives functions that together fill ``out``, ``(n, 3)``,
        with the positions from ``begin`` on; they run at the same time.

    Yields
    ------
    numpy.ndarray
        ``(n, 3)``, valid until the next.
    """
    if not n_rows:
        return
    rows = min(rows, n_rows)
    buffers = [np.empty((rows, 3), dtype) for _ in range(1 if rows == n_rows else 2)]
    pool = ThreadPoolExecutor(n_threads(), "read-ahead")

    def start(begin: int) -> tuple[np.ndarray, list[Future[None]]]:
        out = buffers[begin // rows % len(buffers)][: min(rows, n_rows - begin)]
        return out, [pool.submit(job) for job in jobs(out, begin)]

    try:
        following = start(0)
        for begin in range(0, n_rows, rows):
            out, futures = following
            for future in futures:
                future.result()
            if begin + rows < n_rows:
                following = start(begin + rows)
            yield out
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
