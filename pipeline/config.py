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
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.errors import RecipeError
from pipeline.input_rules import (
    Universes,
    check_targets_are_given,
    check_together,
    checked_id_pattern,
    checked_names,
    checked_parameters,
    checked_parameters_pattern,
    checked_universes,
)
from pipeline.manifest import SplitName, StoredType
from pipeline.snapshot import DARK_MATTER, ReadOptions
from pipeline.units import LengthUnit
from pipeline.write.stores import checked_url, is_url
from pipeline.yaml_source import KeyPath, YamlSource, load_yaml, parse_yaml

SchemeName = Literal["ngp", "cic", "tsc", "pcs", "ready"]
Weight = Literal["count", "mass"]
Origin = Literal["cell", "node"]
StoredDtype = Literal["auto", "int16", "uint16", "int32", "uint32", "float32"]
Codec = Literal["auto", "fast", "small", "none", "gzip"]

TYPE_NAMES = {"gas": 0, "dark_matter": 1, "disk": 2, "bulge": 3, "stars": 4, "black_holes": 5}
ALL_TYPES = tuple(range(8))
"""More than any code has; those that a snapshot has no particles of do not count."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _type_number(value: Any) -> Any:
    return TYPE_NAMES.get(value, value)


def _type_list(value: Any) -> Any:
    if value in ("all", ["all"]):
        return list(ALL_TYPES)
    return [value] if isinstance(value, str | int) else value


ParticleType = Annotated[int, BeforeValidator(_type_number), Field(ge=0, le=7)]


def _checked_redshift_pattern(value: str) -> str:
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from None
    if pattern.groups != 1 and "z" not in pattern.groupindex:
        raise ValueError(
            f"{value!r} has {pattern.groups} groups, expected one for the redshift, or one "
            "named z, e.g. 'z=([0-9.]+)'"
        )
    return value


RedshiftPattern = Annotated[str, Field(max_length=200), AfterValidator(_checked_redshift_pattern)]
ArrayName = Annotated[str, Field(min_length=1, max_length=1000)]


class InputSection(_Section):
    """Where the universes are and what their files do not say themselves."""

    universes: Annotated[Universes, BeforeValidator(checked_universes)] = Field(
        description="glob of folders, one a universe, relative to the recipe; a folder whose "
        "sub-folders they are; a glob of files, one a universe; a list of globs and folders; or "
        "a table (csv, yaml) with the columns id, files and parameters"
    )
    id_pattern: Annotated[str, AfterValidator(checked_id_pattern)] | None = Field(
        None,
        description="regular expression with a group id, searched in a universe's path; files "
        "of one id are one universe; default: name of the folder or file",
    )
    parameters: Annotated[str, AfterValidator(checked_parameters)] | None = Field(
        None,
        description="table of parameters (csv, yaml, hdf5 with id; txt by row number), or "
        "'header': as the snapshots record them; default: the universes' table",
    )
    parameter_names: tuple[str, ...] | None = Field(
        None, validate_default=True, description="columns of a plain text table (txt, dat)"
    )
    parameters_pattern: Annotated[str, AfterValidator(checked_parameters_pattern)] | None = Field(
        None,
        description="regular expression searched in a universe's path, with a named group for "
        "each parameter",
    )
    snapshots: str | None = Field(
        None, description="glob of snapshot files inside a universe's folder; default: all"
    )
    format: str = Field("auto", description="snapshot format, or auto to recognise it")
    particle_types: Annotated[tuple[ParticleType, ...], BeforeValidator(_type_list)] = Field(
        (DARK_MATTER,),
        min_length=1,
        description="Gadget types to deposit: all, or numbers or names: " + ", ".join(TYPE_NAMES),
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
    override: bool = Field(
        False, description="accept box_size, h and Omega_m that contradict the header"
    )
    redshift_pattern: RedshiftPattern | None = Field(
        None,
        description="regular expression with one group, searched in the names of a snapshot's "
        "file and its two folders, where the format records no redshift, e.g. 'z=([0-9.]+)'",
    )
    positions: ArrayName | tuple[ArrayName, ArrayName, ArrayName] | None = Field(
        None,
        description="format arrays: name of the array (n, 3) of positions, or the three names of "
        "x, y and z, inside an npz, HDF5 or Zarr file",
    )
    masses: ArrayName | None = Field(
        None, description="format arrays: name of the array of masses, in 1e10 Msun/h"
    )

    @field_validator("parameter_names")
    @classmethod
    def _check_names(
        cls, value: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if "parameters" in info.data:  # else it was refused already
            checked_names(value, info.data["parameters"])
        return value

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        check_together(dict(self))
        return self

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
            override=self.override,
            redshift_pattern=self.redshift_pattern,
            positions=self.positions,
            masses=self.masses,
        )


class GridSection(_Section):
    """The cube made of each universe."""

    n_grid: int = Field(ge=4, le=8192, description="cells a side of the cube")
    scheme: SchemeName = Field(
        "ngp",
        description="mass assignment: ngp, cic, tsc or pcs; ready: the files hold grids of "
        "n_grid cells a side, which are taken as they are",
    )
    weight: Weight = Field(
        "count",
        description="count: a cell holds particles; mass: it holds their mass, in units of the "
        "mean mass of a particle",
    )
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
        if self.scheme == "ready" and (self.weight != "count" or self.origin != "cell"):
            raise ValueError(
                "scheme: ready takes grids as they are, so weight and origin serve for nothing; "
                "remove them"
            )
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


def _checked_place(value: str) -> str:
    return checked_url(value) if is_url(value) else value


class OutputSection(_Section):
    """Where and how the data set is written."""

    path: Annotated[str, AfterValidator(_checked_place)] = Field(
        description="folder of the data set, relative to the recipe; or a URL of an object store, "
        "e.g. s3://bucket/folder"
    )
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
        "HPC reads it), float32 for cic, tsc, pcs, weight: mass and scheme: ready (which can be "
        "stored as an integer where the grids are counts)",
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


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a data set may be called: it is the name of a folder, too."""


