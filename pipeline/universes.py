"""The universes of a recipe: their ids, files and parameters, before any header is read."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Recipe
from pipeline.errors import InputError, SnapshotError
from pipeline.readers.discover import find_snapshots

Table = dict[str, dict[str, str]]
"""Rows of a CSV table by id."""


@dataclass(frozen=True)
class UniverseInput:
    """One universe as the input gives it.

    Attributes
    ----------
    id : str
        Folder name, or the table's id.
    folder : Path
        Where its files are.
    pattern : str or None
        Glob of its snapshots inside the folder; None: all files that are snapshots.
    parameters : dict
        All numeric parameters that the table has, physical values.
    """

    id: str
    folder: Path
    pattern: str | None
    parameters: dict[str, float]

    def find(self, format: str = "auto") -> list[tuple[Path, ...]]:
        """Snapshots of this universe, each as the tuple of its parts.

        Raises
        ------
        SnapshotError
            If there is none, or a multi-file snapshot is not complete.
        """
        pattern, strict = self.pattern or "**/*", self.pattern is not None
        found = find_snapshots(self.folder, pattern, format, strict=strict)
        if not found:
            raise SnapshotError(
                f"{self.folder}: universe {self.id!r} has no snapshot matching {pattern!r}; "
                "check input.snapshots and input.format in the recipe"
            )
        return found


def list_universes(recipe: Recipe, root: Path) -> list[UniverseInput]:
    """Universes of a recipe in the order of their ids.

    Parameters
    ----------
    recipe : Recipe
    root : Path
        Folder of the recipe, which its paths are relative to.

    Raises
    ------
    InputError
        If there are none, a table is not readable, or a universe has no
        parameters or lacks a target.
    """
    if recipe.input.universes.endswith(".csv"):
        universes = _from_table(recipe, root)
    else:
        universes = _from_folders(recipe, root)
    _check_targets(universes, recipe)
    return sorted(universes, key=lambda u: u.id)


def _from_folders(recipe: Recipe, root: Path) -> list[UniverseInput]:
    folders = [p for p in _glob(root, recipe.input.universes) if p.is_dir()]
    if not folders:
        raise InputError(
            f"{root / recipe.input.universes}: no folder matches input.universes; "
            "each universe is expected to be a folder"
        )
    ids = [folder.name for folder in folders]
    _check_unique(ids, str(root / recipe.input.universes))
    if recipe.input.parameters is None:
        raise InputError(
            "input.parameters is missing: name the CSV table (columns id, "
            f"{', '.join(recipe.targets)}) that holds the parameters of the universes"
        )
    path = root / recipe.input.parameters
    table = read_table(path)
    return [
        UniverseInput(folder.name, folder, recipe.input.snapshots, _parameters(table, name, path))
        for name, folder in zip(ids, folders, strict=True)
    ]


def _from_table(recipe: Recipe, root: Path) -> list[UniverseInput]:
    path = root / recipe.input.universes
    table = read_table(path)
    parameters_path = root / (recipe.input.parameters or recipe.input.universes)
    parameters = read_table(parameters_path)
    return [
        UniverseInput(
            name,
            path.parent,
            _files_inside(row, path),
            _parameters(parameters, name, parameters_path),
        )
        for name, row in table.items()
    ]


def _files_inside(row: dict[str, str], path: Path) -> str:
    pattern = row.get("files", "")
    if not pattern:
        raise InputError(f"{path}: universe {row['id']!r} has nothing in the column 'files'")
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise InputError(
            f"{path}: files of universe {row['id']!r} ({pattern}) lead out of the table's folder; "
            "give paths relative to the table and below it"
        )
    return pattern


def _glob(root: Path, pattern: str) -> list[Path]:
    base = Path(pattern)
    if base.is_absolute():
        anchor = Path(base.anchor)
        return sorted(anchor.glob(str(base.relative_to(anchor))))
    return sorted(root.glob(pattern))


def read_table(path: Path) -> Table:
    """CSV table with a column ``id``, one row a universe.

    Raises
    ------
    InputError
        If it cannot be read, has no ``id`` column, or an id stands twice.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the table cannot be read: {error}") from error
    if not rows or "id" not in rows[0]:
        raise InputError(
            f"{path}: expected a CSV table with a first line of names, 'id' among them"
        )
    ids = [row["id"] for row in rows]
    _check_unique(ids, str(path))
    return dict(zip(ids, rows, strict=True))


def _check_unique(ids: Sequence[str], where: str) -> None:
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise InputError(f"{where}: universe {twice[0]!r} stands twice; ids must be unique")


def _parameters(table: Table, universe: str, path: Path) -> dict[str, float]:
    if universe not in table:
        raise InputError(
            f"{path}: no row for universe {universe!r} (has {_some(table)}); "
            "every universe needs its parameters"
        )
    row = table[universe]
    return {
        name: _number(text, path, universe, name)
        for name, text in row.items()
        if name not in (None, "id", "files") and (text or "").strip()
    }


def _number(text: str, path: Path, universe: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{path}: {name} of universe {universe!r} is {text!r}, expected a finite number"
        )
    return value


def _some(names: Iterable[str], most: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (
        f" and {len(ordered) - most} more" if ordered[most:] else ""
    )


def _check_targets(universes: list[UniverseInput], recipe: Recipe) -> None:
    for universe in universes:
        for name, (low, high) in recipe.targets.items():
            if name not in universe.parameters:
                raise InputError(
                    f"universe {universe.id!r} has no parameter {name!r} (has "
                    f"{_some(universe.parameters)}); targets in the recipe must be columns of "
                    "the parameter table"
                )
            value = universe.parameters[name]
            if not low <= value <= high:
                raise InputError(
                    f"universe {universe.id!r} has {name} = {value:g}, outside the range "
                    f"[{low:g}, {high:g}] of targets in the recipe; widen the range"
                )
