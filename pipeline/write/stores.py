"""From what a user names, a path or a URL, to the store that it is."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.write.local_store import LocalStore
from pipeline.write.store import Store

Place = Store | Path | str
"""How a data set may be named: by its store, its folder or its URL."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z][A-Za-z0-9+.-]*)*)://(.*)", re.DOTALL)
_LOCAL_SCHEMES = ("file", "local")


def is_url(place: object) -> bool:
    """Whether a place is named by a URL: ``scheme://...``."""
    return isinstance(place, str) and _URL.fullmatch(place) is not None


def open_store(place: Place, base: Path | None = None) -> Store:
    """The store of a place; nothing is read or made.

    Parameters
    ----------
    place : Store, Path or str
        A store is given back as it is.  A string with ``scheme://`` is a URL.
    base : Path, optional
        Folder that a relative path starts from.

    Raises
    ------
    OutputError
        If the URL is none that a data set can have, see :func:`checked_url`.
    """
    if isinstance(place, Store):
        return place
    if not is_url(place):
        return LocalStore(Path(place) if base is None else base / place)
    try:
        scheme, rest = _parts(checked_url(str(place)))
    except ValueError as error:
        raise OutputError(str(error)) from None
    if scheme in _LOCAL_SCHEMES:
        return LocalStore(Path(rest))
    from pipeline.write.object_store import ObjectStore  # noqa: PLC0415  (seldom needed)

    return ObjectStore(f"{scheme}://{rest}")


def checked_url(url: str) -> str:
    """A URL that a data set can have; ``ValueError`` says why another one is refused."""
    scheme, rest = _parts(url)
    if "::" in scheme:
        raise ValueError(f"{url}: chained file systems (::) are not supported; name one place")
    if re.search(r"^[^/]*:[^/]*@", rest):
        raise ValueError(
            f"{scheme}://...@...: a password in a URL would be written into the data set; give it "
            "by the environment (docs/object-stores.md)"
        )
    if not rest.strip("/") or ".." in rest.split("/"):
        raise ValueError(f"{url}: expected {scheme}://bucket/folder, without '..'")
    if scheme not in (*_LOCAL_SCHEMES, "s3", "gs") and scheme not in _known_schemes():
        raise ValueError(
            f"{url}: {scheme}:// is not known; expected a path, or a URL such as "
            "s3://bucket/folder or gs://bucket/folder"
        )
    return url


def _parts(url: str) -> tuple[str, str]:
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(f"{url}: not a URL")
    return match[1].lower(), match[2]


def _known_schemes() -> list[str]:
    from fsspec.registry import available_protocols  # noqa: PLC0415  (seldom needed)

    known: list[str] = available_protocols()
    return known
