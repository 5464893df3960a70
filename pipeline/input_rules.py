"""Which ways of naming universes and their parameters there are, and which go together.

Everything here looks at the words of a recipe only; no file is touched.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

FROM_HEADER = "header"
"""The word of ``input.parameters`` for parameters that the snapshots themselves record."""

HEADER_PARAMETERS = ("Omega_m", "h", "H_0")
"""Parameters that the header of any snapshot may give."""

TABLES = {
    ".csv": "csv",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".txt": "text",
    ".dat": "text",
}
"""Kinds of parameter tables by suffix."""

NUMBERED_TABLES = tuple(suffix for suffix, kind in TABLES.items() if kind == "text")
"""Suffixes of tables without ids, whose rows are numbered from 0."""

UNIVERSE_TABLES = (".csv", ".yaml", ".yml")
"""Suffixes of tables that can list universes."""

Universes = str | tuple[str, ...]


def is_universe_table(universes: Universes) -> bool:
    """Whether ``input.universes`` names a table and not places."""
    return isinstance(universes, str) and PurePath(universes).suffix in UNIVERSE_TABLES


def checked_universes(value: Any) -> Universes:
    """A glob, folder or table, or a list of globs and folders.

    Raises
    ------
    ValueError
        If it is neither, or a list holds a table or one entry twice.
    """
    if isinstance(value, str) and value.strip():
        return value
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{value!r} is not a glob, a folder, a table, or a list of globs")
    for entry in value:
        if not isinstance(entry, str) or not entry.strip():
            raise ValueError(f"{entry!r} in the list is not a glob or a folder")
        if is_universe_table(entry):
            raise ValueError(f"a list holds globs and folders; give the table {entry} alone")
    if len(set(value)) < len(value):
        raise ValueError(f"{list(value)} holds one entry twice")
    return tuple(value)


def checked_parameters(value: str) -> str:
    """The word ``header`` or a table whose suffix is known.

    Raises
    ------
    ValueError
        If it is neither.
    """
    suffix = PurePath(value).suffix
    if value == FROM_HEADER or suffix in TABLES:
        return value
    close = difflib.get_close_matches(value, [FROM_HEADER], n=1)
    hint = close or difflib.get_close_matches(suffix, TABLES, n=1)
    raise ValueError(
        f"{value!r} is neither '{FROM_HEADER}' nor a table ({', '.join(TABLES)})"
        + (f"; did you mean {hint[0]!r}?" if hint else "")
    )


def checked_id_pattern(value: str) -> str:
    """A regular expression with the one group ``id``.

    Raises
    ------
    ValueError
        If it is not.
    """
    if set(_groups(value)) != {"id"}:
        raise ValueError(
            f"{value!r} has the named groups {sorted(_groups(value))}, expected only 'id', e.g. "
            "'LH_(?P<id>[0-9]+)'"
        )
    return value


def checked_parameters_pattern(value: str) -> str:
    """A regular expression with a named group for each parameter.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not _groups(value):
        raise ValueError(
            f"{value!r} has no named groups, expected one for each parameter, e.g. "
            "'Om(?P<Omega_m>[0-9.]+)_s8(?P<sigma_8>[0-9.]+)'"
        )
    return value


def checked_names(names: Sequence[str] | None, parameters: str | None) -> None:
    """Names of columns are given where a table has none, and only there.

    Raises
    ------
    ValueError
        If they are missing, stand twice or serve for nothing.
    """
    numbered = parameters is not None and PurePath(parameters).suffix in NUMBERED_TABLES
    if numbered and not names:
        raise ValueError(
            f"is missing: {parameters} has no line of names; list its columns in their order"
        )
    if names and not numbered:
        raise ValueError(
            f"names the columns of a plain text table ({', '.join(NUMBERED_TABLES)}), and "
            f"input.parameters is {parameters!r}; remove it"
        )
    if names and len(set(names)) < len(names):
        raise ValueError(f"{list(names)} holds one name twice")
    if names and "id" in names:
        raise ValueError("holds 'id', but rows of a plain text table are numbered; rename it")


def check_together(given: dict[str, Any]) -> None:
    """Refuse keys of ``input`` that exclude each other.

    Parameters
    ----------
    given : dict
        ``universes``, ``parameters``, ``parameters_pattern``, ``id_pattern`` and ``snapshots``.

    Raises
    ------
    ValueError
        Naming both keys and which to remove.
    """
    if given["parameters"] and given["parameters_pattern"]:
        raise ValueError(
            "parameters and parameters_pattern both say where parameters come from; remove one"
        )
    if not is_universe_table(given["universes"]):
        return
    for key, instead in (
        ("id_pattern", "its column id names the universes"),
        ("snapshots", "its column files chooses the snapshots"),
        ("parameters_pattern", "its columns hold the parameters"),
    ):
        if given[key]:
            raise ValueError(
                f"universes is the table {given['universes']}, so {key} serves for nothing "
                f"({instead}); remove it"
            )


def check_targets_are_given(targets: Iterable[str], given: dict[str, Any]) -> None:
    """Refuse targets that the recipe's own words show to be missing.

    Parameters
    ----------
    targets : iterable of str
        Names of the targets.
    given : dict
        ``parameter_names``, ``parameters_pattern``, ``parameters`` and ``Omega_m`` and ``h`` of
        ``input``.

    Raises
    ------
    ValueError
        Naming the target, and the nearest name that is there.
    """
    names, where = given["parameter_names"], "input.parameter_names"
    if given["parameters_pattern"]:
        names, where = _groups(given["parameters_pattern"]), "input.parameters_pattern"
    for target in targets:
        if names and target not in names:
            close = difflib.get_close_matches(target, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"has {', '.join(names)}"
            raise ValueError(f"targets: {target!r} is not in {where}; {hint}")
        source = "h" if target == "H_0" else target
        if given["parameters"] == FROM_HEADER and given.get(source):
            raise ValueError(
                f"targets: {target!r} would be input.{source} = {given[source]:g} in every "
                f"universe, not the header's; remove input.{source}"
            )


def _groups(pattern: str) -> list[str]:
    try:
        return list(re.compile(pattern).groupindex)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
