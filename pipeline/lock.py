"""One build at a time on one output: a lock file that names its holder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.write.atomic import explained

LOCK_NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (made if missing) while the block runs.

    Raises
    ------
    OutputError
        If another process holds it, naming host and process; a lock whose
        process on this host is gone is taken over.
    """
    path = folder / LOCK_NAME
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    with explained(path):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _refuse_living(path)
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)


def _refuse_living(path: Path) -> None:
    try:
        holder = json.loads(path.read_text())
        host, pid = str(holder["host"]), int(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        host, pid = "an unknown host", 0
    if host == socket.gethostname() and pid and not _alive(pid):
        return
    raise OutputError(
        f"{path.parent}: another build holds it (process {pid} on {host}); wait for it, or, if "
        f"that process is gone, remove {path}"
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
