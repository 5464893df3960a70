"""Reading an HDF5 file that is not trusted.

Only what lies in the file itself is read: no links to other files, no virtual
data sets, no external storage.  Attributes must be small, and a data set must
be stored in full: HDF5 would return zeros for what was never written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import SnapshotError

_MAX_ATTRIBUTE_ITEMS = 64
_CHUNK_BYTES = 64 << 20
"""A storage chunk is decoded as a whole, so its size bounds memory; larger ones only
in files that are themselves that large."""

_COMPRESSION = 4
"""Particle positions hardly compress; more than this is no snapshot."""


@contextmanager
def hdf5_file(path: Path) -> Iterator[h5py.File]:
    """``path`` opened for reading; HDF5's errors become SnapshotError."""
    with _naming(path), h5py.File(path, "r") as file:
        yield file


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise SnapshotError(
            f"{path}: cannot be read as HDF5 ({error}); expected a whole file: it is truncated, "
            "damaged or still being written; copy it again"
        ) from error


def child(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset | None:
    """Member ``name`` of ``group`` if it is stored in it, None if there is none.

    Raises
    ------
    SnapshotError
        If it is a link, which might lead out of the file.
    """
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
        target = f"{getattr(link, 'filename', '')}:{link.path}".lstrip(":")
        raise SnapshotError(
            f"{path}: {group.name.rstrip('/')}/{name} is {kind} to {target}, expected it in the "
            "file itself; links are refused: copy the data into one file (h5repack, h5copy)"
        )
    return group[name]


def subgroup(group: h5py.Group, name: str, path: Path) -> h5py.Group | None:
    """Like :func:`child`, for a member that has to be a group."""
    found = child(group, name, path)
    if found is not None and not isinstance(found, h5py.Group):
        raise SnapshotError(f"{path}: {found.name} is a data set, expected a group")
    return found


def numbers(owner: h5py.Group | h5py.Dataset, name: str, path: Path) -> np.ndarray | None:
    """Attribute ``name`` as a 1-D array of at most 64 numbers, or None if there is none."""
    if name not in owner.attrs:
        return None
    attribute = owner.attrs.get_id(name)
    size = math.prod(attribute.shape)
    if attribute.dtype.kind not in "iuf" or size > _MAX_ATTRIBUTE_ITEMS:
        raise SnapshotError(
            f"{path}: attribute {name} of {owner.name} is {size} values of type "
            f"{attribute.dtype}, expected a few numbers; the file is damaged: copy it again"
        )
    return np.atleast_1d(owner.attrs[name]).ravel()


def number(owner: h5py.Group | h5py.Dataset, name: str, path: Path) -> float | None:
    """Attribute ``name`` as one number, or None; several must be equal."""
    values = numbers(owner, name, path)
    if values is None or not values.size:
        return None
    if any(value != values[0] for value in values[1:]):
        raise SnapshotError(
            f"{path}: attribute {name} of {owner.name} is {values.tolist()}, expected one number "
            "(or equal ones)"
        )
    return float(values[0])


def float_dataset(
    group: h5py.Group, name: str, shape: tuple[int, ...], path: Path
) -> h5py.Dataset | None:
    """Data set ``name`` of float32 or float64 numbers, checked before it is read.

    Parameters
    ----------
    group : h5py.Group
        Where it is.
    name : str
        Its name.
    shape : tuple of int
        The shape that the header promises.
    path : Path
        The file, to show in errors.

    Returns
    -------
    h5py.Dataset or None
        None if there is none of that name.

    Raises
    ------
    SnapshotError
        If it has another shape or type, or is not stored in this file in full.
    """
    dset = child(group, name, path)
    if dset is None:
        return None
    _check_shape(dset, shape, path)
    if dset.dtype.kind != "f" or dset.dtype.itemsize not in (4, 8):
        raise SnapshotError(f"{path}: {dset.name} is {dset.dtype}, expected float32 or float64")
    _check_stored_here(dset, path)
    _check_stored_in_full(dset, path)
    return dset


def integer_dataset(
    group: h5py.Group, name: str, shape: tuple[int, ...], path: Path
) -> h5py.Dataset | None:
    """Like :func:`float_dataset`, for integers of any size."""
    dset = child(group, name, path)
    if dset is None:
        return None
    _check_shape(dset, shape, path)
    if dset.dtype.kind not in "iu":
        raise SnapshotError(f"{path}: {dset.name} is {dset.dtype}, expected integers")
    _check_stored_here(dset, path)
    _check_stored_in_full(dset, path)
    return dset


def _check_shape(dset: h5py.Group | h5py.Dataset, shape: tuple[int, ...], path: Path) -> None:
    if not isinstance(dset, h5py.Dataset):
        raise SnapshotError(f"{path}: {dset.name} is a group, expected a data set")
    if dset.shape != shape:
        raise SnapshotError(
            f"{path}: {dset.name} has the shape {dset.shape}, expected {shape} by the header; "
            "the file is damaged: copy it again"
        )


def _check_stored_here(dset: h5py.Dataset, path: Path) -> None:
    kind = "a virtual data set" if dset.is_virtual else "stored in other files"
    if dset.is_virtual or dset.external:
        raise SnapshotError(
            f"{path}: {dset.name} is {kind}, expected data in the file itself; this is refused: "
            "copy the data into one file (h5repack) or name the original files"
        )


def _check_stored_in_full(dset: h5py.Dataset, path: Path) -> None:
    n_bytes = math.prod(dset.shape) * dset.dtype.itemsize
    if dset.chunks is not None:
        _check_chunks(dset, dset.chunks, path)
    elif dset.id.get_storage_size() < n_bytes or path.stat().st_size < n_bytes:
        raise SnapshotError(
            f"{path}: {dset.name} holds {dset.id.get_storage_size()} bytes in a file of "
            f"{path.stat().st_size}, expected {n_bytes}; it was never written in full"
        )


def _check_chunks(dset: h5py.Dataset, chunks: tuple[int, ...], path: Path) -> None:
    chunk_bytes = math.prod(chunks) * dset.dtype.itemsize
    allowed = max(_CHUNK_BYTES, _COMPRESSION * path.stat().st_size)
    if chunk_bytes > allowed:
        raise SnapshotError(
            f"{path}: {dset.name} is stored in chunks of {chunk_bytes} bytes, expected at most "
            f"{allowed}; write it again in smaller chunks (h5repack)"
        )
    expected = math.prod(-(-n // chunk) for n, chunk in zip(dset.shape, chunks, strict=True))
    found = dset.id.get_num_chunks()
    if found < expected:
        raise SnapshotError(
            f"{path}: {dset.name} has {found} of its {expected} chunks; it was never written in "
            "full: copy or write it again"
        )
    _check_filters(dset, path)
    _check_chunk_sizes(dset, path)


def _check_chunk_sizes(dset: h5py.Dataset, path: Path) -> None:
    """Refuse chunks that are empty or outside of the file: HDF5's filters may crash on them."""
    filters = dset.id.get_create_plist()
    codes = [filters.get_filter(i)[0] for i in range(filters.get_nfilters())]
    least = 5 if h5py.h5z.FILTER_FLETCHER32 in codes else 1  # a checksum takes 4 bytes
    infos: list[Any] = []
    dset.id.chunk_iter(infos.append)
    size = path.stat().st_size
    for info in infos:
        end = (info.byte_offset or 0) + info.size
        if info.size < least or info.byte_offset is None or end > size:
            raise SnapshotError(
                f"{path}: {dset.name} has a chunk of {info.size} bytes that ends at byte {end} "
                f"of {size}; the file is truncated or damaged: copy it again"
            )


def _check_filters(dset: h5py.Dataset, path: Path) -> None:
    filters = dset.id.get_create_plist()
    for i in range(filters.get_nfilters()):
        code, _, _, name = filters.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            raise SnapshotError(
                f"{path}: {dset.name} is compressed with filter {code} "
                f"({name.decode(errors='replace')}), which is not installed; "
                "pip install hdf5plugin, or decompress it with h5repack"
            )
