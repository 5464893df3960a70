"""Zarr v3 splits: one group a split, one chunk a sample, one file a shard.

A shard is encoded in memory by zarr itself and written as one file, so that a
kill never leaves part of one.  Every chunk carries a CRC32C, every sample is
stored even where it is all zeros: a missing one is never read as empty space.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

DIMENSIONS = ("sample", "x", "y", "z", "channel")

_CODECS: dict[str, tuple[BytesBytesCodec, ...]] = {
    "fast": (BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),),
    "small": (BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),),
    "none": (),
}

CODEC_LABELS = {
    "fast": "blosc-lz4-bitshuffle+crc32c",
    "small": "blosc-zstd3-bitshuffle+crc32c",
    "none": "crc32c",
}


@dataclass(frozen=True)
class SampleTable:
    """The small arrays of a split, one row a sample.

    Attributes
    ----------
    names : list of str
        Of the targets.
    targets : numpy.ndarray
        ``(samples, n_targets)`` float32, scaled to [-1, 1].
    parameters : numpy.ndarray
        ``(samples, n_targets)`` float64, physical.
    universe : list of str
    subvolume : numpy.ndarray
        ``(samples, 3)`` int32.
    variant : numpy.ndarray
        ``(samples,)`` int32.
    """

    names: list[str]
    targets: np.ndarray
    parameters: np.ndarray
    universe: list[str]
    subvolume: np.ndarray
    variant: np.ndarray


def codec_name(codec: str) -> str:
    """``auto`` resolved."""
    return "fast" if codec == "auto" else codec


@dataclass(frozen=True)
class DensityArray:
    """How the density of a split is stored.

    Attributes
    ----------
    shape : tuple of int
        ``(samples, x, y, z, channel)`` of the whole split.
    dtype : str
    samples_per_shard : int
    codec : str
        ``fast``, ``small`` or ``none``.
    units : str
        Of the cells.
    """

    shape: tuple[int, ...]
    dtype: str
    samples_per_shard: int
    codec: str
    units: str = "particles per cell"

    def create(self, group: zarr.Group) -> zarr.Array[Any]:
        """Make the array in ``group``; writes its metadata only."""
        return group.create_array(
            "density",
            shape=self.shape,
            dtype=self.dtype,
            chunks=(1, *self.shape[1:]),
            shards=(self.samples_per_shard, *self.shape[1:]),
            compressors=[*_CODECS[self.codec], Crc32cCodec()],
            filters=None,
            fill_value=0,
            dimension_names=DIMENSIONS,
            config={"write_empty_chunks": True},
        )


def encode_shard(samples: np.ndarray, samples_per_shard: int, codec: str) -> bytes:
    """Bytes of one shard file.

    Parameters
    ----------
    samples : numpy.ndarray
        ``(n, x, y, z, channel)`` with ``n <= samples_per_shard`` (the last shard of a split
        may be short).
    samples_per_shard : int
    codec : str
        ``fast``, ``small`` or ``none``.
    """
    stored: dict[str, Any] = {}
    density = DensityArray(samples.shape, samples.dtype.name, samples_per_shard, codec)
    density.create(zarr.group(MemoryStore(stored)))[...] = samples
    encoded: bytes = stored["density/c/0/0/0/0/0"].to_bytes()
    return encoded


def encode_group(
    density: DensityArray, table: SampleTable, redshifts: list[float], attributes: dict[str, Any]
) -> dict[str, bytes]:
    """All files of a split but the density shards: metadata and small arrays.

    Parameters
    ----------
    density : DensityArray
        Of the whole split.
    table : SampleTable
        One row a sample.
    redshifts : list of float
        Coordinate of the dimension ``channel``.
    attributes : dict
        Of the group.

    Returns
    -------
    dict
        Key in the group, e.g. ``target/zarr.json``, to bytes.
    """
    stored: dict[str, Any] = {}
    group = zarr.group(MemoryStore(stored), attributes=attributes)
    density.create(group).attrs["units"] = density.units
    _small(group, "target", table.targets, ("sample", "parameter"))
    _small(group, "parameters", table.parameters, ("sample", "parameter"))
    _small(group, "subvolume", table.subvolume, ("sample", "axis"))
    _small(group, "variant", table.variant, ("sample",))
    _small(group, "universe", np.array(table.universe, dtype=object), ("sample",))
    _small(group, "parameter", np.array(table.names, dtype=object), ("parameter",))
    _small(group, "channel", np.array(redshifts, dtype=np.float64), ("channel",))
    group["channel"].attrs["long_name"] = "redshift"
    _consolidate(group)
    return {key: value.to_bytes() for key, value in stored.items()}


def _consolidate(group: zarr.Group) -> None:
    with warnings.catch_warnings():
        # consolidated metadata is an addition to Zarr v3 that its readers may ignore
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(group.store)


def _small(group: zarr.Group, name: str, values: np.ndarray, dimensions: tuple[str, ...]) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype="str" if values.dtype == object else values.dtype,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        dimension_names=dimensions,
        config={"write_empty_chunks": True},
    )
    array[...] = values
