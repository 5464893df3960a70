"""The recipe: everything that determines a data set, validated before anything is read.

The models below are the reference of the recipe's keys: their descriptions
are what ``docs/recipe.md`` is made from.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pipeline.errors import RecipeError
from pipeline.manifest import SplitName
from pipeline.snapshot import DARK_MATTER, ReadOptions
from pipeline.units import LengthUnit
from pipeline.yaml_source import KeyPath, YamlSource, load_yaml

SchemeName = Literal["ngp", "cic", "tsc", "pcs"]
Origin = Literal["cell", "node"]
StoredDtype = Literal["auto", "int16", "uint16", "int32", "uint32", "float32"]
Codec = Literal["auto", "fast", "small", "none", "gzip"]

TYPE_NAMES = {"gas": 0, "dark_matter": 1, "disk": 2, "bulge": 3, "stars": 4, "black_holes": 5}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _type_number(value: Any) -> Any:
    return TYPE_NAMES.get(value, value)


ParticleType = Annotated[int, BeforeValidator(_type_number), Field(ge=0, le=7)]


class InputSection(_Section):
    """Where the universes are and what their files do not say themselves."""

    universes: str = Field(
        description="glob of folders, one a universe, relative to the recipe; or a CSV table "
        "with the columns id, files and parameters"
    )
    parameters: str | None = Field(
        None, description="CSV table of parameters with a column id; default: the universes' table"
    )
    snapshots: str | None = Field(
        None, description="glob of snapshot files inside a universe's folder; default: all"
    )
    format: str = Field("auto", description="snapshot format, or auto to recognise it")
    particle_types: tuple[ParticleType, ...] = Field(
        (DARK_MATTER,),
        min_length=1,
        description="Gadget types to deposit: numbers, or " + ", ".join(TYPE_NAMES),
    )
    length_unit: LengthUnit | None = Field(
        None, description="unit of positions and box, where the files do not state it"
    )
    box_size: float | None = Field(
        None, gt=0, lt=1e6, description="comoving Mpc/h, instead of the header's"
    )
    redshift: float | None = Field(None, gt=-1, description="instead of the header's")
    Omega_m: float | None = Field(None, gt=0, lt=10, description="instead of the header's")
    h: float | None = Field(None, gt=0, lt=10, description="instead of the header's")

    def read_options(self) -> ReadOptions:
        """What the readers need of this section."""
        return ReadOptions(
            format=self.format,
            particle_types=self.particle_types,
            length_unit=self.length_unit,
            box_size=self.box_size,
            redshift=self.redshift,
            Omega_m=self.Omega_m,
            h=self.h,
        )


class GridSection(_Section):
    """The cube made of each universe."""

    n_grid: int = Field(ge=4, le=8192, description="cells a side of the cube")
    scheme: SchemeName = Field("ngp", description="mass assignment: ngp, cic, tsc or pcs")
    redshifts: tuple[float, ...] = Field(
        min_length=1, description="channels of the cube, in this order"
    )
    redshift_tolerance: float = Field(
        0.02, gt=0, lt=0.5, description="accepted |z - wanted| / (1 + wanted)"
    )
    origin: Origin = Field(
        "cell", description="cell: grid points at cell centres (i + 1/2) h; node: at i h"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.redshifts)) < len(self.redshifts):
            raise ValueError(f"redshifts {list(self.redshifts)} hold one value twice")
        if min(self.redshifts) <= -1:
            raise ValueError(f"redshifts {list(self.redshifts)} must be above -1")
        return self


Fraction = Annotated[float, Field(ge=0, le=1)]


class SplitSection(_Section):
    """Sub-volumes a side, and which part of the universes trains."""

    subvolumes: int = Field(1, ge=1, description="sub-volumes a side of each cube")
    fractions: dict[SplitName, Fraction] = Field(
        default={"train": 0.8, "validation": 0.1, "test": 0.1},
        description="share of the universes in train, validation and test",
    )
    seed: int = Field(0, ge=0, description="of the split and of offline augmentation")

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = sum(self.fractions.values())
        if abs(total - 1) > 1e-9:
            raise ValueError(f"fractions add up to {total:g}, expected 1")
        return self


class OfflineAugmentation(_Section):
    """Variants of each training cube that are stored."""

    symmetries: int = Field(1, ge=1, le=48, description="variants of each training cube")
    shifts: bool = Field(False, description="also shift each further variant periodically")


def _none_word(value: Any) -> Any:
    return None if value == "none" else value


class AugmentSection(_Section):
    """Augmentation when the data set is built; training augments as it reads."""

    offline: Annotated[OfflineAugmentation | None, BeforeValidator(_none_word)] = Field(
        None, description="none, or the variants to store"
    )

    @property
    def variants(self) -> int:
        """Stored variants of a training cube, the unchanged one included."""
        return 1 if self.offline is None else self.offline.symmetries

    @property
    def shifts(self) -> bool:
        """Whether the further variants are shifted too."""
        return self.offline is not None and self.offline.shifts


def _is_range(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError(f"range {list(value)} must be [low, high] with low < high")
    return value


TargetRange = Annotated[tuple[float, float], AfterValidator(_is_range)]


class OutputSection(_Section):
    """Where and how the data set is written."""

    path: str = Field(description="folder of the data set, relative to the recipe")
    format: Literal["zarr", "tfrecord"] = Field("zarr", description="zarr or tfrecord")
    samples_per_shard: int = Field(64, ge=1, description="samples in one file")
    codec: Codec = Field(
        "auto",
        description="zarr: auto = fast (lz4 bitshuffle), small (zstd bitshuffle), none; "
        "tfrecord: auto = none, or gzip",
    )
    dtype: StoredDtype = Field(
        "auto",
        description="stored type; auto: uint16 for ngp in zarr, int16 in tfrecord (as MLPerf "
        "HPC reads it), float32 for cic, tsc and pcs",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        allowed = {
            "zarr": ("auto", "fast", "small", "none"),
            "tfrecord": ("auto", "none", "gzip"),
        }[self.format]
        if self.codec not in allowed:
            raise ValueError(
                f"codec {self.codec} is not one of {', '.join(allowed)} for {self.format}"
            )
        return self


class Recipe(_Section):
    """A whole recipe."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the data set")
    input: InputSection
    grid: GridSection
    split: SplitSection = SplitSection()
    augment: AugmentSection = AugmentSection()
    targets: dict[str, TargetRange] = Field(
        min_length=1, description="parameter name: [low, high], scaled to [-1, 1]"
    )
    output: OutputSection

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_division(self.grid.n_grid, self.split.subvolumes)
        _check_shards(self)
        _check_dtype(self)
        return self

    @property
    def sample_side(self) -> int:
        """Cells a side of one sample."""
        return self.grid.n_grid // self.split.subvolumes

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """(x, y, z, channel) of one sample."""
        side = self.sample_side
        return side, side, side, len(self.grid.redshifts)

    @property
    def dtype(self) -> str:
        """NumPy name of the stored type, ``auto`` resolved."""
        if self.output.dtype != "auto":
            return self.output.dtype
        if self.grid.scheme != "ngp":
            return "float32"
        return "uint16" if self.output.format == "zarr" else "int16"

    def variants(self, split: SplitName) -> int:
        """Stored variants of a cube in ``split``: only training cubes are augmented."""
        return self.augment.variants if split == "train" else 1

    def samples_per_universe(self, split: SplitName) -> int:
        """Samples that one universe gives to ``split``."""
        return self.variants(split) * self.split.subvolumes**3


