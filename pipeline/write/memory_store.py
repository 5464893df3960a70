"""A data set's files held in memory: made to be compared, or read once and looked at twice."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence

from pipeline.write.store import Store


class MemoryStore(Store):
    """Files by path; nothing of it is on a disk, and it does not travel.

    Parameters
    ----------
    files : mapping, optional
        Path to bytes, to begin with.
    name : str
        For messages.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None, name: str = "memory") -> None:
        self.files: dict[str, bytes] = dict(files or {})
        self._name = name

    @property
    def local(self) -> None:
        """No folder."""
        return

    def address(self, path: str = "") -> str:
        """Name, and path in it."""
        return f"{self._name}/{path}" if path else self._name

    def read(self, path: str) -> bytes:
        """All bytes of a file."""
        try:
            return self.files[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "not held", self.address(path)) from None

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; fewer where the file ends."""
        return self.read(path)[start : start + length]

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        """All bytes of each file, in order."""
        return map(self.read, paths)

    def blocks(self, path: str) -> Iterator[bytes]:
        """A file in one block."""
        yield self.read(path)

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is no such file."""
        return len(self.files[path]) if path in self.files else None

    def exists(self, path: str = "") -> bool:
        """Whether there is such a file or folder."""
        return path in self.files or bool(self.paths(path))

    def names(self) -> list[str]:
        """First parts of all paths."""
        return sorted({path.split("/")[0] for path in self.files})

    def paths(self, under: str = "") -> list[str]:
        """All files below a folder."""
        return sorted(path for path in self.files if not under or path.startswith(f"{under}/"))

    def is_link_out(self, path: str) -> bool:
        """There are no links."""
        return False

    def free_bytes(self) -> None:
        """Not told."""
        return

    def make(self) -> None:
        """Nothing: it is there."""

    def write(self, path: str, data: bytes | bytearray | memoryview) -> None:
        """Hold a file."""
        self.files[path] = bytes(data)

    def create(self, path: str, data: bytes) -> bool:
        """Hold a file if there is none of that name."""
        return self.files.setdefault(path, data) is data

    def append(self, path: str, line: bytes) -> None:
        """Add a line to a file."""
        self.files[path] = self.files.get(path, b"") + line

    def remove(self, path: str) -> None:
        """Hold a file no longer."""
        self.files.pop(path, None)

    def remove_all(self) -> None:
        """Hold nothing."""
        self.files.clear()

    def sweep(self) -> None:
        """Nothing: there is nothing temporary."""
