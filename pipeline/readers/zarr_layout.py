"""What the metadata of a Zarr array say, read here because Zarr believes them.

Zarr formats 2 and 3 (zarr-specs.readthedocs.io; shards: ZEP 2).  Only arrays
of float numbers in regular chunks are taken, and only codecs that decode: of
those that Zarr knows, some run programs (pickle).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, NonNegativeInt, PositiveInt, ValidationError

from pipeline.errors import SnapshotError
from pipeline.readers.chunk_claim import SIZED
from pipeline.readers.raw_file import raw_file

METADATA = ("zarr.json", ".zgroup", ".zarray")
"""Files that make a folder one of Zarr."""

_MAX_METADATA = 1 << 20
_COMPRESSORS = (*SIZED, "gzip", "zlib")
_OTHER_CODECS = ("bytes", "transpose", "crc32c")
_SHARDING = "sharding_indexed"
_INDEX_CODECS = ["bytes", "crc32c"]

Shape = tuple[PositiveInt, ...]
_Model = TypeVar("_Model", bound=BaseModel)


class _Array2(BaseModel):
    """What ``.zarray`` holds."""

    zarr_format: Literal[2]
    shape: tuple[NonNegativeInt, ...]
    chunks: Shape
    dtype: Literal["<f4", "<f8", ">f4", ">f8"]
    filters: list[Any] | None = None
    compressor: dict[str, Any] | None = None
    dimension_separator: Literal[".", "/"] = "."


class _Configured(BaseModel):
    name: str
    configuration: dict[str, Any] = {}


class _GridConfiguration(BaseModel):
    chunk_shape: Shape


class _Grid(BaseModel):
    name: Literal["regular"]
    configuration: _GridConfiguration


class _Array3(BaseModel):
    """What ``zarr.json`` of an array holds."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: tuple[NonNegativeInt, ...]
    data_type: Literal["float32", "float64"]
    chunk_grid: _Grid
    chunk_key_encoding: _Configured
    codecs: list[_Configured]
    storage_transformers: list[Any] = []


class _Sharding(BaseModel):
    """Configuration of the sharding codec."""

    chunk_shape: Shape
    codecs: list[_Configured]
    index_codecs: list[_Configured]
    index_location: Literal["start", "end"] = "end"


@dataclass(frozen=True)
class ZarrLayout:
    """One array and how it is stored.

    Attributes
    ----------
    folder : Path
        Of the array.
    shape : tuple of int
        Of the array.
    dtype : numpy.dtype
        float32 or float64.
    file_shape : tuple of int
        Of what one file holds: a chunk or a shard.
    chunk_shape : tuple of int
        Of what is decoded as a whole.
    compressor : str or None
        Codec that made the stored bytes of a chunk, checksums aside.
    index_location : {'start', 'end'} or None
        Where the index of a shard is; None if there are no shards.
    prefix, separator : str
        Of the files' names.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    file_shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    compressor: str | None
    index_location: Literal["start", "end"] | None
    prefix: tuple[str, ...]
    separator: str

    def file(self, place: tuple[int, ...]) -> Path:
        """File of the chunk or shard at ``place`` in the grid of files."""
        return self.folder / self.separator.join((*self.prefix, *map(str, place)))


def read_layout(folder: Path) -> ZarrLayout:
    """Layout of the array in ``folder``.

    Raises
    ------
    SnapshotError
        If there is none, or one that is not of plain float numbers.
    """
    path = folder / "zarr.json"
    if path.is_file():
        layout = _layout_3(_parsed(path, _Array3), folder)
    elif (folder / ".zarray").is_file():
        layout = _layout_2(_parsed(folder / ".zarray", _Array2), folder)
    else:
        raise SnapshotError(
            f"{folder}: no Zarr array, expected one by input.positions or input.masses"
        )
    if len({len(layout.shape), len(layout.file_shape), len(layout.chunk_shape)}) > 1:
        raise SnapshotError(
            f"{folder}: has the shape {layout.shape} in chunks of {layout.chunk_shape} and files "
            f"of {layout.file_shape}, expected the same number of dimensions; it is damaged"
        )
    return layout


def _parsed(path: Path, model: type[_Model]) -> _Model:
    with raw_file(path) as stream:
        text = stream.read(_MAX_METADATA + 1)
    if len(text) > _MAX_METADATA:
        raise SnapshotError(f"{path}: more than {_MAX_METADATA} bytes, expected metadata")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise SnapshotError(
            f"{path}: {where} is not that of an array of float32 or float64 ({first['msg']}); "
            "choose one with input.positions"
        ) from error


def _layout_2(metadata: _Array2, folder: Path) -> ZarrLayout:
    codec = None if metadata.compressor is None else metadata.compressor.get("id", "unnamed")
    if metadata.filters or codec not in (None, *_COMPRESSORS):
        raise SnapshotError(
            f"{folder}: stored with the filters {metadata.filters} and the compressor {codec}, "
            f"expected no filters and {_listed(_COMPRESSORS)}; write it again with these"
        )
    return ZarrLayout(
        folder=folder,
        shape=metadata.shape,
        dtype=np.dtype(metadata.dtype),
        file_shape=metadata.chunks,
        chunk_shape=metadata.chunks,
        compressor=codec,
        index_location=None,
        prefix=(),
        separator=metadata.dimension_separator,
    )


def _layout_3(metadata: _Array3, folder: Path) -> ZarrLayout:
    file_shape = metadata.chunk_grid.configuration.chunk_shape
    sharding = _sharding(metadata, folder)
    names = [codec.name for codec in (sharding or metadata).codecs]
    compressors = [name for name in names if name in _COMPRESSORS]
    unknown = {*names} - {*_COMPRESSORS, *_OTHER_CODECS}
    transformers = metadata.storage_transformers
    if unknown or len(compressors) > 1 or transformers:
        raise SnapshotError(
            f"{folder}: stored with the codecs {', '.join([*names, *map(str, transformers)])}, "
            f"expected {', '.join(_OTHER_CODECS)} and one of {_listed(_COMPRESSORS)} (also inside "
            "of shards); write it again with these"
        )
    encoding = metadata.chunk_key_encoding
    by_default = encoding.name == "default"
    separator = encoding.configuration.get("separator", "/" if by_default else ".")
    if encoding.name not in ("default", "v2") or separator not in (".", "/"):
        raise SnapshotError(f"{folder}: names its chunks by {encoding}, expected 'default' or 'v2'")
    return ZarrLayout(
        folder=folder,
        shape=metadata.shape,
        dtype=np.dtype(metadata.data_type),
        file_shape=file_shape,
        chunk_shape=sharding.chunk_shape if sharding else file_shape,
        compressor=compressors[0] if compressors else None,
        index_location=sharding.index_location if sharding else None,
        prefix=("c",) if by_default else (),
        separator=separator,
    )


def _sharding(metadata: _Array3, folder: Path) -> _Sharding | None:
    """The shards' configuration, if there are shards."""
    if [codec.name for codec in metadata.codecs] != [_SHARDING]:
        return None
    try:
        sharding = _Sharding.model_validate(metadata.codecs[0].configuration)
    except ValidationError as error:
        raise SnapshotError(f"{folder}: its sharding is damaged ({error.errors()[0]})") from error
    index = sharding.index_codecs
    if [codec.name for codec in index] != _INDEX_CODECS or (
        index[0].configuration.get("endian", "little") != "little"
    ):
        raise SnapshotError(
            f"{folder}: the index of its shards is stored by {index}, expected little-endian bytes "
            "and crc32c; write it again"
        )
    return sharding


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"
