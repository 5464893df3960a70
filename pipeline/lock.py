"""One build at a time on one output: a lock file that names its holder.

Neither an object store nor a network file system can tell whether a process
of another host lives.  So the holder writes a sign of life beside its lock
every minute, under a name of its own: it can never write over a lock that
another took.  A lock is taken over only from a process of this host that has
ended; any other is explained, with what to remove.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.signals import deferred
from pipeline.write.store import Store, StoreError
from pipeline.write.stores import Place, open_store

LOCK_NAME = ".lock"

BEAT_SECONDS = 60.0
"""Between two signs of life."""

SILENT_SECONDS = 600.0
"""A holder that gave no sign of life for so long is called probably gone."""

_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lock; the token tells two locks of one process apart.

    ``since`` is when it was taken, seconds of the holder's clock (0: not known).
    ``system`` is the run of an operating system, and the container, that ``pid`` is
    a number of; ``started`` tells a process from a later one of its number.
    """

    host: str
    pid: int
    token: str = ""
    since: float = 0.0
    system: str = ""
    started: str = ""

    @classmethod
    def myself(cls) -> Holder:
        """The process that asks, with a token of its own."""
        pid = os.getpid()
        token = secrets.token_hex(8)
        return cls(socket.gethostname(), pid, token, time.time(), _system(), _started(pid))

    @property
    def is_gone(self) -> bool:
        """Whether it is a process of this host that has ended.

        Containers and copies of a machine can have one host name: of a process
        of another system nothing is known.
        """
        if self.host != socket.gethostname() or self.pid <= 0:
            return False
        if self.system not in ("", _system()):
            return False
        return not _alive(self.pid) or self.started not in ("", _started(self.pid))


