"""Large buffers that are used again: the first touch of fresh memory costs more than a deposit."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

KEPT = 4
"""Most free buffers that a process keeps: payload and amounts of two deposits at once."""

_lock = threading.Lock()
_free: list[np.ndarray] = []

if hasattr(os, "register_at_fork"):
    # a child forked while another thread holds the lock would wait for it for ever
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


@contextmanager
def borrowed(n_bytes: int) -> Iterator[np.ndarray]:
    """A buffer of at least so many bytes, ``(n,)`` uint8 of any content, given back at the end.

    One that is up to four times too large is taken too; a buffer that has to
    be made replaces the smallest that is kept.
    """
    buffer = _take(n_bytes)
    try:
        yield buffer[:n_bytes]
    finally:
        with _lock:
            _free.append(buffer)
            _free.sort(key=len)
            del _free[:-KEPT]


def release() -> None:
    """Give all free buffers back to the system."""
    with _lock:
        _free.clear()


def _take(n_bytes: int) -> np.ndarray:
    with _lock:
        for number, buffer in enumerate(_free):
            if n_bytes <= len(buffer) <= 4 * n_bytes:
                return _free.pop(number)
        if _free:
            _free.pop(0)
    return np.empty(n_bytes, np.uint8)
