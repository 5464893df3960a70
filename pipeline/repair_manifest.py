"""Making a damaged manifest again, from ledger and plan, and proving it before it is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline import ledger
from pipeline.cluster import ClusterChoice
from pipeline.errors import CosmoflowError, DatasetError
from pipeline.manifest import MANIFEST_NAME, RECIPE_NAME, File, Manifest, Split, dump
from pipeline.output_folder import finished
from pipeline.plan import Plan, make_plan
from pipeline.publish import publish
from pipeline.remake import Source
from pipeline.runners import runner
from pipeline.shard_task import Job
from pipeline.survey import Refusal, SurveyedUniverse, try_survey
from pipeline.universes import list_universes
from pipeline.write.memory_store import MemoryStore
from pipeline.write.shards import digest
from pipeline.write.store import Store

_DIGEST = re.compile(rb'"digest": "(sha256:[0-9a-f]{64})"\n\}\n\Z')
"""The digest of itself that ends a manifest."""


@dataclass(frozen=True)
class ManifestAgain:
    """A manifest made again, and its bytes."""

    manifest: Manifest
    raw: bytes


def manifest_again(
    store: Store, source: Source, choice: ClusterChoice | None, reason: str
) -> ManifestAgain:
    """The manifest that the build published, from its ledger and the plan of its input.

    It is only given back if nothing is missing in the ledger, and what is left of
    the damaged one does not speak against it: its own digest, or else, where that is
    what was damaged, all the rest.

    Raises
    ------
    DatasetError
        If it cannot be made, with ``reason``, why the one that is there is damaged.
    """
    if any(path.startswith("manifest.v") for path in store.names()):
        raise DatasetError(
            f"{reason}. The data set was extended, so the manifest cannot be made from one "
            "ledger: restore it from a copy; or rename the newest manifest.v*.json, which is the "
            f"data set before its last extension, to {MANIFEST_NAME}, and extend it again"
        )
    try:
        again = _published(store, source, choice)
    except CosmoflowError as error:
        raise DatasetError(
            f"{reason}, and it cannot be made again from the ledger and the input: {error}. "
            "Restore it from a copy"
        ) from error
    raw = dump(again)
    if not _is_the_one(store.read(MANIFEST_NAME), raw):
        raise DatasetError(
            f"{reason}. One was made again from ledger and input, but what is left of the "
            "damaged one does not show that it is the same: restore it from a copy, or remove it "
            "and go on with 'cosmoflow-prep build RECIPE --resume'"
        )
    return ManifestAgain(again, raw)


def _is_the_one(damaged: bytes, again: bytes) -> bool:
    """Whether the damaged bytes hold the digest of the new ones, or all but the digest of them."""
    digest = _DIGEST.search(again)
    if digest is None:
        return False
    body = again[: digest.start()]
    return digest[1] in damaged or damaged.startswith(body)


def _published(store: Store, source: Source, choice: ClusterChoice | None) -> Manifest:
    """What publishing the plan now would give; written into memory."""
    if source.recipe is None:
        raise DatasetError("the recipe is needed; name it with --recipe")
    job = Job(source.recipe, source.root, store)
    plan = _plan(store, source, choice)
    done = finished(job, plan).entries
    lacking = [task.name for task in plan.tasks if task.name not in done]
    if lacking:
        raise DatasetError(f"the ledger has no whole line of {', '.join(lacking[:5])}")
    held = MemoryStore({RECIPE_NAME: store.read(RECIPE_NAME)})
    return _of_its_time(store, publish(plan, done.values(), held))


def _of_its_time(store: Store, made: Manifest) -> Manifest:
    """A manifest with the software that the build was begun with, not the one of now."""
    try:
        software = json.loads(store.read(f"{ledger.folder()}/software.json"))
        parts = [part.model_copy(update={"software": software}) for part in made.parts]
        return Manifest.model_validate(
            {**made.model_dump(), "software": software, "parts": [p.model_dump() for p in parts]}
        )
    except (OSError, ValueError) as error:
        raise DatasetError(f"{ledger.folder()}/software.json: cannot be read: {error}") from error


def manifests_before(store: Store, manifest: Manifest) -> Iterator[bytes]:
    """What the manifest may have been before the last extension, to be compared by digest.

    Only which universes were quarantined then is not known: as many as now, or none.
    """
    *kept, last = manifest.all_parts()
    if not kept:
        return
    splits = {
        name: _without(split, last.first_sample[name]) if name in last.samples else split
        for name, split in manifest.splits.items()
    }
    members = {universe for split in splits.values() for universe in split.universes}
    before = manifest.model_copy(
        update={
            "version": manifest.version - 1,
            "previous": _described(store, f"manifest.v{manifest.version - 2}.json"),
            "recipe_digest": kept[-1].recipe_digest,
            "software": kept[-1].software,
            "splits": {name: split for name, split in splits.items() if split.universes},
            "shards": [s for s in manifest.shards if manifest.part_of(s).folder != last.folder],
            "files": [f for f in manifest.files if not f.path.startswith(f"{last.folder}/")],
            "universes": [u for u in manifest.universes if u.id in members],
            "parts": kept,
        }
    )
    yield dump(before)
    yield dump(before.model_copy(update={"quarantined": []}))


def _without(split: Split, first_new: int) -> Split:
    universes = split.universes[: first_new // split.samples_per_universe]
    return split.model_copy(update={"universes": universes, "samples": first_new})


def _described(store: Store, path: str) -> File | None:
    try:
        raw = store.read(path)
    except FileNotFoundError:
        return None
    return File(path=path, bytes=len(raw), digest=digest(raw))


def _plan(store: Store, source: Source, choice: ClusterChoice | None) -> Plan:
    """The plan of the build: what was quarantined then is left out again."""
    if source.recipe is None:
        raise DatasetError("the recipe is needed; name it with --recipe")
    given_up = {
        line.id: Refusal(line.id, line.reason, line.parameters)
        for line in ledger.read_history(store).quarantined.values()
    }
    universes = list_universes(source.recipe, source.root)
    calls = ((try_survey, u, source.recipe) for u in universes if u.id not in given_up)
    with runner(choice, 0) as run, run(calls) as ended:
        results: Sequence[SurveyedUniverse | Refusal] = list(ended)
    good = [found for found in results if isinstance(found, SurveyedUniverse)]
    bad = [found for found in results if isinstance(found, Refusal)]
    if bad:
        raise DatasetError(f"the input changed: {bad[0].reason}")
    return make_plan(source.recipe, good, list(given_up.values()))
