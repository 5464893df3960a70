"""The place of one data set: a folder, or a URL of an object store.

All that a build, ``verify`` and the rest do to a data set's files goes through
a :class:`Store`.  It promises no more than an object store can hold: a file
is written whole or not at all, a file can be made only where there is none,
and a line can be added durably.  There is no rename, no append to a file and
no link; what a data set *is* follows from its manifest, written last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import OutputError

BLOCK_BYTES = 1 << 22
"""Most bytes that :meth:`Store.blocks` of a local folder gives at once."""


class StoreError(OutputError, OSError):
    """A remote place did not do what was asked; ``OSError(number, reason, URL)`` to make it.

    It is an ``OSError`` too: who lists files that cannot be read treats it as
    the error of a disk.
    """

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class Store(ABC):
    """Place of one data set; paths are relative to it, with ``/``.

    Stores are small, compare by place, and travel to workers.  Reading a file
    that is not there raises ``FileNotFoundError``; anything else that fails
    is an ``OSError`` when reading (:class:`StoreError` of a remote place), and an
    :class:`~pipeline.errors.OutputError` when writing.
    """

    @property
    @abstractmethod
    def local(self) -> Path | None:
        """The folder, if it is one of this machine."""

    @abstractmethod
    def address(self, path: str = "") -> Path | str:
        """Path or URL of a file, or of the place itself, as other libraries open it."""

    def __str__(self) -> str:
        return str(self.address())

    @abstractmethod
    def read(self, path: str) -> bytes:
        """All bytes of a file."""

    @abstractmethod
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; fewer where the file ends."""

    @abstractmethod
    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        """All bytes of each of many small files, in their order."""

    @abstractmethod
    def blocks(self, path: str) -> Iterator[bytes]:
        """A file in blocks of bounded size, in order."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is no such file."""

    @abstractmethod
    def exists(self, path: str = "") -> bool:
        """Whether there is such a file or folder; without a path, the place itself."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the files and folders directly in the place, sorted; none if it is not there."""

    @abstractmethod
    def paths(self, under: str = "") -> list[str]:
        """All files below a folder of the place, sorted; none if it is not there."""

    @abstractmethod
    def is_link_out(self, path: str) -> bool:
        """Whether a file is a link to somewhere outside."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None if the place does not tell."""

    @abstractmethod
    def make(self) -> None:
        """Make the place if it is missing."""

    @abstractmethod
    def write(self, path: str, data: bytes | bytearray | memoryview) -> None:
        """Write a file whole or not at all, durably; one of that name is replaced."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Make a file with its content at once if there is none of that name.

        Returns
        -------
        bool
            False if there is one already; of all who try, one makes it.
        """

    @abstractmethod
    def append(self, path: str, line: bytes) -> None:
        """Add a line to the journal ``path`` (its name ends in ``.jsonl``), durably.

        One process writes to a journal at a time.  Read journals by
        :func:`paths` of their folder and :func:`read_all`: a place that cannot append
        keeps the lines of ``a/b.jsonl`` in ``a/b/000001.jsonl`` and so on.
        """

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; none of that name is no error."""

    @abstractmethod
    def remove_all(self) -> None:
        """Remove all files, and the place itself."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove the temporary files that a kill left."""
