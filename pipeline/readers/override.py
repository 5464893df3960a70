"""Whether the recipe contradicts what a snapshot records of itself.

``input.box_size``, ``input.h`` and ``input.Omega_m`` are for files that do not
record them.  One that says something else than the file is a mistake in the
recipe more often than in the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import SnapshotError
from pipeline.snapshot import ReadOptions

if TYPE_CHECKING:
    from pipeline.readers.registry import Reader

_KEYS = ("box_size", "h", "Omega_m")
_UNITS = {"box_size": " Mpc/h"}
_SAME = 1e-3
"""Relative tolerance: recipes and headers round differently."""


def check_overrides(reader: Reader, files: Sequence[Path], options: ReadOptions) -> None:
    """Compare what the recipe gives with what the files record.

    The files are opened again without it, which works for every format.

    Raises
    ------
    SnapshotError
        If they differ by more than 1e-3 and ``options.override`` is not set.
    """
    given = {key: value for key in _KEYS if (value := getattr(options, key)) is not None}
    if options.override or not given:
        return
    for key, found in _recorded(reader, files, options, given).items():
        value = given[key]
        if math.isfinite(found) and not math.isclose(value, found, rel_tol=_SAME):
            raise SnapshotError(
                f"{files[0]}: records {key} = {found:.6g}{_UNITS.get(key, '')}, but the recipe "
                f"says input.{key}: {value:g}; drop input.{key}, or set input.override: true to "
                "read the file as the recipe says"
            )


def _recorded(
    reader: Reader, files: Sequence[Path], options: ReadOptions, given: dict[str, float]
) -> dict[str, float]:
    """Those of the keys that the files record, as they record them."""
    everything = _values(reader, files, options, list(given))
    if everything is not None:
        return everything
    found: dict[str, float] = {}
    for key in given:  # one that is not recorded must not hide the others
        found |= _values(reader, files, options, [key]) or {}
    return found


def _values(
    reader: Reader, files: Sequence[Path], options: ReadOptions, keys: list[str]
) -> dict[str, float] | None:
    """Values of ``keys`` that the files record; None if they cannot be opened without them."""
    without: dict[str, Any] = dict.fromkeys(keys)
    try:
        header = reader.open(files, replace(options, **without)).header
    except SnapshotError:
        return None
    return {key: value for key in keys if (value := getattr(header, key))}
