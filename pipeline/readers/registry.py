"""The table of snapshot formats, and choosing one for a file.

A format is a module of this package that defines a :class:`Reader` and passes
it to :func:`register`; ``pipeline/readers/__init__.py`` imports it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pipeline.errors import RecipeError, SnapshotError
from pipeline.readers.override import check_overrides
from pipeline.snapshot import ReadOptions, Snapshot, check_header


class Reader(Protocol):
    """One snapshot format.

    Attributes
    ----------
    name : str
        The word for ``input.format`` in a recipe.
    """

    name: str

    def sniff(self, path: Path) -> bool:
        """Whether the first bytes or groups of ``path`` are of this format; never raises."""
        ...

    def parts(self, path: Path) -> tuple[Path, ...]:
        """All files of the snapshot that ``path`` is a part of, in order, itself included.

        Raises SnapshotError if parts that the header promises are missing.
        """
        ...

    def open(self, files: Sequence[Path], options: ReadOptions) -> Snapshot:
        """Check the headers of ``files`` (all parts of one snapshot) and open it.

        Raises SnapshotError if the parts are not complete and consistent.
        """
        ...


_readers: dict[str, Reader] = {}
_by_name_only: set[str] = set()

_ENTRY_FILES = ("Header/attr-v2", "zarr.json", ".zgroup", ".zarray")
"""What makes a folder a snapshot: of bigfile, of Zarr 3, and a group or array of Zarr 2."""


def register(reader: Reader, *, by_name_only: bool = False) -> Reader:
    """Add a format; the order of registration is the order of sniffing.

    Parameters
    ----------
    reader : Reader
        The format.
    by_name_only : bool
        ``format: auto`` never takes it: its files could mean anything.
    """
    _readers[reader.name] = reader
    if by_name_only:
        _by_name_only.add(reader.name)
    return reader


def reader_names() -> tuple[str, ...]:
    """Names of all registered formats."""
    return tuple(_readers)


def get_reader(name: str) -> Reader:
    """Reader of that name.

    Raises
    ------
    RecipeError
        If there is none.
    """
    if name in _readers:
        return _readers[name]
    close = difflib.get_close_matches(name, _readers, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise RecipeError(f"input.format: {name!r} is not one of auto, {', '.join(_readers)}{hint}")


def sniff(path: Path) -> Reader | None:
    """Reader whose format ``path`` is in, or None."""
    automatic = (r for name, r in _readers.items() if name not in _by_name_only)
    return next((reader for reader in automatic if reader.sniff(path)), None)


def entry_file(path: Path) -> Path:
    """File that a snapshot goes by: of a bigfile or Zarr folder one in it, else ``path`` itself."""
    if not path.is_dir():
        return path
    inside = (path / name for name in _ENTRY_FILES)
    return next((file for file in inside if file.is_file()), path)


def reader_for(path: Path, format: str = "auto") -> Reader:
    """Reader for ``path``: the one named, or the one that recognises it.

    Raises
    ------
    SnapshotError
        If the file does not exist or no format recognises it.
    """
    if not path.is_file():
        raise SnapshotError(f"{path}: no such file; check input.universes in the recipe")
    if format != "auto":
        return get_reader(format)
    reader = sniff(path)
    if reader is None:
        raise SnapshotError(
            f"{path}: not a snapshot in any known format ({', '.join(_readers)}); "
            "name the format with input.format in the recipe if this is one of them"
        )
    return reader


def open_snapshot(files: Sequence[Path] | Path, options: ReadOptions | None = None) -> Snapshot:
    """Open a snapshot, given any one of its parts or all of them.

    Parameters
    ----------
    files : Path or sequence of Path
        One path: the other parts of a multi-file snapshot are found beside
        it.  Several: exactly these are the parts.
    options : ReadOptions, optional
        Overrides from the recipe.

    Returns
    -------
    Snapshot
        Its header is checked: plausible, complete, mean density right.

    Raises
    ------
    SnapshotError
        If the snapshot cannot be trusted.
    """
    options = options or ReadOptions()
    given = [entry_file(files)] if isinstance(files, Path) else list(files)
    reader = reader_for(given[0], options.format)
    parts = reader.parts(given[0]) if len(given) == 1 else tuple(given)
    snapshot = reader.open(parts, options)
    check_overrides(reader, parts, options)
    check_header(snapshot.header)
    return snapshot