class Recipe(_Section):
    """A whole recipe."""

    name: str = Field(pattern=NAME_PATTERN, description="name of the data set")
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
        check_targets_are_given(self.targets, dict(self.input))
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
    def dtype(self) -> StoredType:
        """NumPy name of the stored type, ``auto`` resolved."""
        if self.output.dtype != "auto":
            return self.output.dtype
        if self.grid.scheme != "ngp" or self.grid.weight != "count":
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
    grid = recipe.grid
    counts = grid.scheme == "ngp" and grid.weight == "count"
    weighted = grid.weight == "mass"
    given = f"{grid.scheme} with weight: mass" if weighted else grid.scheme
    instead = "grid.weight: count" if weighted else "grid.scheme: ngp"
    if not counts and grid.scheme != "ready" and recipe.dtype != "float32":
        raise ValueError(
            f"output.dtype {recipe.dtype} cannot hold the fractional masses of "
            f"{given}; use float32, or {instead}"
        )
    if recipe.output.format != "tfrecord" or counts or recipe.output.dtype != "auto":
        return
    if grid.scheme == "ready":
        raise ValueError(
            "TFRecords hold int16 counts, as MLPerf HPC readers expect; say output.dtype: int16 "
            "if the ready grids are counts, or output.dtype: float32 to write records that only "
            "this software reads"
        )
    raise ValueError(
        f"TFRecords hold int16 counts, as MLPerf HPC readers expect, and "
        f"{given} gives fractions; use {instead}, or say "
        "output.dtype: float32 to write records that only this software reads"
    )


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe.

    Raises
    ------
    RecipeError
        With the line, the value found, and a suggestion for a mistyped key.
    """
    return _validated(load_yaml(path))


def parse_recipe(raw: bytes, name: str) -> Recipe:
    """Recipe of the bytes of its file; ``name`` is for messages.

    Raises
    ------
    RecipeError
        As :func:`load_recipe`.
    """
    return _validated(parse_yaml(raw, name))


def _validated(source: YamlSource) -> Recipe:
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
