"""What people see on a terminal or in a batch log: progress, tables, sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

LOG_SECONDS = 5.0
"""A batch log gets a line at most this often."""

Advance = Callable[[str, int, int, str], None]
"""``advance(stage, done, total, note)``."""


class _Clock(Protocol):
    def __call__(self) -> float: ...


def console() -> Console:
    """Standard output; plain where it is not a terminal."""
    return Console(highlight=False, soft_wrap=True)


def error_console() -> Console:
    """Standard error, for progress: standard output is for results."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def size(n_bytes: float) -> str:
    """E.g. ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A titled table; the first column left, the others right aligned."""
    result = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        result.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        result.add_row(*map(escape, row))  # ids are the user's, and may look like markup
    return result


@contextmanager
def progress(out: Console) -> Iterator[Advance]:
    """A bar a stage on a terminal, a plain line every few seconds elsewhere."""
    if out.is_terminal:
        with _bars(out) as advance:
            yield advance
    else:
        yield _Lines(out)


@contextmanager
def _bars(out: Console) -> Iterator[Advance]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=out) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int, note: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, note=note)

        yield advance


class _Lines:
    """Progress for a log: first, last, and one line every :data:`LOG_SECONDS`."""

    def __init__(self, out: Console, clock: _Clock = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._last: tuple[str, float] = ("", 0.0)

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        now = self._clock()
        due = stage != self._last[0] or now - self._last[1] >= LOG_SECONDS or done == total
        if due:
            self._out.print(f"{stage}: {done}/{total} {note}".rstrip())
            self._last = (stage, now)
