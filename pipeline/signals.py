"""Signals that ask a command to stop: the first lets it tidy up, the second ends it at once.

The first is raised as :class:`Interrupted` in the main thread, so that locks
are given back and temporary files removed on the way out; where half of a
step would be worse than all of it, :func:`deferred` holds it back.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; the batch system's before it kills; the terminal was closed; Slurm's early warning."""

AGAIN_SECONDS = 0.5
"""A signal so soon after the first is the same request: batch systems send some twice."""

_SENT_TO_ALL = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# not SIGTERM: it is how processes are ended
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells have it: 128 and the number of the signal."""
        return 128 + self.number


class _Request:
    """What was asked for, if anything."""

    first: Interrupted | None = None
    time = 0.0
    raised = False
    depth = 0


_request = _Request()


def install() -> None:
    """Handle :data:`SIGNALS` in this process; those that are ignored (nohup) stay ignored."""
    _request.first, _request.raised = None, False
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def received() -> Interrupted | None:
    """The signal that asked to stop, if one did."""
    return _request.first


@contextmanager
def deferred() -> Iterator[None]:
    """Let a signal that comes while the block runs take effect at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread
        return
    _request.depth += 1
    try:
        yield
    finally:
        _request.depth -= 1
        if _request.first is not None:
            _raise_once(_request.first)


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Start threads whose child processes do not get the signals that a terminal sends to all.

    Those signals reach this process, which decides what ends.  They are blocked in
    the threads that the block starts, and from there in their processes, for good.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SENT_TO_ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _request.first is None:
        _request.first, _request.time = Interrupted(number), now
        _raise_once(_request.first)
    elif now - _request.time > AGAIN_SECONDS:
        _end_at_once(Interrupted(number))


def _raise_once(request: Interrupted) -> None:
    if not _request.depth and not _request.raised:
        _request.raised = True
        raise request


def _end_at_once(request: Interrupted) -> None:
    # workers of a local cluster end by themselves when this process is gone
    os.write(2, (_SHOW_CURSOR if sys.stderr.isatty() else b"") + b"\nstopped at once\n")
    os._exit(request.exit_code)
