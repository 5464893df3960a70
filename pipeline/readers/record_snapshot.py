"""Snapshots whose particles are records of fixed size that hold a mass and a position each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.raw_file import fill, raw_file
from pipeline.readers.scaled import scaled
from pipeline.snapshot import DEFAULT_CHUNK_PARTICLES, Snapshot, SnapshotHeader

MAX_MASSES_READ = 10**7
"""Masses are summed for the density check unless there are more: the whole file is read for it."""


@dataclass(frozen=True)
class RecordBlock:
    """Where the records of one particle type are.

    Attributes
    ----------
    start : int
        Offset of the first record in the file, bytes.
    count : int
        Number of records; the caller has compared it with the file's size.
    dtype : numpy.dtype
        Of one record; its fields ``mass`` (a number) and ``pos`` (three) are used.
    """

    start: int
    count: int
    dtype: np.dtype


class RecordSnapshot(Snapshot):
    """An opened snapshot of one file of records.

    Parameters
    ----------
    header : SnapshotHeader
        Its only file holds the records.
    blocks : sequence of RecordBlock
        Those to read, in this order; all of one float type.
    length : float
        The file's unit of length in Mpc/h.
    mass : float or None
        The file's unit of mass in 1e10 Msun/h; None if it is not known.
    """

    def __init__(
        self,
        header: SnapshotHeader,
        blocks: Sequence[RecordBlock],
        length: float,
        mass: float | None,
    ) -> None:
        super().__init__(header)
        self._blocks = tuple(blocks)
        self._length = length
        self._mass = mass

    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Positions of the selected particles; see :meth:`Snapshot.iter_positions`."""
        for positions, _ in self._pairs(chunk_particles):
            yield positions

    def iter_weighted(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and masses; see :meth:`Snapshot.iter_weighted`."""
        if self._mass is None:
            raise SnapshotError(
                f"{self.header.name}: the unit of its masses is known only with "
                f"input.length_unit: box, not {self.header.length_unit}"
            )
        for positions, records in self._pairs(chunk_particles):
            yield positions, records["mass"].astype(np.float64) * self._mass

    def _pairs(self, chunk_particles: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions in Mpc/h, and the records that they are from."""
        if chunk_particles < 1:
            raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")
        buffer = np.empty((0, 3), np.float32)
        for records in iter_records(self.header.files[0], self._blocks, chunk_particles):
            stored = records["pos"]
            dtype = stored.dtype.newbyteorder("=")
            if len(buffer) < len(stored) or buffer.dtype != dtype:
                buffer = np.empty(stored.shape, dtype)
            positions = buffer[: len(stored)]
            positions[:] = stored
            yield from ((chunk, records) for chunk in scaled([positions], self._length))


def iter_records(
    path: Path, blocks: Sequence[RecordBlock], chunk_particles: int
) -> Iterator[np.ndarray]:
    """Records of ``blocks``, at most ``chunk_particles`` at a time; each valid until the next.

    Raises
    ------
    SnapshotError
        If the file ends before the last record.
    """
    with raw_file(path) as stream:
        for block in blocks:
            rows = min(chunk_particles, block.count)
            buffer = np.empty(rows, block.dtype)
            stream.seek(block.start)
            for begin in range(0, block.count, rows or 1):
                records = buffer[: min(rows, block.count - begin)]
                fill(stream, records, path)
                yield records


def sum_masses(path: Path, blocks: Sequence[RecordBlock]) -> float | None:
    """Sum of all masses in the file's unit, or None if that means to read too much."""
    if sum(block.count for block in blocks) > MAX_MASSES_READ:
        return None
    return sum(
        float(np.sum(records["mass"], dtype=np.float64))
        for records in iter_records(path, blocks, DEFAULT_CHUNK_PARTICLES)
    )
