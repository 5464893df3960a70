"""One build at a time on one output: a lock file that names its holder."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.write.atomic import explained

LOCK_NAME = ".lock"


@dataclass(frozen=True)
class Holder:
    """Who holds a lock; the token tells two locks of one process apart."""

    host: str
    pid: int
    token: str = ""

    @property
    def is_gone(self) -> bool:
        """Whether it is a process of this host that has ended."""
        return self.host == socket.gethostname() and self.pid > 0 and not _alive(self.pid)


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
    ours = Holder(socket.gethostname(), os.getpid(), secrets.token_hex(8))
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _take(path, ours)
    try:
        yield
    finally:
        if _read(path) == ours:
            path.unlink(missing_ok=True)


def refuse_held(folder: Path) -> None:
    """Refuse a folder that a process holds which may be alive.

    Raises
    ------
    OutputError
        Naming host and process.
    """
    path = folder / LOCK_NAME
    holder = _read(path)
    if path.exists() and (holder is None or not holder.is_gone):
        raise _held(path, holder)


def _take(path: Path, ours: Holder) -> None:
    with explained(path):
        try:
            _create(path, ours)
        except FileExistsError:
            _remove_stale(path)
            try:
                _create(path, ours)
            except FileExistsError:
                raise _held(path, _read(path)) from None


def _create(path: Path, ours: Holder) -> None:
    """Make the lock with its content at once: a link either takes the name or fails."""
    draft = path.with_name(f"{path.name}.{ours.token}.tmp")
    draft.write_text(json.dumps(asdict(ours)))
    try:
        os.link(draft, path)
    finally:
        draft.unlink()


def _remove_stale(path: Path) -> None:
    """Move away the lock of a process that is gone, and no other's.

    Two that find the same stale lock both move what is there; the one that
    moved a living lock puts it back.
    """
    refuse_held(path.parent)
    moved = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    with suppress(FileNotFoundError):
        os.rename(path, moved)
        holder = _read(moved)
        if holder is None or not holder.is_gone:
            with suppress(FileExistsError):
                os.link(moved, path)
        moved.unlink()


def _read(path: Path) -> Holder | None:
    """Holder that a lock names; None if there is none, or it cannot be read."""
    try:
        content = json.loads(path.read_text())
        return Holder(str(content["host"]), int(content["pid"]), str(content.get("token", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _held(path: Path, holder: Holder | None) -> OutputError:
    who = f"process {holder.pid} on {holder.host}" if holder else "an unknown process"
    return OutputError(
        f"{path.parent}: another build holds it ({who}); wait for it, or, if that process is "
        f"gone, remove {path}"
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
