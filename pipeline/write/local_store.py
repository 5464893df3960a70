"""A data set in a folder: files by rename, locks by hard link, journals by append."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from pipeline.write.atomic import (
    TEMPORARY_SUFFIX,
    explained,
    sweep_temporaries,
    sync,
    write_atomically,
)
from pipeline.write.store import BLOCK_BYTES, Store


@dataclass(frozen=True)
class LocalStore(Store):
    """The place is the folder ``folder``, on this machine or on a network file system."""

    folder: Path

    @property
    def local(self) -> Path:
        """The folder."""
        return self.folder

    def address(self, path: str = "") -> Path:
        """Path of a file, or of the folder."""
        return self.folder / path

    def read(self, path: str) -> bytes:
        """All bytes of a file."""
        return (self.folder / path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; fewer where the file ends."""
        with (self.folder / path).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        """All bytes of each file, in order."""
        return map(self.read, paths)

    def blocks(self, path: str) -> Iterator[bytes]:
        """A file in blocks of at most :data:`BLOCK_BYTES`."""
        with (self.folder / path).open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is no such file."""
        file = self.folder / path
        try:
            return file.stat().st_size if file.is_file() else None
        except FileNotFoundError:
            return None

    def exists(self, path: str = "") -> bool:
        """Whether there is such a file or folder."""
        return (self.folder / path).exists()

    def names(self) -> list[str]:
        """Names of what is directly in the folder."""
        return sorted(p.name for p in self.folder.iterdir()) if self.folder.is_dir() else []

    def paths(self, under: str = "") -> list[str]:
        """All files below a folder; links to folders are not followed."""
        top = self.folder / under
        found = (Path(at) / name for at, _, names in os.walk(top) for name in names)
        return sorted(p.relative_to(self.folder).as_posix() for p in found if p.is_file())

    def is_link_out(self, path: str) -> bool:
        """Whether a file is a link to somewhere outside the folder."""
        return not (self.folder / path).resolve().is_relative_to(self.folder.resolve())

    def free_bytes(self) -> int:
        """Free bytes of the disk that holds the folder, or will."""
        there = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        return shutil.disk_usage(there).free

    def make(self) -> None:
        """Make the folder and those above it."""
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, data: bytes | bytearray | memoryview) -> None:
        """Write a file by :func:`~pipeline.write.atomic.write_atomically`."""
        write_atomically(self.folder / path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Make a file with its content at once: a link either takes the name or fails."""
        final = self.folder / path
        draft = final.with_name(f".{final.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
        with explained(final):
            draft.write_bytes(data)
            try:
                os.link(draft, final)
            except FileExistsError:
                return False
            finally:
                draft.unlink()
        return True

    def append(self, path: str, line: bytes) -> None:
        """Add a line to a file and sync it."""
        journal = self.folder / path
        with explained(journal):
            journal.parent.mkdir(parents=True, exist_ok=True)
            is_new = not journal.exists()
            with journal.open("ab", buffering=0) as file:
                _append_whole(file, line)
            if is_new:  # its name, too
                sync(journal.parent)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with explained(self.folder / path):
            (self.folder / path).unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def sweep(self) -> None:
        """Remove the temporary files that a kill left."""
        sweep_temporaries(self.folder)


def _append_whole(file: FileIO, line: bytes) -> None:
    """Add a line, or nothing: what follows a torn line would be lost with it."""
    end = file.seek(0, os.SEEK_END)
    try:
        left = memoryview(line)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(end)
        raise
