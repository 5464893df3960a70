"""What samples a data set has, from its manifest; each read and checked on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cosmoflow_model.stores import MEND, Cube, SampleStore, Targets, open_store
from pipeline import manifest as manifests
from pipeline.errors import DatasetError, TrainingError
from pipeline.manifest import File, Manifest, SplitName, scale_target

TARGET_TOLERANCE = 1e-4
"""Largest difference of a stored scaled target from the one of the manifest's parameters."""


def copy_first(url: str) -> str:
    """What to do with a data set at a URL: training reads local files only."""
    how = "aws s3 sync" if url.startswith("s3:") else "gcloud storage rsync -r"
    return f"{url}: training reads folders; copy it first, e.g. with: {how} {url} FOLDER"


@dataclass(frozen=True)
class SplitTable:
    """The samples of one split, row by row.

    Attributes
    ----------
    name : {'train', 'validation', 'test'}
    universes : list of str
        Universe of each sample.
    parameters : ndarray of float64, shape (samples, targets)
        Physical values of the targets of each sample.
    scaled : ndarray of float32, shape (samples, targets)
        The same scaled to [-1, 1] by the targets' ranges.
    """

    name: SplitName
    universes: list[str]
    parameters: npt.NDArray[np.float64]
    scaled: npt.NDArray[np.float32]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.universes)


class Catalog:
    """A data set as its manifest lists it.

    Attributes
    ----------
    root : Path
        Folder of the data set.
    manifest : Manifest
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self._parameters = {u.id: u.parameters for u in manifest.universes}
        self._tables: dict[str, SplitTable] = {}
        self._stores: dict[str, SampleStore] = {}

    @classmethod
    def open(cls, dataset: Path | str) -> Catalog:
        """Catalog of the data set in a folder; raises DatasetError if it has no manifest."""
        if "://" in str(dataset):
            raise DatasetError(copy_first(str(dataset)))
        root = Path(dataset)
        return cls(root, manifests.load(root))

    @property
    def digest(self) -> str:
        """Digest of the manifest file, which identifies the data."""
        raw = (self.root / manifests.MANIFEST_NAME).read_bytes()
        return "sha256:" + hashlib.sha256(raw).hexdigest()

    @property
    def target_names(self) -> list[str]:
        """Names of the targets, in the order of the stored columns."""
        return list(self.manifest.targets)

    @property
    def target_ranges(self) -> list[tuple[float, float]]:
        """Physical (low, high) of each target, scaled to (-1, 1)."""
        return list(self.manifest.targets.values())

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """Shape (x, y, z, channel) of a sample."""
        return self.manifest.layout.sample_shape

    @property
    def is_periodic(self) -> bool:
        """Whether samples are whole boxes, so that shifting one round is a symmetry."""
        return self.manifest.layout.subvolumes == 1

    def samples(self, split: SplitName) -> int:
        """Number of samples of a split; 0 where the data set has none."""
        record = self.manifest.splits.get(split)
        return record.samples if record else 0

    def split(self, split: SplitName) -> SplitTable:
        """Table of the samples of a split."""
        if split not in self._tables:
            self._tables[split] = self._table(split)
        return self._tables[split]

    def read(self, split: SplitName, sample: int) -> tuple[Cube, Targets]:
        """One sample: cube (x, y, z, channel) as stored, targets (parameter,) in [-1, 1].

        Raises
        ------
        DatasetError
            If its shard is damaged or holds another universe's targets.
        """
        table = self.split(split)
        if not 0 <= sample < table.samples:
            raise IndexError(f"sample {sample} of the {table.samples} samples of {split}")
        cube, target = self._store(split).read(sample)
        if not np.allclose(target, table.scaled[sample], rtol=0, atol=TARGET_TOLERANCE):
            raise DatasetError(
                f"{self.root}: sample {sample} of {split} has the targets {target}, but its "
                f"universe {table.universes[sample]} has {table.scaled[sample]}; {MEND}"
            )
        return cube, target

    def require(self, split: SplitName) -> None:
        """Refuse a split that has no samples or whose files are not as listed.

        Raises
        ------
        TrainingError
            If the split is empty.
        DatasetError
            If a file is missing or has another size, by its name.
        """
        if self.samples(split) == 0:
            raise TrainingError(
                f"{self.root}: no {split} samples; build the data set with a larger fraction "
                f"for {split} or with more universes"
            )
        for file in self._files(split):
            _check_size(self.root / file.path, file.bytes)

    def _files(self, split: SplitName) -> Iterable[File]:
        for shard in self.manifest.shards:
            if shard.split == split:
                yield shard
                if shard.index:
                    yield shard.index
        format = self.manifest.layout.format
        parts = self.manifest.parts_of(split)
        folders = tuple(f"{part.place(split, format)}/" for part in parts)
        yield from (file for file in self.manifest.files if file.path.startswith(folders))

    def _store(self, split: SplitName) -> SampleStore:
        if split not in self._stores:
            self._stores[split] = open_store(self.root, split, self.manifest)
        return self._stores[split]

    def _table(self, split: SplitName) -> SplitTable:
        record = self.manifest.splits.get(split)
        universes = [
            universe
            for universe in (record.universes if record else [])
            for _ in range(record.samples_per_universe if record else 0)
        ]
        if len(universes) != self.samples(split):
            raise DatasetError(
                f"{self.root}: the manifest lists {self.samples(split)} {split} samples, but "
                f"its universes have {len(universes)}; {MEND}"
            )
        names = self.target_names
        rows = [[self._parameters[universe][name] for name in names] for universe in universes]
        parameters = np.array(rows, np.float64).reshape(len(rows), len(names))
        return SplitTable(split, universes, parameters, self._scaled(parameters))

    def _scaled(self, parameters: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        scaled = [
            [scale_target(v, *bounds) for v, bounds in zip(row, self.target_ranges, strict=True)]
            for row in parameters
        ]
        return np.array(scaled, np.float32).reshape(parameters.shape)


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing, though the manifest lists it; {MEND}") from None
    if found != expected:
        raise DatasetError(f"{path}: {found} bytes, but the manifest says {expected}; {MEND}")
