"""HACC's GenericIO snapshots: both byte orders, split over files, blosc-compressed or not.

HACC writes positions in comoving Mpc/h.  The number at the end of a name such
as ``m000.full.mpicosmo.50`` is a time step; no file records a redshift.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.declared import box_of_file_or_recipe, declared_scale
from pipeline.readers.genericio_header import (
    COORDINATE_FLAGS,
    MAGIC,
    GenericHeader,
    read_header,
)
from pipeline.readers.multifile import PartedSnapshot
from pipeline.readers.raw_file import raw_file
from pipeline.readers.reach import check_reach
from pipeline.readers.redshift_name import named_redshift
from pipeline.readers.registry import register
from pipeline.readers.scaled import scaled
from pipeline.snapshot import (
    DARK_MATTER,
    DEFAULT_CHUNK_PARTICLES,
    ReadOptions,
    SnapshotHeader,
)

_PARTITION = "$partition"
_PARTITION_NAME = re.compile(r"(?P<base>.+)#(?P<number>\d{1,9})")
_SAME_SIDE = 1e-6
_BOX_RANGE = (1e-6, 1e6)


class GenericIOSnapshot(PartedSnapshot):
    """An opened GenericIO snapshot."""

    def __init__(
        self, header: SnapshotHeader, parts: Sequence[GenericHeader], factor: float
    ) -> None:
        super().__init__(header)
        self._parts = tuple(parts)
        self._factor = factor

    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Positions, rank by rank; see :meth:`Snapshot.iter_positions`.

        The CRC-64 of a rank's coordinates is compared when its last chunk has been read.
        """
        if chunk_particles < 1:
            raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")
        for part in self._parts:
            yield from scaled(_iter_part(part, chunk_particles), self._factor)


