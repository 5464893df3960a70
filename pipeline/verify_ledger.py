"""What a build left of itself, against the manifest: its journals and what it began with.

No reader needs a ledger, and a copy of a data set may lack it; but resuming,
extending and repairing trust it, so one that is there has to be right.
``ledger/plan.json`` is not looked at: it only tells how far a build is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from pipeline import ledger
from pipeline.faults import Fault
from pipeline.manifest import Manifest, Part
from pipeline.write.store import Store


def ledger_faults(store: Store, manifest: Manifest) -> Iterator[Fault]:
    """Faults of the ledgers of all parts."""
    for number, part in enumerate(manifest.all_parts()):
        folder = ledger.folder(number)
        there = set(store.paths(folder))
        if not there:
            continue
        journals = ledger.journals(store, number)
        for path, raw in zip(journals, store.read_all(journals), strict=True):
            yield from _line_faults(path, raw)
        yield from _uncovered(store, manifest, number)
        yield from _beginning(store, manifest, folder, part, there)


def _line_faults(path: str, raw: bytes) -> Iterator[Fault]:
    """Lines that are not as they were written; a last one that a kill tore is none."""
    *lines, torn = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        digest, _, body = line.partition(b" ")
        if digest != hashlib.sha256(body).hexdigest().encode():
            yield _fault(path, f"line {number} was changed")
    if torn and not lines and not _may_be_torn(torn):
        yield _fault(path, "is no journal")


def _may_be_torn(line: bytes) -> bool:
    """Whether it is the beginning of a line: a digest, perhaps not all of it."""
    return all(byte in b"0123456789abcdef" for byte in line[:64])


def _uncovered(store: Store, manifest: Manifest, number: int) -> Iterator[Fault]:
    """Shards that no line tells of as they are."""
    entries = ledger.read_history(store, number).entries.values()
    told = {shard.path: shard for entry in entries for shard in entry.shards}
    described = {universe.id: universe for e in entries for universe in e.universes}
    part = manifest.all_parts()[number]
    members: set[str] = set()
    for shard in manifest.shards:
        if manifest.part_of(shard) != part:
            continue
        n = manifest.splits[shard.split].samples_per_universe
        owners = range(shard.first_sample // n, (shard.first_sample + shard.samples - 1) // n + 1)
        members.update(manifest.splits[shard.split].universes[o] for o in owners)
        if told.get(shard.path) != shard:
            message = f"{ledger.folder(number)}: no whole line tells of {shard.path} as it is"
            yield Fault("ledger", message, ledger.folder(number), shard.split)
    for universe in manifest.universes:
        if universe.id in members and described.get(universe.id) != universe:
            yield _fault(ledger.folder(number), f"universe {universe.id} is not as in the manifest")


def _beginning(
    store: Store, manifest: Manifest, folder: str, part: Part, there: set[str]
) -> Iterator[Fault]:
    """The files that a build begins with, where they are kept."""
    path = f"{folder}/software.json"
    if path in there and store.read(path) != json.dumps(part.software).encode():
        yield _fault(path, "not the software of the manifest")
    path = f"{folder}/universes.json"
    if path in there:
        yield from _listing_faults(path, store.read(path), manifest)


def _listing_faults(path: str, raw: bytes, manifest: Manifest) -> Iterator[Fault]:
    listed = _canonical(raw)
    if listed is None:
        yield _fault(path, "was changed: not as it is written")
        return
    known = {universe.id: universe.parameters for universe in manifest.universes}
    quarantined = {universe.id for universe in manifest.quarantined}
    for universe, parameters in listed.items():
        if universe not in known and universe not in quarantined:
            yield _fault(path, f"universe {universe} is not in the data set")
        elif universe in known and parameters not in ({}, known[universe]):
            yield _fault(path, f"the parameters of universe {universe} are not the manifest's")


def _canonical(raw: bytes) -> dict[str, Any] | None:
    """Object of a JSON file that is written as this software writes it."""
    try:
        listed = json.loads(raw)
    except ValueError:
        return None
    same = isinstance(listed, dict) and json.dumps(listed).encode() == raw
    return listed if same else None


def _fault(path: str, what: str) -> Fault:
    return Fault("ledger", f"{path}: {what}", path)