def _check_division(n_grid: int, subvolumes: int) -> None:
    if n_grid % subvolumes:
        divisors = [k for k in range(1, n_grid + 1) if n_grid % k == 0]
        near = sorted(sorted(divisors, key=lambda k: abs(k - subvolumes))[:3])
        raise ValueError(
            f"grid.n_grid {n_grid} is not divisible by split.subvolumes {subvolumes}; "
            f"subvolumes could be {', '.join(map(str, near))}"
        )


def _check_shards(recipe: Recipe) -> None:
    per_shard = recipe.output.samples_per_shard
    splits: tuple[SplitName, ...] = ("train", "validation")
    for split in splits:
        per_universe = recipe.samples_per_universe(split)
        if per_shard % per_universe and per_universe % per_shard:
            below = max(d for d in range(1, per_shard + 1) if per_universe % d == 0)
            above = (per_shard // per_universe + 1) * per_universe
            raise ValueError(
                f"output.samples_per_shard {per_shard} would cut a universe in the middle "
                f"({per_universe} samples each in {split}); use {below} or {above}"
            )


def _check_dtype(recipe: Recipe) -> None:
    counts = recipe.grid.scheme == "ngp"
    if not counts and recipe.dtype != "float32":
        raise ValueError(
            f"output.dtype {recipe.dtype} cannot hold the fractional masses of "
            f"{recipe.grid.scheme}; use float32, or grid.scheme: ngp"
        )
    if recipe.output.format == "tfrecord" and not counts and recipe.output.dtype == "auto":
        raise ValueError(
            f"TFRecords hold int16 counts, as MLPerf HPC readers expect, and "
            f"{recipe.grid.scheme} gives fractions; use grid.scheme: ngp, or say "
            "output.dtype: float32 to write records that only this software reads"
        )


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe.

    Raises
    ------
    RecipeError
        With the line, the value found, and a suggestion for a mistyped key.
    """
    source = load_yaml(path)
    try:
        return Recipe.model_validate(source.data)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(source, e) for e in error.errors())) from error


def _explain(source: YamlSource, error: Any) -> str:
    key: KeyPath = tuple(error["loc"])
    words = [str(k) for k in key if k != "[key]"]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key{_suggestion(key)}"
    elif error["type"] == "missing":
        message = "is missing"
    elif error["type"] == "literal_error":
        message = _not_one_of(error)
    elif error["type"] != "value_error":
        message = f"{message}, found {error['input']!r}"
    return f"{source.where(key)}: {'.'.join(words) or 'recipe'}: {message}"


def _not_one_of(error: Any) -> str:
    allowed = error["ctx"]["expected"]
    found = str(error["input"])
    close = difflib.get_close_matches(found, re.findall(r"'([^']*)'", allowed), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{found!r} is not {allowed}{hint}"


def _suggestion(key: KeyPath) -> str:
    known = _known_keys(key[:-1])
    close = difflib.get_close_matches(str(key[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}"


def _known_keys(parents: KeyPath) -> list[str]:
    model: type[BaseModel] = Recipe
    for name in parents:
        annotation = model.model_fields[str(name)].annotation
        model = next(m for m in (annotation, *get_args(annotation)) if _is_model(m))
    return list(model.model_fields)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def recipe_yaml(recipe: Recipe) -> str:
    """The recipe with all defaults filled in, as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def recipe_digest(recipe: Recipe) -> str:
    """Digest of all that determines the content: everything but the output's place."""
    content = recipe.model_dump(mode="json", exclude={"output": {"path"}})
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def recipe_difference(there: Recipe, asked: Recipe) -> list[str]:
    """Readable differences, one line a key, e.g. ``grid.n_grid: 64 there, 128 asked``."""
    a, b = _flat(there.model_dump(mode="json")), _flat(asked.model_dump(mode="json"))
    a.pop("output.path", None), b.pop("output.path", None)
    return [
        f"{key}: {a.get(key, 'nothing')} there, {b.get(key, 'nothing')} asked"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