class Hold:
    """A lock that this process holds; a thread gives its signs of life."""

    def __init__(self, store: Store, holder: Holder) -> None:
        self._store = store
        self._holder = holder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Refuse to go on if the lock is no longer ours.

        Raises
        ------
        OutputError
            If someone removed it, or another build holds it.
        """
        raw = _raw(self._store, LOCK_NAME)
        if _parsed(raw) != self._holder:
            raise OutputError(
                f"{self._store.address(LOCK_NAME)}: the lock of this build was removed while it "
                "ran; let no other build write there, and go on with --resume"
            )

    def before_publishing(self) -> None:
        """:meth:`check`, and remove what killed workers left.

        Once the manifest has made a data set of the place, a kill before the last
        sweep would leave their temporary files there for good.
        """
        self.check()
        self._store.sweep()
        self._give_sign()  # it has the name of a temporary file

    def end_beats(self) -> None:
        """Give no more signs of life; nothing is written after this."""
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._give_sign()

    def _give_sign(self) -> None:
        # one that fails is no fault of the build: its own writes tell what is wrong
        with suppress(OutputError, OSError):
            self._store.write(_beat_name(self._holder), json.dumps(time.time()).encode())


@contextmanager
def locked(place: Place) -> Iterator[Hold]:
    """Hold a place (made if missing) while the block runs.

    Raises
    ------
    OutputError
        If another process holds it, naming host and process; a lock whose
        process on this host is gone is taken over.
    """
    store = open_store(place)
    ours = Holder.myself()
    hold = None
    try:
        with deferred():  # a lock that was taken is given back
            store.make()
            _take(store, LOCK_NAME, ours)
            hold = Hold(store, ours)
        yield hold
    finally:
        if hold is not None:
            with deferred():
                _give_back(store, hold, ours)


def _give_back(store: Store, hold: Hold, ours: Holder) -> None:
    hold.end_beats()
    store.remove(_beat_name(ours))
    if _parsed(_raw(store, LOCK_NAME)) == ours:
        store.remove(LOCK_NAME)


def refuse_held(place: Place) -> None:
    """Refuse a place that a process holds which may be alive.

    Raises
    ------
    OutputError
        Naming host and process.
    """
    store = open_store(place)
    _refuse_living(store, _raw(store, LOCK_NAME))


def holder_of(place: Place) -> tuple[Holder, float | None] | None:
    """Who holds a place, and how many seconds ago it gave a sign of life (None: not known).

    None if nobody holds it, or its lock cannot be read.
    """
    store = open_store(place)
    holder = _parsed(_raw(store, LOCK_NAME))
    return None if holder is None else (holder, _silence(store, holder))


def _refuse_living(store: Store, raw: bytes | None) -> None:
    holder = _parsed(raw)
    if raw is not None and (holder is None or not holder.is_gone):
        raise _held(store, holder)


def _take(store: Store, name: str, ours: Holder) -> None:
    """Make the lock ``name``, or take it over from a process of this host that is gone.

    Two may find the same stale lock.  Only who holds the lock on *that
    content* of it may remove it, so that nobody removes one that was taken
    since; that lock is taken in the same way, as its holder may have died too.
    """
    content = json.dumps(asdict(ours)).encode()
    if store.create(name, content):
        return
    stale = _raw(store, name)
    _refuse_living(store, stale)
    if stale is None:  # given back in between
        if store.create(name, content):
            return
        raise _held(store, _parsed(_raw(store, name)))
    claim = _claim_name(name, stale)
    _take(store, claim, ours)
    try:
        if _raw(store, name) == stale:
            store.remove(name)
        taken = store.create(name, content)
    finally:
        store.remove(claim)
    if not taken:
        raise _held(store, _parsed(_raw(store, name)))


def _claim_name(name: str, content: bytes) -> str:
    return f"{LOCK_NAME}.{hashlib.sha256(name.encode() + content).hexdigest()[:16]}.tmp"


def _beat_name(holder: Holder) -> str:
    # a name of a temporary file: it is swept if the holder is killed
    return f"{LOCK_NAME}.{holder.token}.tmp"


def _raw(store: Store, name: str) -> bytes | None:
    """Content of a lock; None if there is none."""
    try:
        return store.read(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except StoreError:
        raise
    except OSError as error:
        raise OutputError(
            f"{store.address(name)}: cannot be read: {error.strerror}; choose another output or "
            "mend its rights"
        ) from error


def _parsed(raw: bytes | None) -> Holder | None:
    """Holder that a lock names; None if there is none, or it cannot be understood."""
    try:
        content = json.loads(raw or b"")
        return Holder(
            str(content["host"]),
            int(content["pid"]),
            str(content.get("token", "")),
            float(content.get("since", 0.0)),
            str(content.get("system", "")),
            str(content.get("started", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _silence(store: Store, holder: Holder) -> float | None:
    """Seconds since the holder's last sign of life, by the clocks of both; None: not known."""
    last = holder.since
    with suppress(OSError, ValueError, TypeError):
        last = max(last, float(json.loads(store.read(_beat_name(holder)))))
    return max(0.0, time.time() - last) if last else None


def _held(store: Store, holder: Holder | None) -> OutputError:
    lock = store.address(LOCK_NAME)
    if holder is None:
        return OutputError(
            f"{store}: another build holds it (an unknown process); wait for it, or, if that "
            f"process is gone, remove {lock}{_by(lock)}"
        )
    who = f"process {holder.pid} on {holder.host}"
    silence = _silence(store, holder)
    age = f"held for {_span(time.time() - holder.since)}" if holder.since else "since when unknown"
    if silence is not None and silence > SILENT_SECONDS:
        return OutputError(
            f"{store}: another build holds it ({who}, but no sign of life for "
            f"{silence / 60:.0f} minutes, expected one a minute; {age}): it is probably gone. If "
            f"that process has ended, remove {lock}{_by(lock)}"
        )
    sign = "" if silence is None else f", last sign of life {_span(silence)} ago"
    return OutputError(
        f"{store}: another build holds it ({who}; {age}{sign}); wait for it, or, if that process "
        f"is gone, remove {lock}{_by(lock)}"
    )


def _by(lock: Path | str) -> str:
    """The command that removes a lock."""
    quoted = shlex.quote(str(lock))
    if isinstance(lock, Path):
        return f": rm {quoted}"
    command = {"s3": "aws s3 rm", "gs": "gcloud storage rm"}.get(lock.split("://", 1)[0])
    return f": {command} {quoted}" if command else ""


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _system() -> str:
    """The run of the operating system, and the container; nothing where it does not tell."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """When a process was started, in ticks since the system was (``proc_pid_stat(5)``)."""
    with suppress(OSError, IndexError):
        # the second field, the name, may hold anything but ends with the last parenthesis
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
