"""A data set at a URL: object stores, through fsspec.

Where there is no rename, a file is written by one PUT, which an object store
makes visible whole or not at all.  Where nothing can be appended, every line
of a journal is an object of its own.  Where there are no links, a lock is a
PUT on the condition that there is no object of that name.  All three need a
store that shows what was written as soon as the write has returned, as S3
and Google Cloud Storage do.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import CosmoflowError, MissingDependencyError
from pipeline.write.store import Store, StoreError

BLOCK_BYTES = 1 << 24
"""Bytes of one request of :meth:`ObjectStore.blocks`: each costs a journey."""

_THREADS = 16
_TEMPORARY_SUFFIX = ".tmp"
_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "ProfileNotFound",
    "TokenRetrievalError",
)
_appended: dict[str, int] = {}


@dataclass(frozen=True)
class ObjectStore(Store):
    """The place is ``url``, e.g. ``s3://bucket/folder``; credentials are the environment's."""

    url: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def local(self) -> None:
        """No folder of this machine."""
        return

    def address(self, path: str = "") -> str:
        """URL of a file, or of the place."""
        return f"{self.url}/{path}" if path else self.url

    def read(self, path: str) -> bytes:
        """All bytes of a file."""
        with _explained(self.address(path)):
            return bytes(self._files.cat_file(self._key(path)))

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; fewer where the file ends."""
        return self._range(path, start, min(start + length, self._known_size(path)))

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        """All bytes of each file, in order; several are asked for at once."""
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from pool.map(self.read, paths)

    def blocks(self, path: str) -> Iterator[bytes]:
        """A file in blocks of at most :data:`BLOCK_BYTES`."""
        size = self._known_size(path)
        for start in range(0, size, BLOCK_BYTES):
            yield self._range(path, start, min(start + BLOCK_BYTES, size))

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is no such file."""
        info = self._info(path)
        return int(info["size"]) if info and info["type"] == "file" else None

    def exists(self, path: str = "") -> bool:
        """Whether there is such an object, or any below it."""
        return self._info(path) is not None

    def names(self) -> list[str]:
        """Names of the objects and prefixes directly in the place."""
        try:
            with _explained(self.url):
                found = self._files.ls(self._key(), detail=False)
        except FileNotFoundError:
            return []
        return sorted({PurePosixPath(name).name for name in found} - {""})

    def paths(self, under: str = "") -> list[str]:
        """All objects below a prefix."""
        root, top = self._key() + "/", self._key(under) + "/"
        try:
            with _explained(self.address(under)):
                found = self._files.find(top.rstrip("/"))
        except FileNotFoundError:
            return []
        return sorted(name.removeprefix(root) for name in found if name.startswith(top))

    def is_link_out(self, path: str) -> bool:
        """Objects are no links."""
        return False

    def free_bytes(self) -> None:
        """Object stores do not tell."""
        return

    def make(self) -> None:
        """Nothing: a place comes to be with its first object; the bucket must be there."""

    def write(self, path: str, data: bytes | bytearray | memoryview) -> None:
        """Write a file by one PUT, and look whether it has the right size."""
        with self._writing(path):
            self._files.pipe_file(self._key(path), bytes(data))
        if (size := self.size(path)) != len(data):
            raise StoreError(
                errno.EIO,
                f"{size} bytes after {len(data)} were written; go on with --resume",
                self.address(path),
            )

    def create(self, path: str, data: bytes) -> bool:
        """Make a file by a PUT on the condition that there is none of that name.

        Whether the store keeps to the condition is tried out once: some servers
        accept it and write all the same, and two builds would hold one lock.
        """
        _check_conditions(self)
        return self._put_if_none(path, data)

    def append(self, path: str, line: bytes) -> None:
        """Write a line of the journal ``a/b.jsonl`` as ``a/b/000001.jsonl`` and so on."""
        folder = path.removesuffix(".jsonl")
        key = self.address(folder)
        if key not in _appended:
            _appended[key] = len(self.paths(folder))
        self.write(f"{folder}/{_appended[key] + 1:06d}.jsonl", line)
        _appended[key] += 1

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError), _explained(self.address(path)):
            self._files.rm_file(self._key(path))

    def remove_all(self) -> None:
        """Remove all objects."""
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self.remove, self.paths()))

    def sweep(self) -> None:
        """Remove what a killed process left of its locks: writing leaves nothing."""
        for path in self.paths():
            name = PurePosixPath(path).name
            if name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX):
                self.remove(path)

    @property
    def _files(self) -> Any:
        return _file_system(self.url)[0]

    def _key(self, path: str = "") -> str:
        root: str = _file_system(self.url)[1]
        return f"{root}/{path}" if path else root

    def _known_size(self, path: str) -> int:
        size = self.size(path)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", self.address(path))
        return size

    def _range(self, path: str, start: int, end: int) -> bytes:
        if start >= end:  # stores refuse an empty range
            return b""
        with _explained(self.address(path)):
            return bytes(self._files.cat_file(self._key(path), start=start, end=end))

    def _info(self, path: str) -> Any:
        """What fsspec knows of an object or prefix; None if there is none."""
        try:
            with _explained(self.address(path)):
                return self._files.info(self._key(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        address = self.address(path)
        try:
            with _explained(address):
                yield
        except FileNotFoundError as error:
            raise StoreError(
                errno.ENOENT, "no such bucket; make it first, or change output.path", address
            ) from error

    def _put_if_none(self, path: str, data: bytes) -> bool:
        try:
            with self._writing(path):
                _exclusive_put(self._files, self._key(path), data)
        except (FileExistsError, StoreError) as error:
            # servers word the refusal in many ways: what is there now decides.  Our own
            # content is there where a PUT was done, its answer lost, and it was sent again
            with suppress(FileNotFoundError):
                return self.read(path) == data
            if isinstance(error, StoreError):
                raise
            return False  # it was there, and was removed in between
        return True


@lru_cache
def _file_system(url: str) -> tuple[Any, str]:
    """File system of a URL and the URL's path in it."""
    from fsspec.core import url_to_fs  # noqa: PLC0415  (seldom needed)

    # what others write must be seen: no listing is remembered
    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("file:", "local:")):
        options["auto_mkdir"] = True
    with _explained(url):
        files, path = url_to_fs(url, **options)
        return files, path.rstrip("/")


def _exclusive_put(files: Any, key: str, data: bytes) -> None:
    from fsspec import AbstractFileSystem  # noqa: PLC0415  (seldom needed)

    if not files.async_impl and type(files).pipe_file is AbstractFileSystem.pipe_file:
        # its "create" looks and then writes; opening with x is one step, where it is known
        files.makedirs(files._parent(key), exist_ok=True)
        with files.open(key, "xb") as file:
            file.write(data)
        return
    files.pipe_file(key, data, mode="create")


@lru_cache
def _check_conditions(store: ObjectStore) -> None:
    """Refuse a store that does not keep to the condition of a PUT."""
    probe = f".probe-{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"
    try:
        first = store._put_if_none(probe, b"first")
        second = store._put_if_none(probe, b"second")
    except (TypeError, ValueError, NotImplementedError) as error:
        raise _no_locks(store) from error
    finally:
        store.remove(probe)
    if not first or second:
        raise _no_locks(store)


def _no_locks(store: ObjectStore) -> StoreError:
    return StoreError(
        errno.ENOTSUP,
        "the store cannot make an object on the condition that there is none (If-None-Match), so "
        "two builds could not be kept apart; build in a local folder and copy the data set there",
        store.url,
    )


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what a remote place or its library refuses into a :class:`StoreError`.

    What says that something is there or not there, and defects of our own, pass.
    """
    try:
        yield
    except (CosmoflowError, FileNotFoundError, FileExistsError, NotADirectoryError):
        raise
    except ImportError as error:
        scheme = url.split(":", maxsplit=1)[0]
        extra = ": pip install 'cosmoflow-prep[s3]'" if scheme in ("s3", "s3a") else ""
        raise MissingDependencyError(
            f"{url}: no library for {scheme}:// is installed ({error}){extra}"
        ) from error
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise StoreError(errno.EIO, reason, url) from error


def _reason(error: Exception) -> str | None:
    """What an error of fsspec or of a library behind it means; None: a defect of ours."""
    name, text = type(error).__name__, " ".join(str(error).split())
    if name in _CREDENTIALS:
        return f"no credentials ({text}); set them in the environment (docs/object-stores.md)"
    if isinstance(error, PermissionError):
        return f"access denied ({text}); check the credentials and the rights on the bucket"
    if isinstance(error, TimeoutError | ConnectionError) or "Timeout" in name or "Connect" in name:
        return f"no answer ({text or name}); check the network and the endpoint, then try again"
    if isinstance(error, OSError):
        return f"refused: {text or name}"
    # libraries have exceptions of their own; Python's are defects of ours
    return None if type(error).__module__ == "builtins" else f"refused: {name}: {text}"
