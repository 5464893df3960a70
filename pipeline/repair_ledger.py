"""Making the ledger of a published data set whole again, from its manifest."""

from __future__ import annotations

import hashlib
import json

from pipeline import ledger
from pipeline.errors import CosmoflowError
from pipeline.ledger import Entry
from pipeline.manifest import Manifest
from pipeline.remake import PartInput, Source, all_tasks, part_input
from pipeline.verify_ledger import ledger_faults
from pipeline.write.store import Store


def repair_ledger(store: Store, manifest: Manifest, source: Source) -> tuple[list[str], list[str]]:
    """Drop damaged lines, and write those anew that the manifest can tell.

    Returns
    -------
    repaired, left : list of str
        Files written, and the faults that remain.
    """
    repaired: list[str] = []
    for number, part in enumerate(manifest.all_parts()):
        folder = ledger.folder(number)
        there = store.paths(folder)
        if there:
            repaired += _without_damaged_lines(store, number)
            given = part_input(store, part, number, source)
            repaired += _lines_anew(store, manifest, given)
            repaired += _beginnings_anew(store, manifest, given, set(there))
    return repaired, [str(fault) for fault in ledger_faults(store, manifest)]


def _without_damaged_lines(store: Store, number: int) -> list[str]:
    journals = ledger.journals(store, number)
    changed = []
    for path, raw in zip(journals, list(store.read_all(journals)), strict=True):
        whole = b"".join(line + b"\n" for line in raw.split(b"\n") if _is_whole(line))
        if whole != raw:
            changed.append(path)
            store.write(path, whole)
    return changed


def _is_whole(line: bytes) -> bool:
    digest, _, body = line.partition(b" ")
    return bool(body) and digest == hashlib.sha256(body).hexdigest().encode()


def _lines_anew(store: Store, manifest: Manifest, given: PartInput) -> list[str]:
    """A line for every task that no line tells of.

    A whole line that says otherwise than the manifest stays, and so its fault: one of the
    two was changed by somebody, and nothing tells which.
    """
    entries = ledger.read(store, given.number)
    shards = {shard.path: shard for shard in manifest.shards}
    universes = {universe.id: universe for universe in manifest.universes}
    lacking = [task for task in all_tasks(manifest, given) if task.name not in entries]
    for task in lacking:
        entry = Entry(
            task=task.name,
            shards=[shards[shard.path] for shard in task.shards],
            universes=[universes[universe.id] for universe in task.universes],
            seconds={},
        )
        ledger.append(store, entry, given.number)
    return [f"{ledger.folder(given.number)} (lines written anew)"] if lacking else []


def _beginnings_anew(
    store: Store, manifest: Manifest, given: PartInput, there: set[str]
) -> list[str]:
    """The files that a build begins with, if they differ from what they have to be."""
    folder = ledger.folder(given.number)
    wanted = {f"{folder}/software.json": json.dumps(given.part.software).encode()}
    listing = _listing(manifest, given)
    if listing is not None:
        wanted[f"{folder}/universes.json"] = json.dumps(listing).encode()
    changed = [p for p, data in wanted.items() if p in there and store.read(p) != data]
    for path in changed:
        store.write(path, wanted[path])
    return changed


def _listing(manifest: Manifest, given: PartInput) -> dict[str, dict[str, float]] | None:
    """Universes of the input, if they are those of the data set; None: they are not."""
    try:
        listed = {name: universe.parameters for name, universe in given.universes.items()}
    except CosmoflowError:  # the input is gone: what is there stays, and its fault is said
        return None
    known = {universe.id: universe.parameters for universe in manifest.universes}
    quarantined = {universe.id for universe in manifest.quarantined}
    if any(name not in known and name not in quarantined for name in listed):
        return None
    same = all(listed[name] in ({}, known[name]) for name in listed if name in known)
    return listed if same else None
