"""The scratch folder of a build whose universes are made in parts.

All workers and the build itself see it.  What a task has made is files, and
then a line of its own (a record) that names them: a build that is started
again goes on from there.  Nothing in it is part of the data set, and nothing is
left of it when the build is done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.errors import OutputError, RecipeError
from pipeline.write.atomic import explained
from pipeline.write.local_store import LocalStore
from pipeline.write.store import Store

FOLDER = ".scratch"
"""In the data set's folder, if no other place is given."""

KEY = "key"


def scratch_of(output: Store, given: Path | None) -> Path:
    """Scratch folder of a build.

    Raises
    ------
    RecipeError
        If the data set has a URL, and no folder is given.
    """
    if given is not None:
        name = hashlib.sha256(str(output).encode()).hexdigest()[:16]
        return given.absolute() / f"cosmoflow-{name}"
    if output.local is None:
        raise RecipeError(
            f"{output}: boxes larger than a worker's memory are made in parts, which need a "
            "scratch folder on a disk that all workers see; give one with --scratch DIR"
        )
    return output.local.absolute() / FOLDER


def folder_name(name: str) -> str:
    """Name of the folder of a universe or a task."""
    return quote(name, safe="")


@dataclass(frozen=True)
class Records:
    """What was made in one folder of the scratch, by name."""

    folder: Path

    def path(self, name: str) -> Path:
        """Path of a file."""
        return self.folder / name

    def begin(self, key: dict[str, Any]) -> dict[str, Any]:
        """Go on with what is there, if it was made for this key; else start with nothing.

        ``key["how"]`` is taken over from what is there: it does not show in the result.
        """
        before = self.recall(KEY)
        if before is not None and {**before, "how": None} == {**key, "how": None}:
            return before
        self.remove()
        self.record(KEY, key)
        return key

    def record(self, name: str, body: dict[str, Any]) -> None:
        """Say that something is made."""
        raw = json.dumps(body).encode()
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        line = b"%08x %s\n" % (zlib.crc32(raw), raw)
        LocalStore(self.folder).write(f"{name}.json", line)

    def recall(self, name: str) -> dict[str, Any] | None:
        """What was said of something; None if it is not made."""
        try:
            crc, _, raw = self.path(f"{name}.json").read_bytes().rstrip(b"\n").partition(b" ")
            if int(crc, 16) != zlib.crc32(raw):
                return None
            body: dict[str, Any] = json.loads(raw)
        except (OSError, ValueError):  # not made, or torn: it is made again
            return None
        return body

    def forget(self, name: str) -> None:
        """Have something made again."""
        with explained(self.path(name)):
            self.path(f"{name}.json").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder."""
        remove_folder(self.folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it; none of that name is no error."""
    with explained(folder), suppress(FileNotFoundError):
        shutil.rmtree(folder)


def sweep(root: Path, kept: Collection[str] = ()) -> None:
    """Remove all folders of a scratch but those of the names that are still made."""
    wanted = {folder_name(name) for name in kept}
    if not wanted:
        remove_folder(root)
        return
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name not in wanted:
            remove_folder(folder)


def check_room(root: Path, needed: int) -> None:
    """Refuse to start what the scratch's disk cannot hold.

    Raises
    ------
    OutputError
        With the bytes needed and free.
    """
    free = LocalStore(root).free_bytes()
    if free < needed:
        raise OutputError(
            f"{root}: up to {needed} bytes of scratch files needed for one universe in parts, "
            f"{free} free; free space, give another folder with --scratch DIR, or build all the "
            "same with --ignore-disk-space"
        )
