"""The redshift of a snapshot whose format records none: from the recipe, or from a name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import SnapshotError
from pipeline.snapshot import ReadOptions

_FOLDERS = 2
"""Folders above the file whose names are searched too: ``z=0.5/rank_0/particles.npz``."""

_MAX_NAME = 255
"""Longest name that is searched: as long as file systems allow."""


def named_redshift(path: Path, options: ReadOptions) -> float:
    """Redshift that the recipe gives to ``path``.

    ``input.redshift`` goes first; else ``input.redshift_pattern`` is searched
    in the file's name, then in the names of the two folders that it is in; the
    nearest name that matches counts.

    Parameters
    ----------
    path : Path
        The snapshot, or its first part.
    options : ReadOptions
        The recipe's words.

    Raises
    ------
    SnapshotError
        If the recipe gives neither, nothing matches or the match is no redshift.
    """
    if options.redshift is not None:
        return options.redshift
    if options.redshift_pattern is None:
        raise SnapshotError(
            f"{path}: its format records no redshift; give input.redshift in the recipe, or "
            "input.redshift_pattern to find it in the file's name, e.g. 'z=([0-9.]+)'"
        )
    for name in _names(path):
        match = re.search(options.redshift_pattern, name)
        if match is not None:
            return _redshift(path, name, match)
    raise SnapshotError(
        f"{path}: input.redshift_pattern {options.redshift_pattern!r} is neither in its name nor "
        f"in those of the {_FOLDERS} folders that it is in; its format records no redshift: "
        "correct the pattern, or choose files with input.snapshots"
    )


def _names(path: Path) -> Iterator[str]:
    for place in (path, *list(path.parents)[:_FOLDERS]):
        yield place.name[:_MAX_NAME]


def _redshift(path: Path, name: str, match: re.Match[str]) -> float:
    text = match["z" if "z" in match.re.groupindex else 1] or ""
    try:
        # "z0p5" is how some codes write 0.5; the point before a suffix is no digit
        redshift = float(text.rstrip(".").replace("p", "."))
    except ValueError:
        redshift = -1.0
    if not -1 < redshift < float("inf"):
        raise SnapshotError(
            f"{path}: input.redshift_pattern {match.re.pattern!r} finds {text!r} in {name!r}, "
            "expected a redshift such as 0.5 or 0p5; correct the pattern"
        )
    return redshift
