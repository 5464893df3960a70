"""The universes of a recipe: their ids, files and parameters, before any header is read."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.errors import InputError, SnapshotError
from pipeline.input_rules import FROM_HEADER, is_universe_table
from pipeline.parameter_table import ParameterTable, open_table, some
from pipeline.places import Place, find_places, named_parameters
from pipeline.readers.discover import DEFAULT_PATTERN, find_snapshots


@dataclass(frozen=True)
class UniverseInput:
    """One universe as the input gives it.

    Attributes
    ----------
    id : str
        Name of its folder or file, what ``input.id_pattern`` finds, or the table's id.
    folder : Path
        Where its files are.
    patterns : tuple of str
        Globs of its snapshots inside the folder; none: all files that are snapshots.
    parameters : dict
        All numeric parameters, physical values; empty if its snapshots record them.
    files : tuple of Path
        Files of its snapshots, where the input names files and not a folder.
    """

    id: str
    folder: Path
    patterns: tuple[str, ...]
    parameters: dict[str, float]
    files: tuple[Path, ...] = ()

    def find(self, format: str = "auto") -> list[tuple[Path, ...]]:
        """Snapshots of this universe, each as the tuple of its parts.

        Raises
        ------
        SnapshotError
            If there is none, or a multi-file snapshot is not complete.
        """
        strict = bool(self.patterns or self.files)
        found = {
            parts
            for folder, pattern in self._sources()
            for parts in find_snapshots(folder, pattern, format, strict=strict)
        }
        if not found:
            shown = ", ".join(self.patterns) or DEFAULT_PATTERN
            raise SnapshotError(
                f"{self.folder}: universe {self.id!r} has no snapshot matching {shown!r}; "
                "check input.snapshots and input.format in the recipe"
            )
        return sorted(found)

    def _sources(self) -> list[tuple[Path, str]]:
        if self.files:
            return [(path.parent, glob.escape(path.name)) for path in self.files]
        return [(self.folder, pattern) for pattern in self.patterns or (DEFAULT_PATTERN,)]


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
    if is_universe_table(recipe.input.universes):
        universes = _from_table(recipe, root / str(recipe.input.universes), root)
    else:
        universes = _from_places(recipe, root)
    if recipe.input.parameters != FROM_HEADER:
        for universe in universes:
            check_targets(universe.id, universe.parameters, recipe)
    return sorted(universes, key=lambda u: u.id)


def check_targets(universe: str, parameters: dict[str, float], recipe: Recipe) -> None:
    """Refuse a universe that lacks a target, or has one outside of its range.

    Raises
    ------
    InputError
        Naming the universe, the parameter, and what is there.
    """
    for name, (low, high) in recipe.targets.items():
        if name not in parameters:
            raise InputError(
                f"universe {universe!r} has no parameter {name!r} (has "
                f"{some(parameters) or 'none'}); targets in the recipe must be "
                f"{_where(recipe)}"
            )
        value = parameters[name]
        if not low <= value <= high:
            raise InputError(
                f"universe {universe!r} has {name} = {value:g}, outside the range "
                f"[{low:g}, {high:g}] of targets in the recipe; widen the range"
            )


def _where(recipe: Recipe) -> str:
    if recipe.input.parameters == FROM_HEADER:
        return "recorded in the snapshots' headers"
    if recipe.input.parameters_pattern is not None:
        return "groups of input.parameters_pattern"
    return "columns of the parameter table"


def _from_places(recipe: Recipe, root: Path) -> list[UniverseInput]:
    places = find_places(recipe.input.universes, root, recipe.input.id_pattern)
    if any(place.files for place in places) and recipe.input.snapshots:
        raise InputError(
            f"{places[0].folder}: input.universes names files, so input.snapshots "
            f"({recipe.input.snapshots}), which chooses files inside a folder, serves for "
            "nothing; remove it"
        )
    patterns = () if recipe.input.snapshots is None else (recipe.input.snapshots,)
    parameters = _parameters_of(places, recipe, root)
    return [
        UniverseInput(place.id, place.folder, patterns, parameters[place.id], place.files)
        for place in places
    ]


def _parameters_of(places: list[Place], recipe: Recipe, root: Path) -> dict[str, dict[str, float]]:
    """Parameters by id, from where the recipe says."""
    if recipe.input.parameters == FROM_HEADER:
        return {place.id: {} for place in places}
    pattern = recipe.input.parameters_pattern
    if pattern is not None:
        return {place.id: named_parameters(place, pattern, root) for place in places}
    if recipe.input.parameters is None:
        raise InputError(
            "input.parameters is missing: name the CSV table (columns id, "
            f"{', '.join(recipe.targets)}) that holds the parameters of the universes, or set "
            "input.parameters: header if the snapshots record them, or input.parameters_pattern"
        )
    table = open_table(root / recipe.input.parameters, recipe.input.parameter_names or ())
    return {place.id: table.parameters(place.id) for place in places}


def _from_table(recipe: Recipe, path: Path, root: Path) -> list[UniverseInput]:
    table = open_table(path)
    parameters = table
    if recipe.input.parameters not in (None, FROM_HEADER):
        parameters = open_table(
            root / str(recipe.input.parameters), recipe.input.parameter_names or ()
        )
    from_header = recipe.input.parameters == FROM_HEADER
    return [
        UniverseInput(
            name,
            path.parent,
            _files_inside(table, name),
            {} if from_header else parameters.parameters(name),
        )
        for name in table.rows
    ]


def _files_inside(table: ParameterTable, universe: str) -> tuple[str, ...]:
    """Globs of a universe's files: a list in YAML, separated by semicolons in CSV."""
    cell = table.rows[universe].get("files")
    patterns = tuple(_texts(cell))
    if not patterns:
        raise InputError(f"{table.path}: universe {universe!r} has nothing in the column 'files'")
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise InputError(
                f"{table.path}: files of universe {universe!r} ({pattern}) lead out of the "
                "table's folder; give paths relative to the table and below it"
            )
    return patterns


def _texts(cell: Any) -> Iterable[str]:
    items = cell.split(";") if isinstance(cell, str) else cell
    if not isinstance(items, list):
        return []
    return [item.strip() for item in items if isinstance(item, str) and item.strip()]
