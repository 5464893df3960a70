"""Writing one shard in the recipe's format, digested and atomic."""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline.config import Recipe
from pipeline.manifest import File, Shard
from pipeline.plan import ShardPlan
from pipeline.write import tfrecord, zarr
from pipeline.write.store import Store


def compression_label(recipe: Recipe) -> str:
    """What ``layout.compression`` of the manifest says."""
    if recipe.output.format == "zarr":
        return zarr.CODEC_LABELS[zarr.codec_name(recipe.output.codec)]
    return "gzip" if recipe.output.codec == "gzip" else "none"


def digest(data: bytes) -> str:
    """``sha256:...`` of some bytes, as ``sha256sum`` prints it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_file(output: Store, path: str, data: bytes) -> File:
    """Write one file of the data set and describe it for the manifest."""
    output.write(path, data)
    return File(path=path, bytes=len(data), digest=digest(data))


def write_shard(
    recipe: Recipe, output: Store, shard: ShardPlan, samples: np.ndarray, targets: np.ndarray
) -> Shard:
    """Encode and write one whole shard.

    Parameters
    ----------
    recipe : Recipe
    output : Store
        Place of the data set.
    shard : ShardPlan
    samples : numpy.ndarray
        ``(shard.samples, x, y, z, channel)``.
    targets : numpy.ndarray
        ``(shard.samples, n_targets)`` float32, scaled.
    """
    index = None
    if recipe.output.format == "zarr":
        codec = zarr.codec_name(recipe.output.codec)
        data = zarr.encode_shard(samples, recipe.output.samples_per_shard, codec)
    else:
        encoded = tfrecord.encode_records(samples, targets, recipe.output.codec == "gzip")
        data = encoded.data
        index_path = shard.path.removesuffix(".tfrecord") + ".idx"
        index = write_file(output, index_path, encoded.index)
    file = write_file(output, shard.path, data)
    return Shard(
        **file.model_dump(),
        split=shard.split,
        first_sample=shard.first_sample,
        samples=shard.samples,
        index=index,
    )
