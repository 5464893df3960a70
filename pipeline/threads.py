"""Threads of one task: tasks times threads are the cores of a machine.

Who starts workers tells them in the environment; a worker that was not told
uses one thread a task, as Dask gives each of its threads a task.
"""

from __future__ import annotations

import os

VARIABLE = "COSMOFLOW_THREADS"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of_task() -> int:
    """Threads that a task of this process may start."""
    told = os.environ.get(VARIABLE, "")
    return max(1, int(told)) if told.isdigit() else 1


def environment_for(workers: int) -> dict[str, str]:
    """What tells each of so many workers, with one task each, its share of the cores."""
    return {VARIABLE: str(max(1, cores() // workers))}
