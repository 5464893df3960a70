"""Small synthetic data sets, written apart from the product's own writers.

The cubes are Poisson counts of a log-normal field; the scatter of channel 0
follows Omega_m, that of channel 1 sigma_8, so that a network learns both fast.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import zarr

from pipeline import manifest as manifests
from pipeline.manifest import File, Layout, Manifest, Shard, Split, Universe

RANGES = {"Omega_m": (0.1, 0.5), "sigma_8": (0.6, 1.0)}
MEAN = 3.0


@dataclass(frozen=True)
class Made:
    """What was written: cubes and physical targets by split, in sample order."""

    root: Path
    cubes: dict[str, np.ndarray]
    parameters: dict[str, np.ndarray]
    universes: dict[str, list[str]]


def make_dataset(
    root: Path,
    *,
    counts: tuple[int, int, int] = (12, 4, 4),
    side: int = 8,
    subvolumes: int = 1,
    layout: str = "zarr",
    compression: str = "none",
    samples_per_shard: int = 5,
    seed: int = 0,
) -> Made:
    """Write a data set with ``counts`` universes in train, validation and test."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True)
    dtype = "uint16" if layout == "zarr" else "int16"
    made = Made(root, {}, {}, {})
    universes, splits, shards, files = [], {}, [], []
    for split, count in zip(manifests.SPLITS, counts, strict=True):
        ids = [f"{split}-{number:03d}" for number in range(count)]
        values = _parameters(rng, count)
        n = subvolumes**3
        rows = np.repeat(values, n, axis=0)
        cubes = [_cubes(rng, row, side, subvolumes).astype(dtype) for row in values]
        splits[split] = Split(universes=ids, variants=1, samples_per_universe=n, samples=count * n)
        universes += [
            Universe(
                id=name,
                split=split,
                parameters=dict(zip(RANGES, map(float, row), strict=True)),
                snapshots=[],
            )
            for name, row in zip(ids, values, strict=True)
        ]
        if not count:
            continue
        made.cubes[split] = np.concatenate(cubes)
        made.parameters[split] = rows
        made.universes[split] = [name for name in ids for _ in range(n)]
        write = _write_zarr if layout == "zarr" else _write_tfrecord
        new_shards, new_files = write(root, split, made, samples_per_shard, compression)
        shards += new_shards
        files += new_files
    record = Manifest(
        name="made",
        recipe_digest="sha256:0",
        software={},
        layout=Layout(
            format=layout,
            sample_shape=(side, side, side, 2),
            dtype=dtype,
            scheme="ngp",
            n_grid=side * subvolumes,
            subvolumes=subvolumes,
            redshifts=[0.0, 1.0],
            samples_per_shard=samples_per_shard,
            compression=compression,
        ),
        targets=RANGES,
        splits=splits,
        shards=shards,
        files=files,
        universes=universes,
    )
    (root / manifests.MANIFEST_NAME).write_bytes(manifests.dump(record))
    return made


def scaled(parameters: np.ndarray) -> np.ndarray:
    """Physical targets to [-1, 1]."""
    low, high = np.array(list(RANGES.values())).T
    return ((2 * parameters - low - high) / (high - low)).astype(np.float32)


def flip_byte(path: Path, place: int) -> None:
    """Damage one byte of a file."""
    raw = bytearray(path.read_bytes())
    raw[place] ^= 0xFF
    path.write_bytes(raw)


def _parameters(rng: np.random.Generator, count: int) -> np.ndarray:
    low, high = np.array(list(RANGES.values())).T
    return low + (high - low) * rng.random((count, len(RANGES)))


def _cubes(rng: np.random.Generator, row: np.ndarray, side: int, subvolumes: int) -> np.ndarray:
    n = subvolumes**3
    scatter = 0.7 + 0.3 * scaled(row[None])[0]
    field = scatter * rng.standard_normal((n, side, side, side, 2))
    return rng.poisson(MEAN * np.exp(field - scatter**2 / 2))


def _write_zarr(
    root: Path, split: str, made: Made, per_shard: int, compression: str
) -> tuple[list[Shard], list[File]]:
    cubes, parameters = made.cubes[split], made.parameters[split]
    group = zarr.open_group(root / f"{split}.zarr", mode="w")
    chunk = cubes.shape[1:]
    group.create_array(
        "density",
        shape=cubes.shape,
        chunks=(1, *chunk),
        shards=(per_shard, *chunk),
        dtype=cubes.dtype,
        compressors=[zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
    )[:] = cubes
    # columns in another order than the manifest's: readers go by name
    backwards = list(RANGES)[::-1]
    _small(group, "parameter", np.array(backwards, dtype=object))
    _small(group, "target", scaled(parameters)[:, ::-1].copy())
    _small(group, "parameters", parameters[:, ::-1].copy())
    _small(group, "universe", np.array(made.universes[split], dtype=object))
    shards = [
        Shard(
            **_file(root, f"{split}.zarr/density/c/{place}/0/0/0/0").model_dump(),
            split=split,
            first_sample=first,
            samples=min(per_shard, len(cubes) - first),
        )
        for place, first in enumerate(range(0, len(cubes), per_shard))
    ]
    listed = {shard.path for shard in shards}
    paths = [p.relative_to(root).as_posix() for p in (root / f"{split}.zarr").rglob("*")]
    rest = [p for p in sorted(paths) if (root / p).is_file() and p not in listed]
    return shards, [_file(root, path) for path in rest]


def _small(group: zarr.Group, name: str, values: np.ndarray) -> None:
    dtype = "str" if values.dtype == object else values.dtype
    group.create_array(name, shape=values.shape, dtype=dtype)[:] = values


def _write_tfrecord(
    root: Path, split: str, made: Made, per_shard: int, compression: str
) -> tuple[list[Shard], list[File]]:
    from tensorflow.train import (
        BytesList,
        Example,
        Feature,
        Features,
        FloatList,
    )

    (root / split).mkdir()
    shards = []
    cubes, targets = made.cubes[split], scaled(made.parameters[split])
    for first in range(0, len(cubes), per_shard):
        data, lines = b"", []
        for cube, target in zip(
            cubes[first : first + per_shard], targets[first : first + per_shard], strict=True
        ):
            x = Feature(bytes_list=BytesList(value=[cube.astype("<i2").tobytes()]))
            y = Feature(float_list=FloatList(value=target))
            payload = Example(features=Features(feature={"x": x, "y": y})).SerializeToString()
            record = _framed(payload)
            lines.append(f"{len(data)} {len(record)}\n")
            data += record
        path = f"{split}/{first:05d}.tfrecord"
        (root / path).write_bytes(gzip.compress(data) if compression == "gzip" else data)
        (root / f"{path}.idx").write_text("".join(lines))
        shards.append(
            Shard(
                **_file(root, path).model_dump(),
                split=split,
                first_sample=first,
                samples=len(lines),
                index=_file(root, f"{path}.idx"),
            )
        )
    return shards, []


def _framed(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + _masked(length) + payload + _masked(payload)


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _file(root: Path, path: str) -> File:
    raw = (root / path).read_bytes()
    return File(path=path, bytes=len(raw), digest="sha256:" + hashlib.sha256(raw).hexdigest())
