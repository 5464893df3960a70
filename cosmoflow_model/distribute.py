"""The seam between one process and many: what the trainer asks of its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

Arrays = Sequence[npt.NDArray[Any]]


class Communicator(Protocol):
    """Ranks that train together, fully synchronously.

    Attributes
    ----------
    rank, size : int
        This rank, and how many there are; rank 0 alone writes files.
    """

    @property
    def rank(self) -> int:
        """Which rank this is."""
        ...

    @property
    def size(self) -> int:
        """Number of ranks."""
        ...

    def mean(self, value: float) -> float:
        """Mean of a number over the ranks."""
        ...

    def broadcast(self, arrays: Arrays) -> Arrays:
        """The arrays of rank 0, on every rank."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...


class SingleProcess:
    """The communicator of a run in one process."""

    rank = 0
    size = 1

    def mean(self, value: float) -> float:
        """Return the value itself."""
        return value

    def broadcast(self, arrays: Arrays) -> Arrays:
        """Return the arrays themselves."""
        return arrays

    def barrier(self) -> None:
        """Return at once."""
