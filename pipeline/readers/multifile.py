"""The parts of a multi-file snapshot: ``base.N.hdf5``, ``base.N.h5`` or ``base.N``."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pipeline.errors import SnapshotError
from pipeline.snapshot import Snapshot

_PART_NAME = re.compile(r"(?P<base>.+)\.(?P<index>\d{1,9})(?P<suffix>\.(?:hdf5|h5))?")
_NAMES_SHOWN = 5


class PartedSnapshot(Snapshot):
    """A snapshot whose parts ``_parts`` are read one after the other, each alone."""

    _parts: tuple[Any, ...]

    def sections(self, most: int) -> tuple[Self, ...]:
        """The parts in runs; see :meth:`Snapshot.sections`."""
        n_parts = len(self._parts)
        n = max(1, min(most, n_parts))
        return tuple(self._section(n_parts * i // n, n_parts * (i + 1) // n) for i in range(n))

    def _section(self, begin: int, end: int) -> Self:
        section = copy.copy(self)
        section._parts = self._parts[begin:end]
        return section


def find_parts(
    path: Path, n_files: int, n_particles: int, count: Callable[[Path], int]
) -> tuple[Path, ...]:
    """All parts of the snapshot that ``path`` is one of, in numerical order.

    Parameters
    ----------
    path : Path
        Any one part.
    n_files : int
        Number of parts that its header promises.
    n_particles : int
        Number of particles of all types that its header promises, over all parts.
    count : callable
        Number of particles in one part; called only to tell what is missing.

    Raises
    ------
    SnapshotError
        If parts are missing; names them and the particles they should hold.
    """
    if n_files == 1:
        return (path,)
    match = _PART_NAME.fullmatch(path.name)
    if match is None:
        raise SnapshotError(
            f"{path}: its header says that it is one of {n_files} parts, expected a name like "
            "base.0.hdf5 or base.0 that tells which; rename the parts"
        )
    if int(match["index"]) >= n_files:
        raise SnapshotError(
            f"{path}: its header says that there are {n_files} parts, expected a number below "
            f"{n_files} in its name; is it left over from an earlier run?"
        )
    found = _siblings(path, match)
    missing = (index for index in range(n_files) if index not in found)
    shown = [_name(match, index) for index in itertools.islice(missing, _NAMES_SHOWN + 1)]
    if shown:
        held = [found[index] for index in sorted(found) if index < n_files]
        raise SnapshotError(
            f"{path}: expected {n_files} parts ({n_particles} particles), "
            f"found {len(held)} ({_count_readable(held, count)} particles): "
            f"{_listed(shown)} missing; copy the missing parts"
        )
    return tuple(found[index] for index in range(n_files))


def _siblings(path: Path, match: re.Match[str]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for other in path.parent.iterdir():
        parsed = _PART_NAME.fullmatch(other.name)
        if parsed is None or (parsed["base"], parsed["suffix"]) != (match["base"], match["suffix"]):
            continue
        index = int(parsed["index"])
        if index in found:
            raise SnapshotError(
                f"{path.parent}: {found[index].name} and {other.name} are both part {index} of "
                "one snapshot, expected one of them; move the other away"
            )
        if other.is_file():
            found[index] = other
    return found


def _name(match: re.Match[str], index: int) -> str:
    padded = str(index).zfill(len(match["index"]) if match["index"].startswith("0") else 1)
    return f"{match['base']}.{padded}{match['suffix'] or ''}"


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    return f"{', '.join(names[:_NAMES_SHOWN])}{more} {'is' if len(names) == 1 else 'are'}"


def _count_readable(parts: list[Path], count: Callable[[Path], int]) -> int:
    total = 0
    for part in parts:
        try:
            total += count(part)
        except SnapshotError:
            continue  # the missing part is the fault to report first
    return total