class GenericIOReader:
    """Reader of HACC's GenericIO."""

    name = "genericio"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` begins with HACC01L or HACC01B."""
        try:
            with path.open("rb") as stream:
                return stream.read(8) in MAGIC
        except OSError:
            return False

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The file itself, or the map ``name`` of a split snapshot and its ``name#N``."""
        match = _PARTITION_NAME.fullmatch(path.name)
        base = path.with_name(match["base"]) if match else path
        if match and not base.is_file():
            raise SnapshotError(
                f"{path}: one part of a split snapshot, expected beside it {base.name}, which "
                "lists the parts; copy that too"
            )
        header = read_header(base)
        if not _is_map(header):
            if match:
                raise SnapshotError(f"{base}: expected the list of parts that {path.name} is in")
            return (path,)
        parts = [base.with_name(f"{base.name}#{n}") for n in sorted(set(_partitions(header)))]
        missing = [part.name for part in parts if not part.is_file()]
        if missing:
            raise SnapshotError(
                f"{base}: lists {len(parts)} parts, found {len(parts) - len(missing)}: "
                f"{', '.join(missing[:5])}{', ...' if missing[5:] else ''} missing; copy them"
            )
        return (base, *parts)

    def open(self, files: Sequence[Path], options: ReadOptions) -> GenericIOSnapshot:
        """Check the headers of ``files`` and open the snapshot."""
        headers = [read_header(path) for path in files]
        parts = [header for header in headers if not _is_map(header)]
        _check_complete(headers, parts)
        for part in parts:
            _check_blocks(part)
        first = parts[0]
        scale = declared_scale(first.path, options, "Mpc/h")
        box_size = box_of_file_or_recipe(first.path, _side(first) * scale.in_mpc_h, options)
        n_particles = sum(part.n_particles for part in parts)
        header = SnapshotHeader(
            files=tuple(files),
            format=self.name,
            box_size=box_size,
            redshift=named_redshift(files[0], options),
            n_particles=n_particles if DARK_MATTER in options.particle_types else 0,
            length_unit=scale.name,
            Omega_m=options.Omega_m,
            h=options.h,
        )
        snapshot = GenericIOSnapshot(header, parts, scale.in_mpc_h)
        check_reach(snapshot, replace(options, box_size=box_size))
        return snapshot


register(GenericIOReader())


def _is_map(header: GenericHeader) -> bool:
    return any(variable.name == _PARTITION for variable in header.variables)


def _partitions(header: GenericHeader) -> list[int]:
    """Number of the part that holds each rank, as the map of a split snapshot has it."""
    index = [variable.name for variable in header.variables].index(_PARTITION)
    if header.variables[index].dtype(header.byte_order).kind != "i":
        raise SnapshotError(
            f"{header.path}: {_PARTITION} is {header.variables[index]}, expected whole numbers; "
            "the file is damaged: copy it again"
        )
    from pipeline.readers.genericio_block import block_pieces, check_block  # noqa: PLC0415

    found: list[int] = []
    with raw_file(header.path) as stream:
        for rank in range(len(header.counts)):
            block = header.block(rank, index)
            check_block(block, header.path)
            for piece in block_pieces(stream, block, 1 << 20, header.path):
                found += piece.tolist()
    return found


def _check_complete(headers: Sequence[GenericHeader], parts: Sequence[GenericHeader]) -> None:
    """Refuse parts that are not exactly those of one snapshot."""
    maps = [header for header in headers if _is_map(header)]
    if not parts or len(maps) > 1 or (len(parts) > 1 and not maps):
        raise SnapshotError(
            f"{headers[0].path}: {len(parts)} files of particles and {len(maps)} lists of parts, "
            "expected one file, or all parts NAME#N of one snapshot and their list NAME"
        )
    first = parts[0]
    for part in parts[1:]:
        if (part.scale, part.origin) != (first.scale, first.origin):
            raise SnapshotError(
                f"{part.path}: its box is {part.scale} from {part.origin}, expected {first.scale} "
                f"from {first.origin} as in {first.path.name}; parts of several snapshots are mixed"
            )
    if not maps:
        return
    listed = _partitions(maps[0])
    base = maps[0].path.name
    found = {part.path.name: len(part.counts) for part in parts}
    expected = {f"{base}#{n}": listed.count(n) for n in set(listed)}
    if found != expected:
        wrong = sorted({*found.items()} ^ {*expected.items()})[0][0]
        raise SnapshotError(
            f"{maps[0].path}: lists {expected.get(wrong, 0)} ranks in {wrong}, found "
            f"{found.get(wrong, 0)}; parts are missing or of another snapshot: copy them again"
        )


def _side(header: GenericHeader) -> float:
    """Side of the box in the file's unit; 0 if the header does not record it."""
    x, y, z = header.scale
    if not all(abs(corner) <= _BOX_RANGE[1] for corner in header.origin):
        raise SnapshotError(
            f"{header.path}: its box begins at {header.origin}, expected a plausible place; the "
            "header is damaged"
        )
    if (x, y, z) == (0.0, 0.0, 0.0):
        return 0.0
    if not _BOX_RANGE[0] <= x <= _BOX_RANGE[1]:
        raise SnapshotError(
            f"{header.path}: its box is {header.scale}, expected a plausible length; the header is "
            "damaged, or no simulation wrote it"
        )
    if max(abs(y / x - 1), abs(z / x - 1)) > _SAME_SIDE:
        raise SnapshotError(f"{header.path}: its box is {header.scale}, expected a cube")
    return x


def _coordinates(header: GenericHeader) -> list[int]:
    """Which variables are x, y and z: so flagged, else so named."""
    found = []
    for flag, name in zip(COORDINATE_FLAGS, "xyz", strict=True):
        flagged = [i for i, v in enumerate(header.variables) if v.flags & flag]
        named = [i for i, v in enumerate(header.variables) if v.name == name]
        candidates = flagged if len(flagged) == 1 else named
        if len(candidates) != 1 or not header.variables[candidates[0]].is_float:
            there = ", ".join(variable.name for variable in header.variables[:20])
            raise SnapshotError(
                f"{header.path}: has the variables {there}, expected one float variable flagged "
                f"as the coordinate {name} or of that name; it is no snapshot of particles"
            )
        found += candidates
    chosen = [header.variables[i] for i in found]
    if any(variable.may_be_ghost for variable in chosen):
        raise SnapshotError(
            f"{header.path}: ranks may hold copies of their neighbours' particles, which would be "
            "counted twice; write the particles without ghosts"
        )
    if len({variable.size for variable in chosen}) > 1:
        raise SnapshotError(f"{header.path}: x, y and z differ in type, expected one float type")
    return found


def _check_blocks(header: GenericHeader) -> None:
    """The blocks of all coordinates have the sizes that their numbers need."""
    from pipeline.readers.genericio_block import check_block  # noqa: PLC0415  (compiles a kernel)

    for column in _coordinates(header):
        for rank in range(len(header.counts)):
            check_block(header.block(rank, column), header.path)


def _iter_part(header: GenericHeader, chunk_particles: int) -> Iterator[np.ndarray]:
    """Positions of one file in its unit, rank by rank, native byte order."""
    from pipeline.readers.genericio_block import block_pieces  # noqa: PLC0415  (compiles a kernel)

    columns = _coordinates(header)
    dtype = header.variables[columns[0]].dtype("=")
    origin = np.array(header.origin, dtype)
    rows = max(1, min(chunk_particles, max(header.counts)))
    buffer = np.empty((rows, 3), dtype)
    with raw_file(header.path) as stream:
        for rank in range(len(header.counts)):
            pieces = [
                block_pieces(stream, header.block(rank, i), rows, header.path) for i in columns
            ]
            for xyz in zip(*pieces, strict=True):
                positions = buffer[: len(xyz[0])]
                for k, piece in enumerate(xyz):
                    positions[:, k] = piece
                if origin.any():
                    positions -= origin
                yield positions
