"""The manifest: what a data set consists of, published last.

A reader of a data set accepts only what its manifest lists: every file with
its size and digest, every shard with its number of samples, every universe
with its split and parameters.  The file is canonical JSON (one
layout) and holds a digest of itself, so that any changed byte is found.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from pipeline.errors import DatasetError
from pipeline.units import Quantity

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION: Final = 1
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} leads out of the data set")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] >= limits[1]:
        raise ValueError(f"the range {list(limits)} of a target does not rise")
    return limits


Limits = Annotated[tuple[float, float], AfterValidator(_rising)]
StoredType = Literal["int16", "uint16", "int32", "uint32", "float32"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class File(_Record):
    """One file of the data set: path inside it, size in bytes, ``sha256:...`` digest."""

    path: RelativePath
    bytes: NonNegativeInt
    digest: str


class Shard(File):
    """One shard: the samples ``first_sample`` to ``first_sample + samples - 1`` of its split."""

    split: SplitName
    first_sample: NonNegativeInt
    samples: PositiveInt
    index: File | None = None


class SnapshotRecord(_Record):
    """One snapshot that went into a cube.

    Attributes
    ----------
    channel : int
        Channel of the cube, in the order of the recipe's redshifts.
    redshift, redshift_wanted : float
        As recorded by the file, and as in the recipe.
    box_size : float
        Comoving Mpc/h.
    n_particles : int
        Particles read; of a ready grid of counts its sum, of densities 0 (not known).
    mass : float
        Sum of the channel's cells in stored units: n_particles for counts and
        for masses (in units of their mean).
    mass_deviation : float
        Relative difference of the mass on the grid from that of the particles,
        before rounding to the stored type: 0 for counts, that of the fixed-point
        masses for masses, mean - 1 for ready densities.
    maximum : float
        Largest cell in stored units.
    variance : float
        Of the overdensity, cell / mean - 1.
    fingerprint : str
        Digest of sizes and sampled blocks of the input files.
    files : list of str
        Input files, relative to the input root where they are inside it.
    particle_mass : float or None
        Mass of all particles, 1e10 Msun/h, where masses were deposited.
    scheme : str or None
        Mass assignment that made a ready grid, if the file tells.
    """

    channel: NonNegativeInt
    redshift: float
    redshift_wanted: float
    box_size: float
    n_particles: NonNegativeInt
    mass: float
    mass_deviation: float
    maximum: float
    variance: float
    fingerprint: str
    files: list[str]
    particle_mass: float | None = None
    scheme: str | None = None


class Universe(_Record):
    """One universe: its split, physical parameters and the snapshots read."""

    id: str
    split: SplitName
    parameters: dict[str, float]
    snapshots: list[SnapshotRecord]


class Layout(_Record):
    """How samples are stored.

    Attributes
    ----------
    format : {'zarr', 'tfrecord'}
    sample_shape : tuple of int
        (x, y, z, channel).
    dtype : str
        NumPy name of the stored type, e.g. ``uint16``.
    scheme : str
        Mass assignment scheme, or ``ready``: the input had grids.
    quantity : {'counts', 'mass', 'density'}
        What a cell holds: particles; mass in units of the mean mass of a
        particle; density in units of the mean density.
    n_grid, subvolumes : int
        Cells a side of a whole cube, and sub-volumes a side.
    redshifts : list of float
        Of the channels, as in the recipe.
    samples_per_shard : int
    compression : str
        Codec of the Zarr chunks, or ``gzip``/``none`` for TFRecord.
    """

    format: Literal["zarr", "tfrecord"]
    sample_shape: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    dtype: StoredType
    scheme: str
    n_grid: PositiveInt
    subvolumes: PositiveInt
    redshifts: list[float]
    samples_per_shard: PositiveInt
    compression: str
    quantity: Quantity = "counts"


class Split(_Record):
    """One split: its universes in sample order.

    Sample ``i`` is of universe ``universes[i // samples_per_universe]``; within
    a universe the order is variant by variant, sub-volume by sub-volume.
    """

    universes: list[str]
    variants: PositiveInt
    samples_per_universe: PositiveInt
    samples: NonNegativeInt


class Manifest(_Record):
    """All that a data set is; see the attributes' own types."""

    format: Literal["cosmoflow-prep data set"] = "cosmoflow-prep data set"
    format_version: Literal[1] = FORMAT_VERSION
    name: str
    recipe_digest: str
    software: dict[str, str]
    layout: Layout
    targets: dict[str, Limits] = Field(
        description="target name -> the physical range that is scaled to [-1, 1]"
    )
    splits: dict[SplitName, Split]
    shards: list[Shard]
    files: list[File]
    universes: list[Universe]

    def shards_of(self, split: SplitName) -> list[Shard]:
        """Shards of a split in the order of their samples."""
        shards = [shard for shard in self.shards if shard.split == split]
        return sorted(shards, key=lambda shard: shard.first_sample)


def scale_target(value: float, low: float, high: float) -> float:
    """Physical value to the scaled one: ``low`` to -1, ``high`` to +1."""
    return (2.0 * value - low - high) / (high - low)


def unscale_target(scaled: float, low: float, high: float) -> float:
    """Inverse of :func:`scale_target`; also of a scaled error's offset-free part by difference."""
    return 0.5 * (scaled * (high - low) + low + high)


def dump(manifest: Manifest) -> bytes:
    """Canonical bytes of a manifest, its own digest included."""
    body = manifest.model_dump(mode="json")
    body["digest"] = _digest(body)
    return _canonical(body)


def parse(raw: bytes, name: str) -> Manifest:
    """Manifest of canonical bytes; ``name`` is for messages.

    Raises
    ------
    DatasetError
        If any byte is not as it was published, or the content is not valid.
    """
    try:
        body = json.loads(raw)
        published = body.pop("digest")
        manifest = Manifest.model_validate(body)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DatasetError(f"{name}: not a manifest of this software ({reason})") from error
    if published != _digest(body) or raw != _canonical({**body, "digest": published}):
        raise DatasetError(f"{name}: the manifest was changed since it was published")
    return manifest


def load(dataset: Path) -> Manifest:
    """Manifest of the data set in the folder ``dataset``.

    Raises
    ------
    DatasetError
        If there is none (the build did not finish) or it is damaged.
    """
    path = dataset / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        reason = "the build did not finish" if (dataset / "ledger").is_dir() else "no data set"
        raise DatasetError(
            f"{dataset}: no {MANIFEST_NAME} ({reason}); finish it with "
            "'cosmoflow-prep build RECIPE --resume', or name another folder"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(raw, str(path))


def _canonical(body: dict[str, object]) -> bytes:
    # the order of keys is content too: it is the order of the targets
    return json.dumps(body, indent=1, ensure_ascii=True).encode() + b"\n"


def _digest(body: dict[str, object]) -> str:
    return "sha256:" + hashlib.sha256(_canonical(body)).hexdigest()
