"""Tables of universes and their parameters: CSV, YAML, HDF5 or plain text, none of them trusted.

====================  ==========================================================
``.csv``              first line of names, ``id`` among them
``.yaml``, ``.yml``   mapping of id to a mapping of names to numbers
``.h5``, ``.hdf5``    one structured data set, or one data set a column, with ``id``
``.txt``, ``.dat``    numbers in columns and no ids, as Quijote's
                      ``latin_hypercube_params.txt``: row 0 is universe 0
====================  ==========================================================
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import InputError, RecipeError
from pipeline.input_rules import NUMBERED_TABLES, TABLES
from pipeline.readers.hdf5_safe import child, hdf5_file
from pipeline.yaml_source import MAX_BYTES as MAX_YAML_BYTES
from pipeline.yaml_source import load_yaml

MAX_TABLE_BYTES = 64 << 20
"""Half a million universes; a larger table is not one."""

Row = dict[str, Any]
"""Cells of one universe by column: text from CSV and plain text, numbers elsewhere."""

Table = dict[str, Row]
"""Rows by id."""

_NOT_PARAMETERS = ("id", "files")


@dataclass(frozen=True)
class ParameterTable:
    """A table that was read.

    Attributes
    ----------
    path : Path
        The file, for messages.
    rows : dict
        Rows by id.
    numbered : bool
        Whether the ids are row numbers, as in plain text.
    """

    path: Path
    rows: Table
    numbered: bool = False

    def parameters(self, universe: str) -> dict[str, float]:
        """All parameters of a universe, physical values.

        Raises
        ------
        InputError
            If it has no row, or a cell is not a finite number.
        """
        row = self._row(universe)
        return {
            name: finite_number(cell, f"{self.path}: {name} of universe {universe!r}")
            for name, cell in row.items()
            if name not in _NOT_PARAMETERS and cell is not None and str(cell).strip()
        }

    def _row(self, universe: str) -> Row:
        number = universe.isascii() and universe.isdigit()
        if self.numbered and not number:
            raise InputError(
                f"{self.path}: universe {universe!r} is not a row number, and the table has no "
                "ids; take the number from the path with input.id_pattern, e.g. "
                "'LH_(?P<id>[0-9]+)'"
            )
        name = str(int(universe)) if self.numbered else universe
        if name not in self.rows:
            has = f"{len(self.rows)} rows from 0" if self.numbered else some(self.rows)
            raise InputError(
                f"{self.path}: no row for universe {universe!r} (has {has}); "
                "every universe needs its parameters"
            )
        return self.rows[name]


def open_table(path: Path, names: Sequence[str] = ()) -> ParameterTable:
    """Table in ``path``, of the kind that its suffix says.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Names of the columns of a plain text table.

    Raises
    ------
    InputError
        If it cannot be read, is malformed, or an id stands twice.
    """
    numbered = path.suffix in NUMBERED_TABLES
    return ParameterTable(path, read_table(path, names), numbered)


def read_table(path: Path, names: Sequence[str] = ()) -> Table:
    """Rows of a table by id; see :func:`open_table`."""
    _check_size(path)
    if path.suffix in NUMBERED_TABLES:
        return _read_text(path, names)
    reader = {"csv": _read_csv, "yaml": _read_yaml, "hdf5": _read_hdf5}.get(
        TABLES.get(path.suffix, "")
    )
    if reader is None:
        raise InputError(f"{path}: not a table; expected a file in {', '.join(TABLES)}")
    return reader(path)


def finite_number(cell: Any, what: str) -> float:
    """A cell as a finite number.

    Raises
    ------
    InputError
        ``what`` is it, and what it holds.
    """
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{what} is {cell!r}, expected a finite number")
    return value


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (
        f" and {len(ordered) - most} more" if ordered[most:] else ""
    )


def check_unique(ids: Iterable[str], where: str, advice: str = "ids must be unique") -> None:
    """Refuse ids that stand twice.

    Raises
    ------
    InputError
        Naming the first of them.
    """
    twice = sorted(name for name, n in Counter(ids).items() if n > 1)
    if twice:
        raise InputError(f"{where}: universe {twice[0]!r} stands twice; {advice}")


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: the table cannot be read: {error.strerror}") from error
    most = MAX_YAML_BYTES if TABLES.get(path.suffix) == "yaml" else MAX_TABLE_BYTES
    if size > most:
        raise InputError(
            f"{path}: {size} bytes, expected at most {most} for a table of this kind; "
            "give a larger one as CSV, or split the ensemble"
        )


def _read_csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the table cannot be read: {error}") from error
    names = [name.strip() for name in lines[0][1]] if lines else []
    if "id" not in names or len(lines) < 2:
        raise InputError(
            f"{path}: expected a CSV table with a first line of names, 'id' among them"
        )
    check_unique_names(names, path)
    for number, cells in lines[1:]:
        if len(cells) > len(names):
            raise InputError(
                f"{path}:{number}: {len(cells)} cells, expected {len(names)} by the first line; "
                "quote cells that hold a comma"
            )
    rows = [dict(zip(names, cells, strict=False)) for _, cells in lines[1:]]
    return _by_id([row.get("id", "").strip() for row in rows], rows, path)


def check_unique_names(names: Sequence[str], path: Path) -> None:
    """Refuse a table that has two columns of one name."""
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        raise InputError(f"{path}: the column {twice[0]!r} stands twice; names must be unique")


def _by_id(ids: Sequence[str], rows: Sequence[Row], path: Path) -> Table:
    for name in ids:
        if not name or not name.isprintable():
            raise InputError(f"{path}: {name!r} is no id of a universe; give it a name")
    check_unique(ids, str(path))
    return dict(zip(ids, rows, strict=True))


def _read_yaml(path: Path) -> Table:
    try:
        source = load_yaml(path)
    except RecipeError as error:
        raise InputError(str(error)) from error
    if not isinstance(source.data, dict) or not source.data:
        raise InputError(f"{path}: expected a mapping of universes, e.g. 'u0000: {{Omega_m: 0.3}}'")
    rows = []
    for name, row in source.data.items():
        if not isinstance(row, dict):
            raise InputError(
                f"{source.where((name,))}: universe {name!r} is {row!r}, expected a mapping of "
                "names to numbers"
            )
        rows.append(_flat(row, source.where((name,))))
    return _by_id(list(source.data), rows, path)


def _flat(row: Row, where: str) -> Row:
    """A row whose parameters may be in a mapping of their own, ``parameters``."""
    inner = row.get("parameters", {})
    outer = {name: cell for name, cell in row.items() if name != "parameters"}
    if not isinstance(inner, dict) or inner.keys() & outer.keys():
        raise InputError(
            f"{where}: parameters is {inner!r}, expected a mapping of names to numbers that are "
            "not given beside it"
        )
    return outer | inner


def _read_text(path: Path, names: Sequence[str]) -> Table:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the table cannot be read: {error}") from error
    _check_heading(lines, names, path)
    rows = []
    for number, line in enumerate(lines, start=1):
        cells = line.partition("#")[0].split()
        if cells and len(cells) != len(names):
            raise InputError(
                f"{path}:{number}: {len(cells)} numbers, expected the {len(names)} of "
                f"input.parameter_names ({', '.join(names)})"
            )
        if cells:
            rows.append(dict(zip(names, cells, strict=True)))
    if not rows:
        raise InputError(f"{path}: holds no numbers, expected a row for each universe")
    return {str(number): row for number, row in enumerate(rows)}


def _check_heading(lines: Sequence[str], names: Sequence[str], path: Path) -> None:
    """A first comment that names the same columns has to name them in the same order."""
    words = lines[0].lstrip("# ").split() if lines and lines[0].startswith("#") else []
    if sorted(words) == sorted(names) and words != list(names):
        raise InputError(
            f"{path}:1: the columns are {', '.join(words)}, but input.parameter_names has them "
            f"in the order {', '.join(names)}; give them as the file does"
        )


def _read_hdf5(path: Path) -> Table:
    with hdf5_file(path) as file:
        found = {name: child(file, name, path) for name in file}
        sets = {name: d for name, d in found.items() if isinstance(d, h5py.Dataset)}
        for dset in sets.values():
            _check_column(dset, path)
        structured = [dset for dset in sets.values() if dset.dtype.names]
        if len(structured) == 1:
            whole = structured[0][()]
            columns = {name: whole[name] for name in whole.dtype.names}
        else:
            columns = {name: dset[()] for name, dset in sets.items() if not dset.dtype.names}
    return _from_columns(columns, path)


def _check_column(dset: h5py.Dataset, path: Path) -> None:
    """One dimension, in this file, and neither large nor of a type that could hold anything."""
    n_bytes = dset.size * dset.dtype.itemsize if dset.shape is not None else 0
    if dset.is_virtual or dset.external:
        raise InputError(
            f"{path}: {dset.name} lies in other files, expected it in this one; this is refused"
        )
    if dset.ndim != 1 or not 0 < n_bytes <= MAX_TABLE_BYTES or not dset.id.get_storage_size():
        raise InputError(
            f"{path}: {dset.name} has the shape {dset.shape} ({n_bytes} bytes), expected one "
            "number or id a universe"
        )
    types = [dset.dtype[name] for name in dset.dtype.names or ()] or [dset.dtype]
    for dtype in types:
        if dtype.kind not in "iufS" and h5py.check_string_dtype(dtype) is None:
            raise InputError(f"{path}: {dset.name} holds {dtype}, expected numbers or ids")


def _from_columns(columns: dict[str, np.ndarray], path: Path) -> Table:
    if "id" not in columns:
        raise InputError(
            f"{path}: expected one structured data set with a field 'id', or a data set 'id' "
            f"beside one for each parameter, found {some(columns) or 'none'}"
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: its columns have {lengths} rows, expected the same number")
    ids = [_id_text(cell, path) for cell in columns["id"].tolist()]
    cells = {name: c.tolist() for name, c in columns.items() if name not in _NOT_PARAMETERS}
    rows = [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]
    return _by_id(ids, rows or [{} for _ in ids], path)


def _id_text(cell: Any, path: Path) -> str:
    if isinstance(cell, bytes):
        try:
            return cell.decode()
        except UnicodeDecodeError:
            pass
    if isinstance(cell, int | str):
        return str(cell)
    raise InputError(f"{path}: the id {cell!r} is neither text nor a whole number")
