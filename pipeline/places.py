"""Where universes are: folders and files that the recipe's globs match, and what paths tell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.input_rules import Universes
from pipeline.parameter_table import check_unique, finite_number

_MAGIC = re.compile(r"[*?[]")
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]*")


@dataclass(frozen=True)
class Place:
    """A universe's place: a folder, or files beside each other.

    Attributes
    ----------
    id : str
    folder : Path
        The folder, or the one of the first file.
    files : tuple of Path
        Its files; none if it is the folder.
    """

    id: str
    folder: Path
    files: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, or the folder."""
        return self.files or (self.folder,)


def find_places(universes: Universes, root: Path, id_pattern: str | None) -> list[Place]:
    """Places of all universes, each id once.

    Parameters
    ----------
    universes : str or tuple of str
        A glob of folders or, if it matches no folder, of files; a folder whose
        sub-folders are universes; or a list of globs and of folders that are universes.
    root : Path
        What relative paths are relative to.
    id_pattern : str or None
        Searched in each path; files of one id are one universe.

    Raises
    ------
    InputError
        If an entry matches nothing, or two folders have one id.
    """
    if isinstance(universes, str):
        paths = _matches(root, universes, alone=True)
    else:
        found = (path for entry in universes for path in _matches(root, entry, alone=False))
        paths = list(dict.fromkeys(found))
    where = f"{root / universes}" if isinstance(universes, str) else f"{root}"
    return _grouped([(_id(path, root, id_pattern), path) for path in paths], id_pattern, where)


def named_parameters(place: Place, pattern: str, root: Path) -> dict[str, float]:
    """Parameters that a place's path tells by the named groups of a regular expression.

    Raises
    ------
    InputError
        If it is not found, is found with several values, or a value is not a number.
    """
    found = {_groups(path, pattern, root) for path in place.paths}
    if len(found) > 1:
        raise InputError(
            f"{place.folder}: the files of universe {place.id!r} have several parameters in "
            f"their names by input.parameters_pattern ({pattern}); a universe has one of each"
        )
    return {
        name: finite_number(text, f"{place.paths[0]}: {name} by input.parameters_pattern")
        for name, text in found.pop()
    }


def _matches(root: Path, entry: str, *, alone: bool) -> list[Path]:
    """Folders that an entry names, else files."""
    plain = root / entry if not _MAGIC.search(entry) else None
    if alone and plain is not None and plain.is_dir():
        return _sub_folders(plain)
    matches = [plain] if plain is not None and plain.exists() else _glob(root, entry)
    folders = [path for path in matches if path.is_dir()]
    files = [path for path in matches if path.is_file()]
    if not folders and not files:
        raise InputError(
            f"{root / entry}: no folder matches input.universes, and no file; each universe is "
            "expected to be a folder or a file"
        )
    return folders or files


def _sub_folders(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise InputError(
            f"{folder}: no folder in it, and each universe is expected to be one; if this is one "
            f"universe, give it in a list: [{folder.name}], or its files as a glob"
        )
    return found


def _glob(root: Path, pattern: str) -> list[Path]:
    base = Path(pattern)
    try:
        if base.is_absolute():
            return sorted(Path(base.anchor).glob(str(base.relative_to(base.anchor))))
        return sorted(root.glob(pattern))
    except (ValueError, NotImplementedError, OSError) as error:
        raise InputError(f"{root / pattern}: input.universes is no glob: {error}") from error


def _grouped(named: list[tuple[str, Path]], id_pattern: str | None, where: str) -> list[Place]:
    """Places by id; only files are put together, and only where a pattern gives the ids."""
    singles = [name for name, path in named if path.is_dir() or id_pattern is None]
    check_unique(singles, where, "ids must be unique: tell them apart with input.id_pattern")
    groups: dict[str, list[Path]] = {}
    for name, path in named:
        groups.setdefault(name, []).append(path)
    places = []
    for name, paths in groups.items():
        if len(paths) > 1 and any(path.is_dir() for path in paths):
            raise InputError(
                f"{where}: universe {name!r} is a folder and files; ids must be unique"
            )
        places.append(_place(name, paths))
    return places


def _place(name: str, paths: list[Path]) -> Place:
    if paths[0].is_dir():
        return Place(name, paths[0])
    return Place(name, paths[0].parent, tuple(paths))


def _id(path: Path, root: Path, pattern: str | None) -> str:
    if pattern is None:
        return _searched(path, root).rpartition("/")[2]
    text = _searched(path, root)
    found = sorted({match["id"] or "" for match in re.finditer(pattern, text)})
    if len(found) != 1 or not found[0]:
        raise InputError(
            f"{path}: input.id_pattern ({pattern}) finds {', '.join(found) or 'nothing'} in "
            f"{text!r}, expected one id"
        )
    return found[0]


def _groups(path: Path, pattern: str, root: Path) -> tuple[tuple[str, str], ...]:
    text = _searched(path, root)
    found = {tuple(match.groupdict().items()) for match in re.finditer(pattern, text)}
    if len(found) != 1:
        raise InputError(
            f"{path}: input.parameters_pattern ({pattern}) matches {_times(found)} in {text!r}, "
            "expected one set of parameters"
        )
    return found.pop()


def _times(found: Iterable[object]) -> str:
    n = len(list(found))
    return f"{n} different times" if n else "nothing"


def _searched(path: Path, root: Path) -> str:
    """A path as patterns see it: relative to the recipe, with /, a file's suffix left out."""
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    text = shown.as_posix()
    # a suffix begins with a letter: in Om0.3_s80.8 the last .8 is none
    if path.is_file() and _SUFFIX.fullmatch(path.suffix):
        return text.removesuffix(path.suffix)
    return text
