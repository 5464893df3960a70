"""Adding universes to a published data set, as a part of its own.

What was published stays as it is, byte for byte: the part has its own groups,
shards and ledger, which nobody reads until the new manifest is there.  No
universe changes its split; the new ones are dealt out so that the whole comes
nearest to the wanted fractions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import ledger
from pipeline.config import Recipe, parse_recipe, recipe_difference
from pipeline.errors import InputError, OutputError
from pipeline.lock import Hold
from pipeline.manifest import Manifest, Part, Quarantined, load, part_folder
from pipeline.output_folder import check_same_build, held, is_begun, software_difference
from pipeline.plan import Published
from pipeline.shard_task import Job
from pipeline.survey import Refusal, SurveyedUniverse
from pipeline.universes import UniverseInput
from pipeline.write.store import Store, StoreError

MAY_DIFFER = ("input.universes", "input.parameters")
"""Keys of the recipe that list the input; all others are those of the data set."""


@dataclass(frozen=True)
class Extension:
    """An extension that is being made.

    Attributes
    ----------
    previous : Manifest
        Of the data set as it is.
    job : Job
    """

    previous: Manifest
    job: Job

    @property
    def published(self) -> Published:
        """What it adds to."""
        counts = {name: len(split.universes) for name, split in self.previous.splits.items()}
        return Published(self.job.part, counts)

    def asked(
        self, listed: Sequence[UniverseInput], known: dict[str, Refusal], retry: bool
    ) -> list[UniverseInput]:
        """Universes to look at: those of the data set, for changes, and the new ones.

        ``known`` are those that this extension has found bad; those that an earlier
        build did are tried again if this is asked for, or was when it was begun.

        Raises
        ------
        InputError
            If there is nothing to add, or a universe of the data set is not listed.
        """
        there = {universe.id for universe in self.previous.universes}
        gone = sorted(there - {universe.id for universe in listed})
        if gone:
            raise InputError(
                f"{_some(gone)} of the data set {self.job.output} no longer in the input; an "
                "extension only adds: put them back, or build another data set"
            )
        out = {q.id for q in self.previous.quarantined} - self._retried(listed, retry)
        new = [u for u in listed if u.id not in there | out]
        if not new:
            hint = f"; {len(out)} are quarantined: try them with --retry-quarantined" if out else ""
            raise InputError(
                f"nothing to add to {self.job.output}: all {len(listed)} universes of the input "
                f"are known{hint}"
            )
        return [u for u in listed if u.id not in out | known.keys()]

    def _retried(self, listed: Sequence[UniverseInput], retry: bool) -> set[str]:
        """Universes of earlier builds that are tried again; a resumed extension knows them."""
        output, name = self.job.output, f"{ledger.folder(self.job.part)}/retried.json"
        here = {universe.id for universe in listed}
        if retry:
            again = sorted(here & {q.id for q in self.previous.quarantined})
            output.write(name, json.dumps(again).encode())
            return set(again)
        try:
            return {str(universe) for universe in json.loads(output.read(name))}
        except StoreError:
            raise
        except FileNotFoundError:
            return set()
        except (OSError, ValueError, TypeError) as error:
            raise OutputError(
                f"{output.address(name)}: cannot be read ({error}); start again without --resume"
            ) from error

    def new_ones(
        self, good: Sequence[SurveyedUniverse], refused: Sequence[Refusal]
    ) -> tuple[list[SurveyedUniverse], list[Refusal]]:
        """The new universes of a survey, when those of the data set are as they were.

        Raises
        ------
        InputError
            Naming every universe whose parameters or snapshots changed.
        """
        there = {universe.id: universe for universe in self.previous.universes}
        changed = [f"{r.id}: {r.reason}" for r in refused if r.id in there]
        for universe in good:
            before = there.get(universe.id)
            if before is None:
                continue
            if before.parameters.items() - universe.parameters.items():
                changed.append(f"{universe.id}: its parameters changed")
            fingerprints = [channel.fingerprint for channel in universe.channels]
            if [s.fingerprint for s in before.snapshots] != fingerprints:
                files = ", ".join(s.files[0] for s in before.snapshots)
                changed.append(f"{universe.id}: its snapshots changed ({files})")
        if changed:
            raise InputError(
                f"{len(changed)} universes of the data set {self.job.output} are not what it was "
                "made from:\n  " + "\n  ".join(sorted(changed)) + "\nrestore them, or build "
                "another data set"
            )
        return (
            [universe for universe in good if universe.id not in there],
            [refusal for refusal in refused if refusal.id not in there],
        )

    def remaining(
        self, listed: Sequence[UniverseInput], looked_at: Sequence[UniverseInput]
    ) -> Manifest:
        """The data set as it is, with those quarantined that this extension does not try."""
        here = {u.id for u in listed} - {u.id for u in looked_at}
        stay: list[Quarantined] = [q for q in self.previous.quarantined if q.id in here]
        return self.previous.model_copy(update={"quarantined": stay})


@contextmanager
def claimed_extension(
    recipe: Recipe, root: Path, output: Store, resume: bool
) -> Iterator[tuple[Hold, Extension]]:
    """Hold a data set while the block extends it.

    What an extension left that was cut off is gone on with, if asked, or removed.

    Raises
    ------
    DatasetError
        If there is no data set, or its manifest or recipe is damaged.
    OutputError
        If it is held, or was made with another recipe or other software.
    """

    def check() -> None:
        extension = _extension(recipe, root, output)
        _check_same(extension)
        if resume and is_begun(output, extension.job.part):
            check_same_build(extension.job)

    with held(output, check) as hold:
        extension = _extension(recipe, root, output)
        if not (resume and is_begun(output, extension.job.part)):
            _sweep(extension.job)
        yield hold, extension


def _extension(recipe: Recipe, root: Path, output: Store) -> Extension:
    previous = load(output)
    return Extension(previous, Job(recipe, root, output, len(previous.all_parts())))


def _check_same(extension: Extension) -> None:
    output, last = extension.job.output, extension.previous.all_parts()[-1]
    there = _recipe_of(output, last)
    differences = [
        difference
        for difference in recipe_difference(there, extension.job.recipe)
        if not difference.startswith(tuple(f"{key}:" for key in MAY_DIFFER))
    ]
    differences += software_difference(last.software)
    if differences:
        raise OutputError(
            f"{output}: was made with another recipe or software, so what is added would not fit "
            "to it:\n  " + "\n  ".join(differences) + "\nrestore them (only "
            f"{' and '.join(MAY_DIFFER)} may differ), or build another data set"
        )


def _recipe_of(output: Store, part: Part) -> Recipe:
    try:
        return parse_recipe(output.read(part.recipe), str(output.address(part.recipe)))
    except StoreError:
        raise
    except OSError as error:
        raise OutputError(
            f"{output.address(part.recipe)}: cannot be read ({error.strerror}); 'cosmoflow-prep "
            "verify' names all that is damaged"
        ) from error


def _sweep(job: Job) -> None:
    """Remove what is left of an extension; the first to go is what says that it was begun."""
    inside = job.output.paths(ledger.folder(job.part))
    for path in sorted(inside, key=lambda path: not path.endswith("/software.json")):
        job.output.remove(path)
    for path in job.output.paths(part_folder(job.part)):
        job.output.remove(path)


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"universe{'s' if len(names) > 1 else ''} {shown}{more}"
