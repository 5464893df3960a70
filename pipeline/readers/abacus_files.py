"""The files of an Abacus output: which there must be, and whether they are there.

A time slice is ``slices/zX/{field,L0}_pack9/slabNNN.{field,L0}.pack9.asdf``: all
particles.  A subsample is ``halos/zX/{field,halo}_rv_{A,B}/{field,halo}_rv_A_NNN.asdf``.
Each folder may have ``checksums.crc32``, the output of ``cksum``: checksum, size
and name of each file.

Source: https://abacussummit.readthedocs.io/en/latest/data-products.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SnapshotError

_SLICE = re.compile(r"slab(?P<number>\d{1,6})\.(?P<kind>field|L0)\.pack9\.asdf")
_SUBSAMPLE = re.compile(r"(?P<kind>field|halo)_rv_(?P<letter>[AB])_(?P<number>\d{1,6})\.asdf")
_LISTING = "checksums.crc32"
_MAX_LISTING = 1 << 20
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class AbacusName:
    """What the name of a file says.

    Attributes
    ----------
    number : int
        Slab, counted from 0.
    kind : str
        ``field`` (outside of halos), ``L0`` or ``halo``.
    letter : str
        Subsample, ``A`` or ``B``; empty for a time slice.
    """

    number: int
    kind: str
    letter: str

    @property
    def kinds(self) -> tuple[str, str]:
        """The two kinds that make a whole together."""
        return ("field", "halo") if self.letter else ("field", "L0")

    def folder(self, kind: str) -> str:
        """Name of the folder of the files of ``kind``."""
        return f"{kind}_rv_{self.letter}" if self.letter else f"{kind}_pack9"


def parse_name(name: str) -> AbacusName | None:
    """What a file's name says, or None if it is not of particles."""
    match = _SLICE.fullmatch(name) or _SUBSAMPLE.fullmatch(name)
    if match is None:
        return None
    return AbacusName(int(match["number"]), match["kind"], match.groupdict().get("letter") or "")


def find_slabs(path: Path) -> tuple[Path, ...]:
    """All slabs of both kinds of the output that ``path`` is a slab of, slab by slab.

    Raises
    ------
    SnapshotError
        If slabs are missing or have other sizes than listed beside them.
    """
    own = parse_name(path.name)
    if own is None:
        raise SnapshotError(
            f"{path}: expected a name like slab000.field.pack9.asdf or field_rv_A_000.asdf; "
            "keep the names that Abacus gives"
        )
    found: dict[tuple[int, str], Path] = {}
    listed: set[tuple[int, str]] = set()
    for kind in own.kinds:
        folder = _folder(path, own, kind)
        found |= _slabs(folder, own, kind)
        listed |= _check_listing(folder, own, kind)
    last = max((number for number, _ in found.keys() | listed), default=0)
    wanted = [(number, kind) for number in range(last + 1) for kind in own.kinds]
    missing = [key for key in wanted if key not in found]
    if missing:
        raise _missing(path, own, missing, len(found))
    return tuple(found[key] for key in wanted)


def _folder(path: Path, own: AbacusName, kind: str) -> Path:
    """Folder of ``kind``: beside that of ``path``, or the same if all are in one."""
    if path.parent.name == own.folder(own.kind):
        return path.parent.parent / own.folder(kind)
    return path.parent


def _slabs(folder: Path, own: AbacusName, kind: str) -> dict[tuple[int, str], Path]:
    found: dict[tuple[int, str], Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = parse_name(path.name)
        if name is None or (name.kind, name.letter) != (kind, own.letter) or not path.is_file():
            continue
        other = found.setdefault((name.number, kind), path)
        if other != path:
            raise SnapshotError(
                f"{folder}: {other.name} and {path.name} are both slab {name.number}, expected "
                "one of them; move the other away"
            )
    return found


def _check_listing(folder: Path, own: AbacusName, kind: str) -> set[tuple[int, str]]:
    """Slabs that the folder's list of checksums names; those there must have its sizes."""
    listed = set()
    for name, size in _read_listing(folder / _LISTING):
        parsed = parse_name(name)
        if parsed is None or (parsed.kind, parsed.letter) != (kind, own.letter):
            continue
        listed.add((parsed.number, kind))
        path = folder / name
        if path.is_file() and path.stat().st_size != size:
            raise SnapshotError(
                f"{path}: has {path.stat().st_size} bytes, expected {size} by {_LISTING}; "
                "copy it again"
            )
    return listed


def _read_listing(path: Path) -> list[tuple[str, int]]:
    """Names and sizes; lines that are not of ``cksum`` are passed over."""
    if not path.is_file():
        return []
    try:
        with path.open("rb") as stream:
            lines = stream.read(_MAX_LISTING).decode("ascii", "replace").splitlines()
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror or error})") from error
    matches = (re.fullmatch(r"\d+ (\d{1,18}) (\S+)", line.strip()) for line in lines)
    return [(match[2], int(match[1])) for match in matches if match]


def _missing(
    path: Path, own: AbacusName, missing: list[tuple[int, str]], n_found: int
) -> SnapshotError:
    shown = ", ".join(f"{own.folder(kind)} {number}" for number, kind in missing[:_NAMES_SHOWN])
    more = ", ..." if len(missing) > _NAMES_SHOWN else ""
    return SnapshotError(
        f"{path}: expected {n_found + len(missing)} slabs, found {n_found}: {shown}{more} "
        f"{'is' if len(missing) == 1 else 'are'} missing; copy the missing slabs "
        f"({' and '.join(own.folder(kind) for kind in own.kinds)} belong together)"
    )
