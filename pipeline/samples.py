"""Reading samples back from shards: what a data set gives to those who look at it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from pipeline.errors import DatasetError
from pipeline.manifest import Manifest, Shard
from pipeline.subvolume import join_subvolumes
from pipeline.write.store import Store
from pipeline.write.stores import Place, open_store
from pipeline.write.tfrecord import decode_example, most_bytes, read_records

ZARR_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)
"""What Zarr raises for metadata and chunks that are none."""


@dataclass(frozen=True)
class StoredSample:
    """One sample as it is stored.

    Attributes
    ----------
    cells : numpy.ndarray
        ``(x, y, z, channel)``, particles a cell.
    targets : numpy.ndarray or None
        ``(n_targets,)`` float32, scaled, where the shard itself holds them (TFRecord).
    """

    cells: np.ndarray
    targets: np.ndarray | None = None


def shard_samples(dataset: Place, manifest: Manifest, shard: Shard) -> Iterator[StoredSample]:
    """All samples of a shard in order.

    Raises
    ------
    DatasetError
        If the shard cannot be decoded or holds another number of samples;
        names the shard and the sample.
    """
    store = open_store(dataset)
    if manifest.layout.format == "zarr":
        return _from_zarr(store, manifest, shard)
    return _from_tfrecord(store, manifest, shard)


def universe_cube(dataset: Place, manifest: Manifest, universe: str) -> np.ndarray:
    """Whole cube ``(n_grid, n_grid, n_grid, channels)`` of a universe, put together again.

    Raises
    ------
    DatasetError
        If there is no such universe, or a shard of it cannot be read.
    """
    split_name, split = next(
        ((n, s) for n, s in manifest.splits.items() if universe in s.universes), (None, None)
    )
    if split_name is None or split is None:
        raise DatasetError(f"{dataset}: there is no universe {universe!r}")
    first = split.universes.index(universe) * split.samples_per_universe
    wanted = range(first, first + manifest.layout.subvolumes**3)
    found = [
        sample.cells
        for shard in manifest.shards_of(split_name)
        if shard.first_sample < wanted.stop and wanted.start < shard.first_sample + shard.samples
        for number, sample in enumerate(shard_samples(dataset, manifest, shard), shard.first_sample)
        if number in wanted
    ]
    return join_subvolumes(np.stack(found))


def zarr_source(dataset: Store, path: str, files: Sequence[str]) -> dict[str, Any]:
    """Arguments ``store`` and ``path`` for Zarr to open what is at ``path``.

    Parameters
    ----------
    dataset : Store
    path : str
        Of an array or group.
    files : sequence of str
        All that will be read of it.  Of a remote place they are read at once, one
        request each, where Zarr would make one or two for every chunk.
    """
    if dataset.local is not None:
        return {"store": dataset.local / path}
    raw = zip(files, dataset.read_all(files), strict=True)
    stored: dict[str, Any] = {name: Buffer.from_bytes(content) for name, content in raw}
    return {"store": MemoryStore(stored), "path": path}


def _from_zarr(dataset: Store, manifest: Manifest, shard: Shard) -> Iterator[StoredSample]:
    part = manifest.part_of(shard)
    path = f"{part.place(shard.split, 'zarr')}/density"
    if dataset.size(shard.path) is None:
        # zarr would read it as empty space
        raise DatasetError(f"{shard.path}: missing, expected {shard.bytes} bytes")
    try:
        files = (f"{path}/zarr.json", shard.path)
        array = zarr.open_array(**zarr_source(dataset, path, files), mode="r")
    except ZARR_ERRORS as error:
        raise DatasetError(f"{path}: no readable Zarr array ({error})") from error
    layout = manifest.layout
    shape = (part.samples[shard.split], *layout.sample_shape)
    if array.shape != shape or array.dtype.name != layout.dtype:
        raise DatasetError(f"{path}: {array.shape} {array.dtype}, expected {shape} {layout.dtype}")
    for number in range(shard.first_sample, shard.first_sample + shard.samples):
        try:
            yield StoredSample(np.asarray(array[number - part.first_sample[shard.split]]))
        except ZARR_ERRORS as error:
            raise DatasetError(
                f"{shard.path}: sample {number} cannot be decoded: {error}"
            ) from error


def _from_tfrecord(dataset: Store, manifest: Manifest, shard: Shard) -> Iterator[StoredSample]:
    layout = manifest.layout
    try:
        raw = dataset.read(shard.path)
    except OSError as error:
        raise DatasetError(f"{shard.path}: cannot be read: {error.strerror}") from error
    n_cells = math.prod(layout.sample_shape)
    most = most_bytes(shard.samples, n_cells * np.dtype(layout.dtype).itemsize)
    records = list(read_records(raw, layout.compression == "gzip", shard.path, most))
    if len(records) != shard.samples:
        raise DatasetError(f"{shard.path}: {len(records)} records, expected {shard.samples}")
    for number, record in enumerate(records):
        x, y = decode_example(record, layout.dtype, shard.path)
        if x.size != n_cells:
            raise DatasetError(
                f"{shard.path}: record {number} has {x.size} cells, expected {n_cells}"
            )
        yield StoredSample(x.reshape(layout.sample_shape), y)
