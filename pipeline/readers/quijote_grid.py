"""Density fields of the Quijote simulations: ``df_m_N_SCHEME_z=Z.npy``.

Three-dimensional fields of the folders ``3D_cubes`` (Quijote's documentation,
"Density fields"): NumPy arrays (N, N, N) of floats, x slowest; the name has
the cells a side, the mass assignment scheme (not in old names) and the
redshift.  They hold the overdensity; files with density / mean are told by
their mean and read as well.  Boxes of the suite are 1000 Mpc/h, which no file
says: ``input.box_size`` is needed.

The NumPy format is that of NEP 1; arrays of objects, which would be pickles,
are refused by their type before anything is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.raw_file import fill, raw_file
from pipeline.readers.ready import BLOCK_BYTES, check_matter, grid_header
from pipeline.readers.registry import register
from pipeline.snapshot import GridSnapshot, Place, ReadOptions, ReadyGrid, SnapshotHeader

_NAME = re.compile(
    r"df_m_(?P<n>\d{1,5})(?:_(?P<scheme>NGP|CIC|TSC|PCS))?_z=(?P<z>\d{1,4}(?:\.\d{1,9})?)\.npy"
)
_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '(?P<descr>[<>|=]?[a-zA-Z]\d*)', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[\d, ]{0,100})\), \}\s*"
)
_MAX_HEADER = 10_000


@dataclass(frozen=True)
class _Array:
    """Where and what the numbers of a file are."""

    start: int
    dtype: np.dtype
    fortran: bool
    shape: tuple[int, ...]


class QuijoteGridSnapshot(GridSnapshot):
    """An opened density field."""

    def __init__(self, header: SnapshotHeader, array: _Array) -> None:
        super().__init__(header)
        self._array = array

    def iter_blocks(self) -> Iterator[tuple[Place, np.ndarray]]:
        """Density in units of the mean: the overdensity and 1, read twice for its mean."""
        shift = self._shift()
        for first, planes in self._iter_planes():
            along, whole = slice(first, first + len(planes)), slice(0, self._array.shape[0])
            np.add(planes, shift, out=planes)
            if self._array.fortran:
                yield (whole, whole, along), planes.transpose(2, 1, 0)
            else:
                yield (along, whole, whole), planes

    def _shift(self) -> int:
        """What makes the numbers densities: 1 for overdensities, 0 for densities."""
        total, bad = 0.0, 0
        for _, planes in self._iter_planes():
            bad += int(np.count_nonzero(~np.isfinite(planes)))
            total += float(planes.sum(dtype=np.float64))
        n_cells = math.prod(self._array.shape)
        if bad:
            raise SnapshotError(
                f"{self.header.name}: {bad} of {n_cells} cells are NaN or infinite, expected none; "
                "the file is damaged: copy it again"
            )
        mean, grid = total / n_cells, self.header.grid
        for shift in (1, 0):
            if grid is not None and abs(mean + shift - 1) <= grid.mean_tolerance:
                return shift
        raise SnapshotError(
            f"{self.header.name}: the mean of its cells is {mean:.6g}, expected 0 for an "
            "overdensity or 1 for a density over its mean; it is of another quantity or damaged"
        )

    def _iter_planes(self) -> Iterator[tuple[int, np.ndarray]]:
        """Planes of the slowest axis as they are stored, native byte order."""
        n, item_bytes = self._array.shape[0], self._array.dtype.itemsize
        most = max(1, BLOCK_BYTES // (n * n * item_bytes))
        path = self.header.files[0]
        with raw_file(path) as stream:
            for first in range(0, n, most):
                planes = np.empty((min(most, n - first), n, n), self._array.dtype)
                stream.seek(self._array.start + first * n * n * item_bytes)
                fill(stream, planes, path)
                yield first, planes.astype(self._array.dtype.newbyteorder("="), copy=False)


class QuijoteGridReader:
    """Reader of Quijote's density fields."""

    name = "quijote_grid"

    def sniff(self, path: Path) -> bool:
        """Whether the name is one of Quijote's and the file a NumPy array."""
        if not _NAME.fullmatch(path.name):
            return False
        try:
            with path.open("rb") as stream:
                return stream.read(len(_MAGIC)) == _MAGIC
        except OSError:
            return False

    def parts(self, path: Path) -> tuple[Path, ...]:
        """A file is a whole snapshot."""
        return (path,)

    def open(self, files: Sequence[Path], options: ReadOptions) -> QuijoteGridSnapshot:
        """Check name, type, shape and size of the file and open it."""
        path = files[0]
        check_matter(path, options)
        name = _NAME.fullmatch(path.name)
        if name is None:
            raise SnapshotError(
                f"{path}: expected a name like df_m_128_CIC_z=0.npy, which tells the cells a side, "
                "the mass assignment and the redshift; rename it"
            )
        array = _read_header(path)
        if array.shape != (int(name["n"]),) * 3:
            raise SnapshotError(
                f"{path}: holds an array of the shape {array.shape}, expected "
                f"{(int(name['n']),) * 3} by its name; it is of another grid or damaged"
            )
        header = grid_header(
            path,
            self.name,
            ReadyGrid(int(name["n"]), "density", scheme=name["scheme"] and name["scheme"].lower()),
            options,
            box_size=None,
            redshift=float(name["z"]),
        )
        return QuijoteGridSnapshot(header, array)


register(QuijoteGridReader())


def _read_header(path: Path) -> _Array:
    """Header of a NumPy file, its numbers' type and place checked against the file's size."""
    with raw_file(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        start, text = _header_text(stream, path)
    match = _HEADER.fullmatch(text)
    if match is None:
        raise SnapshotError(
            f"{path}: its header is {text[:80]!r}, expected that of a plain NumPy array of floats; "
            "it is damaged or of another kind: save it again with numpy.save"
        )
    shape = tuple(int(n) for n in match["shape"].replace(" ", "").split(",") if n)
    array = _Array(start, _float_dtype(match["descr"], path), match["fortran"] == "True", shape)
    expected = start + math.prod(shape) * array.dtype.itemsize
    if size != expected:
        raise SnapshotError(
            f"{path}: has {size} bytes, expected {expected} by its header; it is truncated or "
            "damaged: copy it again"
        )
    return array


def _header_text(stream: FileIO, path: Path) -> tuple[int, str]:
    """Offset of the numbers, and the text of the header."""
    head = stream.read(12)
    words = 2 if head[6:7] == b"\x01" else 4
    length = int.from_bytes(head[8 : 8 + words], "little")
    if head[:6] != _MAGIC or head[6:7] not in (b"\x01", b"\x02", b"\x03") or length > _MAX_HEADER:
        raise SnapshotError(
            f"{path}: begins with the bytes {head.hex(' ')}, expected the header of a NumPy array; "
            "the file is damaged: copy it again"
        )
    start = 8 + words
    stream.seek(start)
    return start + length, stream.read(length).decode("latin-1")


def _float_dtype(descr: str, path: Path) -> np.dtype:
    if descr.lstrip("<>|=") not in ("f4", "f8"):
        what = "pickled objects" if descr.endswith("O") else f"numbers of type {descr}"
        raise SnapshotError(
            f"{path}: holds {what}, expected float32 or float64; such arrays are refused: save the "
            "field as floats"
        )
    return np.dtype(descr.lstrip("|="))
