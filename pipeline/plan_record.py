"""What a build set out to do, kept beside its ledger, so that its output alone tells how far it is.

``ledger/plan.json`` is written whole, before a build has begun; it is no part
of the data set.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import ledger
from pipeline.disk_space import estimate
from pipeline.errors import DatasetError
from pipeline.plan import Plan
from pipeline.worker_memory import sample_bytes
from pipeline.write.store import Store, StoreError


@dataclass(frozen=True)
class PlanRecord:
    """The size of a build.

    Attributes
    ----------
    tasks, shards, particles : int
        All that the build will do; particles as the headers have them.
    samples, universes : dict
        Number by split.
    sample_bytes : int
        Of one sample before compression.
    bytes_at_most : int
        Of the whole data set, see :class:`~pipeline.disk_space.Estimate`.
    recipe : str
        The recipe's file: relative to the data set's folder, absolute where that has a URL.
    """

    tasks: int
    shards: int
    particles: int
    samples: dict[str, int]
    universes: dict[str, int]
    sample_bytes: int
    bytes_at_most: int
    recipe: str = ""


def plan_name(part: int = 0) -> str:
    """Path of the record of a build, or of the extension that adds a part."""
    return f"{ledger.folder(part)}/plan.json"


def record_plan(output: Store, plan: Plan, recipe_path: Path | None = None) -> None:
    """Write the record of a plan, if there is no such one.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    content = json.dumps(asdict(_record(output, plan, recipe_path)), indent=1).encode()
    name = plan_name(plan.before.part)
    try:
        if output.read(name) == content:
            return
    except StoreError:
        raise
    except OSError:  # none, or none that can be read: it is written new
        pass
    output.write(name, content)


def _record(output: Store, plan: Plan, recipe_path: Path | None) -> PlanRecord:
    return PlanRecord(
        tasks=len(plan.tasks),
        shards=plan.n_shards,
        particles=sum(u.n_particles for members in plan.splits.values() for u in members),
        samples={name: plan.n_samples(name) for name in plan.splits},
        universes={name: len(members) for name, members in plan.splits.items()},
        sample_bytes=sample_bytes(plan.recipe),
        bytes_at_most=estimate(plan).bytes_at_most,
        recipe=_relative(recipe_path, output) if recipe_path else "",
    )


def _relative(recipe_path: Path, output: Store) -> str:
    recipe = recipe_path.resolve()
    if output.local is None:
        return recipe.as_posix()
    return Path(os.path.relpath(recipe, output.local.resolve())).as_posix()


def read_plan_record(output: Store, part: int = 0) -> PlanRecord | None:
    """The record of a build, or of the extension that adds a part; None if there is none.

    Raises
    ------
    DatasetError
        If it is damaged.
    OutputError
        If a remote place does not answer.
    """
    try:
        return PlanRecord(**json.loads(output.read(plan_name(part))))
    except StoreError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{output.address(plan_name(part))}: cannot be read ({error}); go on with --resume, "
            "which writes it again"
        ) from error


def recipe_of(output: Store, record: PlanRecord) -> Path | None:
    """File of the recipe that a record names, if it is still there."""
    if not record.recipe:
        return None
    path = Path(record.recipe)
    if output.local is not None and not path.is_absolute():
        path = Path(os.path.normpath(output.local.resolve() / path))
    return path if path.is_file() else None
