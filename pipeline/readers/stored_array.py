"""One array of a file of plain arrays: checked, and read in pieces from first to last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError


class StoredArray(ABC):
    """An array that is in its file in full.

    Attributes
    ----------
    path : Path
        The file, or the metadata of the folder, to show in errors.
    name : str
        Name of the array inside it; empty if it is all there is.
    shape : tuple of int
        As it is stored.
    dtype : numpy.dtype
        float32 or float64, in any byte order.
    piece_rows : int
        Rows that are stored together; pieces of whole multiples are decoded once.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
        piece_rows: int = 1,
    ) -> None:
        self.path, self.name, self.shape = path, name, shape
        self.dtype, self.piece_rows = dtype, piece_rows
        if dtype.kind != "f" or dtype.itemsize not in (4, 8):
            raise SnapshotError(f"{self}: is {dtype}, expected float32 or float64 numbers")

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.name else str(self.path)

    @property
    def rows(self) -> int:
        """Particles: of an array ``(n, 3)`` the first number, of others all numbers."""
        return self.shape[0] if self.is_vector else int(np.prod(self.shape, dtype=object))

    @property
    def is_vector(self) -> bool:
        """Whether it has the shape ``(n, 3)``."""
        return len(self.shape) == 2 and self.shape[1] == 3

    @abstractmethod
    def pieces(self, rows: int) -> Iterator[np.ndarray]:
        """The array from first to last.

        Parameters
        ----------
        rows : int
            Particles a piece; the last one may have fewer.

        Yields
        ------
        numpy.ndarray
            ``(rows, 3)`` or ``(rows,)``, in any byte order; valid until the next.

        Raises
        ------
        SnapshotError
            If the file is damaged or was changed.
        """
