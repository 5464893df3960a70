"""What a SWIFT file says of itself: header, units, cosmology and, if it has them, its parts.

Source: SWIFT's documentation ``doc/RTD/source/Snapshots/index.rst`` and what its
``src/distributed_io.c`` and ``src/cosmology.c`` write (https://github.com/SWIFTSIM/SWIFT).
SWIFT has Gadget's groups, but all of its units are without 1/h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.gadget_header import PartHeader, with_high_words
from pipeline.readers.hdf5_safe import hdf5_file, number, numbers, subgroup
from pipeline.readers.multifile import find_parts

_UNIT_LENGTH = "Unit length in cgs (U_L)"
_UNIT_MASS = "Unit mass in cgs (U_M)"
_HIGH_WORDS = ("NumPart_Total_HighWord", "NumPart_HighWord")
_MAX_TYPES = 8

_SOLAR_MASS_IN_G = 1.98841e33
_SAME_MASS = 5e-3
"""Relative tolerance of 1e10 Msun: runs are set up with several values of the solar mass."""

_WHOLE_BOX = ("FullVolume", "SubSampled")
_MAX_TEXT = 256


@dataclass(frozen=True)
class SwiftPart:
    """One SWIFT file.

    Attributes
    ----------
    header : PartHeader
        In the unit of the file; its ``time`` is the scale factor.
    mass_unit : float
        Unit of mass in 1e10 Msun (without h).
    subsampled : bool
        Whether only some of the particles were written.
    virtual : bool
        Whether it only shows the particles of its parts.
    """

    header: PartHeader
    mass_unit: float
    subsampled: bool
    virtual: bool

    @property
    def path(self) -> Path:
        """The file."""
        return self.header.path

    @property
    def counts(self) -> tuple[int, ...]:
        """Particles of each type in this file."""
        return self.header.counts


def is_swift(path: Path) -> bool:
    """Whether ``path`` is HDF5 that SWIFT wrote; never raises."""
    try:
        if not h5py.is_hdf5(path):
            return False
        with hdf5_file(path) as file:
            header = subgroup(file, "Header", path)
            if header is None:
                return False
            units = subgroup(file, "Units", path)
            has_units = "Cosmology" in file and units is not None and _UNIT_LENGTH in units.attrs
            return has_units or _text(header, "Code", path).startswith("SWIFT")
    except (SnapshotError, OSError):
        return False


def read_part(path: Path) -> SwiftPart:
    """Header of one file.

    Raises
    ------
    SnapshotError
        If it is not a file of particles that fill a cubic, comoving box.
    """
    with hdf5_file(path) as file:
        header = _needed_group(file, "Header", path)
        output = _check_kind(header, path)
        cosmology = _needed_group(file, "Cosmology", path)
        if number(cosmology, "Cosmological run", path) == 0:
            raise SnapshotError(
                f"{path}: its run was not cosmological (Cosmology/Cosmological run is 0), expected "
                "a comoving box; give a snapshot of a cosmological run"
            )
        units = _needed_group(file, "Units", path)
        return SwiftPart(
            _part_header(header, cosmology, units, path),
            _mass_unit(units, path),
            subsampled=output == "SubSampled",
            virtual=number(header, "Virtual", path) == 1,
        )


def swift_parts(path: Path) -> tuple[Path, ...]:
    """All files that hold the particles of the snapshot that ``path`` is a part of.

    A virtual file (``base.hdf5`` over ``base.N.hdf5``) holds none itself.  Its parts
    are those beside it by their names, wherever its virtual data sets lead: these are
    not even opened, as HDF5 would follow them and does not survive damaged ones.

    Raises
    ------
    SnapshotError
        If parts are missing or are not those of the virtual file.
    """
    part = read_part(path)
    if not part.virtual:
        return _real_parts(part)
    first = path.with_name(f"{path.stem}.0{path.suffix}")
    if not first.is_file():
        raise SnapshotError(
            f"{path}: is a virtual file over {path.stem}.N{path.suffix}, expected {first.name} "
            f"beside it; copy the parts to {path.parent}"
        )
    found = read_part(first)
    if found.header.totals != part.header.totals or found.header.redshift != part.header.redshift:
        raise SnapshotError(
            f"{path}: is a virtual file over {sum(part.header.totals)} particles at redshift "
            f"{part.header.redshift}, expected those of {first.name} beside it, "
            f"{sum(found.header.totals)} at {found.header.redshift}; "
            "files of several snapshots are mixed"
        )
    return _real_parts(found)


def without_left_out(parts: Sequence[SwiftPart], types: Sequence[int]) -> list[SwiftPart]:
    """Parts with the totals of types that SWIFT was told not to write set to 0.

    Such a type has its total in the header but no particles in any file.  The
    chosen ``types`` keep their totals, so that their absence is an error.
    """
    n_types = max(len(part.counts) for part in parts)
    held = [sum(sum(part.counts[t : t + 1]) for part in parts) for t in range(n_types)]
    kept = [n > 0 or t in types for t, n in enumerate(held)]
    return [replace(part, header=_with_totals(part.header, kept)) for part in parts]


def _with_totals(header: PartHeader, kept: Sequence[bool]) -> PartHeader:
    totals = tuple(n if keep else 0 for n, keep in zip(header.totals, kept, strict=False))
    return replace(header, totals=totals)


def _real_parts(part: SwiftPart) -> tuple[Path, ...]:
    header = part.header
    return find_parts(
        part.path,
        header.n_files,
        sum(header.totals),
        lambda other: read_part(other).header.n_particles,
    )


def _needed_group(file: h5py.File, name: str, path: Path) -> h5py.Group:
    group = subgroup(file, name, path)
    if group is None:
        raise SnapshotError(f"{path}: has no group {name}, expected one as SWIFT writes it")
    return group


def _text(group: h5py.Group, name: str, path: Path) -> str:
    """Short text attribute, or the empty string."""
    if name not in group.attrs:
        return ""
    attribute = group.attrs.get_id(name)
    if attribute.shape not in ((), (1,)) or attribute.dtype.itemsize > _MAX_TEXT:
        raise SnapshotError(
            f"{path}: attribute {name} of {group.name} has the shape {attribute.shape} and type "
            f"{attribute.dtype}, expected a short text; the file is damaged: copy it again"
        )
    value = np.ravel(group.attrs[name]).tolist()[0]
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _check_kind(header: h5py.Group, path: Path) -> str:
    output = _text(header, "OutputType", path)
    if output and output not in _WHOLE_BOX:
        raise SnapshotError(
            f"{path}: its OutputType is {output!r}, expected {' or '.join(_WHOLE_BOX)}; "
            "give a snapshot of the whole box"
        )
    dimension = number(header, "Dimension", path)
    if dimension not in (None, 3.0):
        raise SnapshotError(f"{path}: its Dimension is {dimension:g}, expected a run in 3 of them")
    return output


def _part_header(
    header: h5py.Group, cosmology: h5py.Group, units: h5py.Group, path: Path
) -> PartHeader:
    counts = _words(header, "NumPart_ThisFile", path)
    n_files = number(header, "NumFilesPerSnapshot", path)
    if n_files is not None and (n_files < 1 or not n_files.is_integer()):
        raise SnapshotError(
            f"{path}: NumFilesPerSnapshot is {n_files:g}, expected a whole number of at least 1; "
            "the header is damaged: copy it again"
        )
    totals, low_words_only = _totals(header, len(counts), path)
    return PartHeader(
        path=path,
        counts=counts,
        totals=totals,
        low_words_only=low_words_only,
        n_files=int(n_files or 1),
        mass_table=(0.0,) * len(counts),
        box_size=_box_side(header, path),
        redshift=_redshift(header, cosmology, path),
        time=number(header, "Scale-factor", path),
        Omega_m=_omega_m(cosmology, path),
        h=number(cosmology, "h", path),
        unit_cm=_unit(units, _UNIT_LENGTH, path),
        unit_per_h=False,
    )


def _words(header: h5py.Group, name: str, path: Path) -> tuple[int, ...]:
    values = numbers(header, name, path)
    if values is None or values.dtype.kind not in "iu" or not 1 <= values.size <= _MAX_TYPES:
        raise SnapshotError(
            f"{path}: {name} is {None if values is None else values.tolist()}, expected 1 to "
            f"{_MAX_TYPES} whole numbers; the header is damaged: copy it again"
        )
    if (values < 0).any():
        raise SnapshotError(
            f"{path}: {name} is {values.tolist()}, expected no negative numbers; "
            "the header is damaged: copy it again"
        )
    return tuple(values.tolist())


def _totals(header: h5py.Group, n_types: int, path: Path) -> tuple[tuple[int, ...], bool]:
    """Totals, and whether only their low words are certain."""
    low = _words(header, "NumPart_Total", path)
    if len(low) != n_types:
        raise SnapshotError(
            f"{path}: NumPart_Total has {len(low)} types, expected {n_types} as in "
            "NumPart_ThisFile; the header is damaged: copy it again"
        )
    if header.attrs.get_id("NumPart_Total").dtype.itemsize > 4:
        return low, False
    name = next((name for name in _HIGH_WORDS if name in header.attrs), None)
    high = _words(header, name, path) if name else ()
    padded = (*high, *(0,) * n_types)[:n_types]
    return with_high_words(low, padded), True


def _box_side(header: h5py.Group, path: Path) -> float:
    sides = numbers(header, "BoxSize", path)
    if sides is None or sides.size not in (1, 3) or any(side != sides[0] for side in sides):
        raise SnapshotError(
            f"{path}: BoxSize is {None if sides is None else sides.tolist()}, expected three equal "
            "sides; only cubic boxes can be deposited: cut the box or give another snapshot"
        )
    return float(sides[0])


def _redshift(header: h5py.Group, cosmology: h5py.Group, path: Path) -> float | None:
    found = number(header, "Redshift", path)
    return number(cosmology, "Redshift", path) if found is None else found


def _omega_m(cosmology: h5py.Group, path: Path) -> float | None:
    """All matter today: SWIFT's own Omega_m lacks the massive neutrinos."""
    found = number(cosmology, "Omega_m", path)
    return None if found is None else found + (number(cosmology, "Omega_nu_0", path) or 0.0)


def _unit(units: h5py.Group, name: str, path: Path) -> float:
    value = number(units, name, path)
    if value is None or not (np.isfinite(value) and value > 0):
        raise SnapshotError(
            f"{path}: {name} is {value}, expected a positive number; the file is damaged"
        )
    return value


def _mass_unit(units: h5py.Group, path: Path) -> float:
    unit = _unit(units, _UNIT_MASS, path) / (1e10 * _SOLAR_MASS_IN_G)
    return 1.0 if abs(unit - 1) <= _SAME_MASS else unit
