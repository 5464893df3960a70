"""The ledger: what a build has finished, one append-only journal a writer.

A line is written after its shards are on disk, and carries its own digest: a
line that a kill tore is not trusted, and its shards are made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.manifest import Shard, Universe
from pipeline.write.atomic import explained

LEDGER_FOLDER = "ledger"

_writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
_lock = threading.Lock()


class Entry(BaseModel):
    """One finished task: its shards and what went into them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    shards: list[Shard]
    universes: list[Universe]
    seconds: dict[str, float]


def append(output: Path, entry: Entry) -> None:
    """Add a line to this process's journal and sync it."""
    body = entry.model_dump_json()
    line = f"{_digest(body)} {body}\n".encode()
    path = output / LEDGER_FOLDER / f"{_writer}.jsonl"
    with explained(path), _lock, path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read(output: Path) -> dict[str, Entry]:
    """Trusted entries by task, of all journals; torn and damaged lines are left out."""
    entries: dict[str, Entry] = {}
    for path in sorted((output / LEDGER_FOLDER).glob("*.jsonl")):
        for entry in _trusted(path.read_bytes()):
            entries[entry.task] = entry
    return entries


def _trusted(raw: bytes) -> Iterator[Entry]:
    for line in raw.split(b"\n"):
        digest, _, body = line.partition(b" ")
        if not body or digest.decode("ascii", "replace") != _digest(
            body.decode("utf-8", "replace")
        ):
            continue
        try:
            yield Entry.model_validate(json.loads(body))
        except (ValidationError, ValueError):
            # an intact line of another version of this software: made again
            continue


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
