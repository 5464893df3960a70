"""The manifest: what a data set consists of, published last.

A reader of a data set accepts only what its manifest lists: every file with
its size and digest, every shard with its number of samples, every universe
with its split and parameters.  The file is canonical JSON (one
layout) and holds a digest of itself, so that any changed byte is found.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
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
from pipeline.write.store import StoreError
from pipeline.write.stores import Place, open_store

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION: Final = 2
RECIPE_NAME = "recipe.yaml"
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


class Quarantined(_Record):
    """A universe of the input that could not be used, and why.

    ``split`` is the one it would be in; None if its parameters are not known.
    """

    id: str
    split: SplitName | None
    reason: str


class Part(_Record):
    """What one build, or one extension after it, added: groups and shards of its own.

    Attributes
    ----------
    version : int
        Of the data set that came with this part.
    folder : str
        Inside the data set; empty for the first.
    recipe, recipe_digest : str
        The resolved recipe's file, and the digest of its content.
    software : dict
        Versions that made it.
    first_sample, samples : dict
        By split: the samples ``first_sample`` to ``first_sample + samples - 1`` of
        the split; splits that got nothing are left out.
    """

    version: PositiveInt
    folder: RelativePath
    recipe: RelativePath
    recipe_digest: str
    software: dict[str, str]
    first_sample: dict[SplitName, NonNegativeInt]
    samples: dict[SplitName, PositiveInt]

    def place(self, split: SplitName, format: str) -> str:
        """Path of the part's samples of a split: a Zarr group, or a folder of records."""
        return split_place(self.folder, split, format)


def part_folder(number: int) -> str:
    """Folder of the part of that number: none for 0, which the first build makes."""
    return f"part-{number:04d}" if number else ""


def inside(folder: str, path: str) -> str:
    """``folder/path``, or the path alone where the folder is the data set itself."""
    return f"{folder}/{path}" if folder else path


def split_place(folder: str, split: SplitName, format: str) -> str:
    """``train.zarr`` or ``train``, in the folder of a part."""
    return inside(folder, f"{split}.zarr" if format == "zarr" else split)


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
    """All that a data set is; see the attributes' own types.

    ``version`` counts the data set's extensions from 1; ``previous`` is the
    manifest before the last one.
    """

    format: Literal["cosmoflow-prep data set"] = "cosmoflow-prep data set"
    format_version: Literal[1, 2] = FORMAT_VERSION
    version: PositiveInt = 1
    previous: File | None = None
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
    parts: list[Part] = Field(default_factory=list)
    quarantined: list[Quarantined] = Field(default_factory=list)

    def all_parts(self) -> list[Part]:
        """Parts in the order of their versions; one, where none is written down."""
        return self.parts or [self._only_part()]

    def _only_part(self) -> Part:
        return Part(
            version=1,
            folder=part_folder(0),
            recipe=RECIPE_NAME,
            recipe_digest=self.recipe_digest,
            software=self.software,
            first_sample={name: 0 for name, split in self.splits.items() if split.samples},
            samples={name: split.samples for name, split in self.splits.items() if split.samples},
        )

    def parts_of(self, split: SplitName) -> list[Part]:
        """Parts that hold samples of a split, in the order of their samples."""
        parts = [part for part in self.all_parts() if split in part.samples]
        return sorted(parts, key=lambda part: part.first_sample[split])

    def part_of(self, shard: Shard) -> Part:
        """Part that a shard belongs to.

        Raises
        ------
        DatasetError
            If there is none: the manifest contradicts itself.
        """
        for part in self.parts_of(shard.split):
            first = part.first_sample[shard.split]
            if first <= shard.first_sample < first + part.samples[shard.split]:
                return part
        raise DatasetError(f"{shard.path}: its samples are in no part of the data set")

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


def load(dataset: Place) -> Manifest:
    """Manifest of the data set in the folder, or at the URL, ``dataset``.

    Raises
    ------
    DatasetError
        If there is none (the build did not finish) or it is damaged.
    OutputError
        If a remote place does not answer, or refuses.
    """
    store = open_store(dataset)
    path = store.address(MANIFEST_NAME)
    try:
        raw = store.read(MANIFEST_NAME)
    except FileNotFoundError:
        reason = "the build did not finish" if store.exists("ledger") else "no data set"
        raise DatasetError(
            f"{store}: no {MANIFEST_NAME} ({reason}); finish it with "
            "'cosmoflow-prep build RECIPE --resume', or name another folder"
        ) from None
    except StoreError:
        raise
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(raw, str(path))


def _canonical(body: dict[str, object]) -> bytes:
    # the order of keys is content too: it is the order of the targets
    return json.dumps(body, indent=1, ensure_ascii=True).encode() + b"\n"


def _digest(body: dict[str, object]) -> str:
    return "sha256:" + hashlib.sha256(_canonical(body)).hexdigest()
