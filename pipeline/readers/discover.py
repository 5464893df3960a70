"""Find the snapshots below a folder, each with all of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import SnapshotError
from pipeline.readers.registry import Reader, entry_file, get_reader, reader_for, sniff

DEFAULT_PATTERN = "**/*"


def find_snapshots(
    folder: Path,
    pattern: str = DEFAULT_PATTERN,
    format: str = "auto",
    *,
    strict: bool | None = None,
) -> list[tuple[Path, ...]]:
    """All snapshots below ``folder``, each as the tuple of its parts.

    Parameters
    ----------
    folder : Path
        A universe's folder.
    pattern : str
        Glob relative to ``folder``.
    format : str
        Name of the reader, or ``auto`` to sniff.
    strict : bool, optional
        Whether a file that matches but is no snapshot, or lies outside of
        ``folder`` by a symbolic link, is an error (else it is passed over).
        By default it is if the pattern is not ``**/*``.

    Returns
    -------
    list of tuple of Path
        Sorted by the first part; each file is in one tuple.

    Raises
    ------
    SnapshotError
        If a snapshot lacks parts, the folder does not exist, or as ``strict`` says.
    """
    strict = pattern != DEFAULT_PATTERN if strict is None else strict
    listed: set[Path] = set()
    snapshots = []
    for path in _matches(folder, pattern, strict):
        reader = None if path in listed else _reader(path, format, strict)
        if reader is None:
            continue
        parts = reader.parts(path)
        _check_inside(folder, parts)
        if not listed.issuperset(parts):  # as the virtual file over parts that were found
            snapshots.append(parts)
        listed.update(parts)
    return sorted(snapshots)


def _matches(folder: Path, pattern: str, strict: bool) -> Iterator[Path]:
    if not folder.is_dir():
        raise SnapshotError(f"{folder}: no such folder; check input.universes in the recipe")
    try:
        matches = sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise SnapshotError(
            f"{pattern!r} is not a file pattern relative to {folder} ({error})"
        ) from error
    for path in map(entry_file, matches):
        if path.is_dir() or not (path.is_file() or strict):
            continue
        if _is_inside(folder, path):
            yield path
        elif strict:
            _check_inside(folder, (path,))


def _reader(path: Path, format: str, strict: bool) -> Reader | None:
    if strict:
        return reader_for(path, format)
    if format == "auto":
        return sniff(path)
    reader = get_reader(format)
    return reader if reader.sniff(path) else None


def _is_inside(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _check_inside(folder: Path, parts: tuple[Path, ...]) -> None:
    for path in parts:
        if not _is_inside(folder, path):
            raise SnapshotError(
                f"{path}: leads to {path.resolve()}, outside of {folder}; expected files inside "
                "it: copy the file there or name its own folder in input.universes"
            )
