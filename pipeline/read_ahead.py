"""Reading the next chunk of a stream while this one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

CHUNKS_AHEAD = 1
"""Chunks that wait to be used; one more is used, and one is being read."""

_END = object()


@contextmanager
def ahead(chunks: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Chunks of arrays (or tuples of arrays), read by a thread of their own.

    They are copies, as a source may overwrite its chunk: memory is
    ``CHUNKS_AHEAD + 3`` chunks.  What the source raises is raised to the one
    who reads; at the end of the block no thread is left.
    """
    waiting: queue.Queue[Any] = queue.Queue(CHUNKS_AHEAD)
    stop = threading.Event()
    thread = threading.Thread(target=_read, args=(chunks, waiting, stop), daemon=True)
    thread.start()
    try:
        yield _taken(waiting)
    finally:
        stop.set()
        _empty(waiting)
        thread.join()


def _read(chunks: Iterable[Any], waiting: queue.Queue[Any], stop: threading.Event) -> None:
    last: Any = _END
    try:
        for chunk in chunks:
            if stop.is_set():
                return
            waiting.put(_owned(chunk))
    except BaseException as error:  # noqa: BLE001  it is raised again where it is waited for
        last = error
    if not stop.is_set():
        waiting.put(last)


def _owned(chunk: Any) -> Any:
    if isinstance(chunk, tuple):
        return tuple(_owned(array) for array in chunk)
    return np.array(chunk, order="C")


def _taken(waiting: queue.Queue[Any]) -> Iterator[Any]:
    while True:
        chunk = waiting.get()
        if chunk is _END:
            return
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


def _empty(waiting: queue.Queue[Any]) -> None:
    """Let a thread that waits for a place go on, and see that it is to stop."""
    try:
        while True:
            waiting.get_nowait()
    except queue.Empty:
        return
