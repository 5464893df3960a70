"""The ledger: what a build has finished and given up, one append-only journal a writer.

A line is written after its shards are on disk, and carries its own digest: a
line that a kill tore is not trusted, and its shards are made again.  Lines are
never taken back but by another line, which names their digests; so the order
of journals does not matter.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.manifest import Shard, Universe, inside, part_folder
from pipeline.write.store import Store
from pipeline.write.stores import Place, open_store

LEDGER_FOLDER = "ledger"

_lock = threading.Lock()


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Line):
    """One finished task: its shards and what went into them.

    ``seconds`` of work by stage; ``finished`` by the writer's clock, seconds since 1970.
    """

    kind: Literal["task"] = "task"
    task: str
    shards: list[Shard]
    universes: list[Universe]
    seconds: dict[str, float]
    finished: float = 0.0


class QuarantineLine(_Line):
    """A universe that could not be used; ``parameters`` as the input's table has them."""

    kind: Literal["quarantine"] = "quarantine"
    id: str
    reason: str
    parameters: dict[str, float] | None = None


class Revocation(_Line):
    """Lines, by their digests, that count no longer."""

    kind: Literal["revoked"] = "revoked"
    lines: list[str]


AnyLine = Entry | QuarantineLine | Revocation
_PARSER: TypeAdapter[AnyLine] = TypeAdapter(Annotated[AnyLine, Field(discriminator="kind")])


@dataclass
class History:
    """The lines that count, by digest, in no order.

    Attributes
    ----------
    entries : dict
        Of finished tasks; after a kill there can be several of one task.
    quarantined : dict
        Universes given up.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    quarantined: dict[str, QuarantineLine] = field(default_factory=dict)


def folder(part: int = 0) -> str:
    """Folder of the ledger of a part of the data set."""
    return inside(LEDGER_FOLDER, part_folder(part)) if part else LEDGER_FOLDER


def append(output: Store, line: AnyLine, part: int = 0) -> None:
    """Add a line to this process's journal and sync it.

    A journal whose line failed (a full disk) may end in half of it: the next line begins another.
    """
    body = line.model_dump_json()
    raw = f"{_digest(body)} {body}\n".encode()
    with _lock:
        try:
            output.append(f"{folder(part)}/{_writer(os.getpid())}.jsonl", raw)
        except BaseException:
            _writer.cache_clear()
            raise


def revoke(output: Store, digests: Iterable[str], part: int = 0) -> None:
    """Let lines count no longer; nothing is written for none."""
    lines = sorted(digests)
    if lines:
        append(output, Revocation(lines=lines), part)


def journals(output: Store, part: int = 0) -> list[str]:
    """Paths of all files of the journals of a part."""
    here = folder(part)
    found = [path for path in output.paths(here) if path.endswith(".jsonl")]
    # the first part's folder has those of the others in it
    other = re.compile(rf"{here}/part-\d{{4,}}/")
    return [path for path in found if not other.match(path)]


def read_history(output: Place, part: int = 0) -> History:
    """All lines of all journals that count; torn and damaged ones are left out."""
    store = open_store(output)
    history, revoked = History(), set[str]()
    for raw in store.read_all(journals(store, part)):
        for digest, line in _trusted(raw):
            if isinstance(line, Entry):
                history.entries[digest] = line
            elif isinstance(line, QuarantineLine):
                history.quarantined[digest] = line
            else:
                revoked.update(line.lines)
    for digest in revoked:
        history.entries.pop(digest, None)
        history.quarantined.pop(digest, None)
    return history


def read(output: Place, part: int = 0) -> dict[str, Entry]:
    """Trusted entries by task, of all journals; torn and damaged lines are left out."""
    return {entry.task: entry for entry in read_history(output, part).entries.values()}


def _trusted(raw: bytes) -> Iterator[tuple[str, AnyLine]]:
    for line in raw.split(b"\n"):
        digest, _, body = line.partition(b" ")
        if not body or digest.decode("ascii", "replace") != _digest(
            body.decode("utf-8", "replace")
        ):
            continue
        try:
            # lines of before kinds were written are all of finished tasks
            yield digest.decode(), _PARSER.validate_python({"kind": "task"} | json.loads(body))
        except (ValidationError, ValueError, TypeError):
            # an intact line of another version of this software: made again
            continue


@lru_cache
def _writer(pid: int) -> str:
    """Name of this process's journals; one that was forked has its own."""
    return f"{socket.gethostname()}-{pid}-{secrets.token_hex(3)}"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
