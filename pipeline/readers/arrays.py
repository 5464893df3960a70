"""Plain arrays of positions that the recipe declares: npy, npz, HDF5 and Zarr.

``input.positions`` names one array ``(n, 3)``, or three of x, y and z; the
recipe also gives the box, the unit and the redshift, which no array records.
Never recognised by itself: numbers in a file could mean anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.declared import declared_box, declared_scale
from pipeline.readers.hdf5_array import Hdf5Array, hdf5_names
from pipeline.readers.npy_array import NPY_MAGIC, ZIP_MAGIC, NpyArray, npz_members
from pipeline.readers.raw_file import native
from pipeline.readers.reach import check_reach
from pipeline.readers.redshift_name import named_redshift
from pipeline.readers.registry import register
from pipeline.readers.scaled import scaled
from pipeline.readers.stored_array import StoredArray
from pipeline.readers.zarr_array import ZarrArray, is_array, zarr_files, zarr_names, zarr_root
from pipeline.readers.zarr_layout import METADATA
from pipeline.snapshot import DEFAULT_CHUNK_PARTICLES, ReadOptions, Snapshot, SnapshotHeader

_USUAL_NAMES = ("px", "py", "pz")
"""As pycola and the first CosmoFlow data sets have them."""

_NAMES_SHOWN = 20


class ArraysSnapshot(Snapshot):
    """An opened snapshot of plain arrays."""

    def __init__(
        self,
        header: SnapshotHeader,
        positions: Sequence[StoredArray],
        masses: StoredArray | None,
        factor: float,
    ) -> None:
        super().__init__(header)
        self._positions = tuple(positions)
        self._masses = masses
        self._factor = factor

    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Positions in the order of the arrays; see :meth:`Snapshot.iter_positions`."""
        for positions, _ in self._pairs(self._positions, chunk_particles):
            yield positions

    def iter_weighted(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and masses; see :meth:`Snapshot.iter_weighted`."""
        if self._masses is None:
            raise SnapshotError(
                f"{self.header.name}: the recipe names no array of masses; give input.masses, or "
                "count particles"
            )
        for positions, rest in self._pairs((*self._positions, self._masses), chunk_particles):
            yield positions, rest[0].astype(np.float64)

    def _pairs(
        self, arrays: Sequence[StoredArray], chunk_particles: int
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Positions in Mpc/h, and the pieces of the further arrays."""
        if chunk_particles < 1:
            raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")
        rows = _aligned(arrays, chunk_particles)
        n = len(self._positions)
        buffer = np.empty((0, 3))
        for pieces in _together([array.pieces(rows) for array in arrays]):
            if n == 1:
                positions = native(pieces[0])
            else:
                if len(buffer) < len(pieces[0]):
                    buffer = np.empty((len(pieces[0]), 3), arrays[0].dtype.newbyteorder("="))
                positions = buffer[: len(pieces[0])]
                for k in range(n):
                    positions[:, k] = pieces[k]
            yield from ((chunk, pieces[n:]) for chunk in scaled([positions], self._factor))


class ArraysReader:
    """Reader of plain arrays."""

    name = "arrays"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` is of a kind that may hold arrays."""
        try:
            return _kind(path) is not None
        except OSError:
            return False

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The file itself, or all files of the Zarr folder that it is in."""
        return zarr_files(zarr_root(path)) if path.name in METADATA else (path,)

    def open(self, files: Sequence[Path], options: ReadOptions) -> ArraysSnapshot:
        """Check the arrays that the recipe names and open them."""
        place = _place(files)
        box_size = declared_box(place, options, "arrays of positions have none")
        if options.length_unit is None:
            raise SnapshotError(
                f"{place}: arrays have no unit, expected input.length_unit (kpc/h, Mpc/h, kpc, Mpc "
                "or box) in the recipe"
            )
        scale = declared_scale(place, options, options.length_unit)
        positions = [_open(place, name) for name in _position_names(place, options)]
        masses = None if options.masses is None else _open(place, options.masses)
        _check_shapes(positions, masses)
        header = SnapshotHeader(
            files=tuple(files),
            format=self.name,
            box_size=box_size,
            redshift=named_redshift(place, options),
            n_particles=positions[0].rows,
            length_unit=scale.name,
            Omega_m=options.Omega_m,
            h=options.h,
        )
        snapshot = ArraysSnapshot(header, positions, masses, scale.in_mpc_h)
        check_reach(snapshot, options)
        return snapshot


register(ArraysReader(), by_name_only=True)


def _kind(path: Path) -> type[StoredArray] | str | None:
    """What reads ``path``: ``npz`` or a class of arrays; None if nothing does."""
    if path.is_dir() or path.name in METADATA:
        return ZarrArray
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(NPY_MAGIC):
        return NpyArray
    if head.startswith(ZIP_MAGIC):
        return "npz"
    return Hdf5Array if h5py.is_hdf5(path) else None


def _place(files: Sequence[Path]) -> Path:
    """The one file, or the Zarr folder whose files these are."""
    if files[0].name not in METADATA:
        if len(files) > 1:
            raise SnapshotError(f"{files[0]}: given with {len(files) - 1} more, expected one file")
        return files[0]
    root = zarr_root(files[0])
    if set(zarr_files(root)) != set(files):
        raise SnapshotError(
            f"{root}: has other files than the {len(files)} that were given, expected all files of "
            "one Zarr folder; it was changed while the build ran: start it again"
        )
    return root


def _position_names(place: Path, options: ReadOptions) -> tuple[str, ...]:
    """Names of the one or three arrays of positions; an empty one is all there is."""
    if isinstance(options.positions, str):
        return (options.positions,)
    if options.positions is not None:
        return options.positions
    kind, there = _checked_kind(place), []
    if kind is NpyArray or (kind is ZarrArray and is_array(place)):
        return ("",)
    if kind == "npz":
        there = sorted(npz_members(place))
        if set(_USUAL_NAMES) <= set(there):
            return _USUAL_NAMES
        if len(there) == 1:
            return (there[0],)
    if kind is Hdf5Array:
        there = hdf5_names(place)
    if kind is ZarrArray:
        there = zarr_names(place)
    listed = f" (has {', '.join(there[:_NAMES_SHOWN])})" if there else ""
    raise SnapshotError(
        f"{place}: which of its arrays are positions is not said{listed}; give input.positions in "
        "the recipe: the name of an array (n, 3), or [x, y, z]"
    )


def _checked_kind(place: Path) -> type[StoredArray] | str:
    try:
        kind = _kind(place)
    except OSError as error:
        raise SnapshotError(f"{place}: cannot be read ({error.strerror or error})") from error
    if kind is None:
        raise SnapshotError(f"{place}: expected npy, npz, HDF5 or Zarr; choose input.snapshots")
    return kind


def _open(place: Path, name: str) -> StoredArray:
    kind = _checked_kind(place)
    if kind is ZarrArray:
        return ZarrArray(place, name)
    if kind is Hdf5Array:
        return Hdf5Array(place, name)
    if kind is NpyArray:
        if name:
            raise SnapshotError(
                f"{place}: an npy file is one array without a name, so {name!r} is not in it; "
                "remove input.positions and input.masses, or save an npz"
            )
        return NpyArray(place)
    members = npz_members(place)
    if name not in members:
        raise SnapshotError(
            f"{place}: has no array {name!r}, only {', '.join(sorted(members)[:_NAMES_SHOWN])}; "
            "correct input.positions or input.masses in the recipe"
        )
    return NpyArray(place, members[name])


def _check_shapes(positions: Sequence[StoredArray], masses: StoredArray | None) -> None:
    """One array of three columns, or three of one shape; a mass for each particle."""
    first = positions[0]
    if len(positions) == 1 and not first.is_vector:
        raise SnapshotError(f"{first}: has the shape {first.shape}, expected (n, 3) for positions")
    for array in positions if len(positions) > 1 else ():
        if array.is_vector or (array.shape, array.dtype) != (first.shape, first.dtype):
            raise SnapshotError(
                f"{array}: has the shape {array.shape} of {array.dtype}, expected one coordinate "
                f"of each particle, like {first.name}: {first.shape} of {first.dtype}"
            )
    if masses is not None and (masses.is_vector or masses.rows != first.rows):
        raise SnapshotError(
            f"{masses}: has the shape {masses.shape}, expected one mass for each of the "
            f"{first.rows} particles"
        )


def _aligned(arrays: Sequence[StoredArray], chunk_particles: int) -> int:
    """At most ``chunk_particles``, in whole stored chunks so that few are decoded twice."""
    stored = max(array.piece_rows for array in arrays)
    return chunk_particles if stored > chunk_particles else chunk_particles // stored * stored


def _together(streams: Sequence[Iterator[np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """Pieces of several streams side by side, each decoded in a thread of its own."""
    if len(streams) == 1:
        yield from ([piece] for piece in streams[0])
        return
    with ThreadPoolExecutor(len(streams)) as pool:
        while True:
            pieces = [*pool.map(lambda stream: next(stream, None), streams)]
            found = [piece for piece in pieces if piece is not None]
            if len(found) < len(streams):  # of one length, so all end together
                return
            yield found
