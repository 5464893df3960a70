"""YAML that remembers its lines and trusts nobody.

Only plain data is built (no tags that make objects), aliases and duplicate
keys are refused, and every key keeps its line for error messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RecipeError

MAX_BYTES = 1 << 20
"""A recipe larger than this is not a recipe."""

_PLAIN_TAGS = (yaml.SafeLoader.DEFAULT_MAPPING_TAG, yaml.SafeLoader.DEFAULT_SEQUENCE_TAG)

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlSource:
    """Plain data of a YAML file, and the line of every key.

    Attributes
    ----------
    path : Path or str
        The file, for messages.
    data : object
        Dicts, lists and scalars.
    lines : dict
        Key path, e.g. ``("grid", "n_grid")``, to line number counted from 1.
    """

    path: Path | str
    data: Any
    lines: dict[KeyPath, int]

    def where(self, key: KeyPath) -> str:
        """``file:line`` of a key, or of the closest parent that has one."""
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.path}:{self.lines.get(key, 1)}"


def load_yaml(path: Path) -> YamlSource:
    """Read a YAML file.

    Raises
    ------
    RecipeError
        If it cannot be read, is not YAML, or holds tags, aliases or duplicate keys.
    """
    return _parse(_read_text(path), path)


def _parse(text: str, path: Path | str) -> YamlSource:
    try:
        _refuse_aliases(text, path)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        data = {} if node is None else _construct(loader, node, (), lines, path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{path}:{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {error}") from error
    return YamlSource(path, data, lines)


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RecipeError(f"{path}: {size} bytes, expected at most {MAX_BYTES} for a recipe")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; write one with 'cosmoflow-prep init'") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: a folder, expected a recipe (YAML file)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error


def parse_yaml(raw: bytes, name: str) -> YamlSource:
    """Plain data of the bytes of a recipe; ``name`` is for messages."""
    try:
        return _parse(raw.decode("utf-8"), name)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{name}: cannot be read: {error}") from error


def _refuse_aliases(text: str, path: Path | str) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise RecipeError(f"{path}:{line}: aliases (*{event.anchor}) are not allowed")


def _construct(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    key: KeyPath,
    lines: dict[KeyPath, int],
    path: Path | str,
) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(key, line)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        raise RecipeError(f"{path}:{line}: the tag {node.tag} is not allowed; give plain data")
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(loader, node, key, lines, path)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, n, (*key, i), lines, path) for i, n in enumerate(node.value)]
    return loader.construct_object(node)


def _construct_mapping(
    loader: yaml.SafeLoader,
    node: yaml.MappingNode,
    key: KeyPath,
    lines: dict[KeyPath, int],
    path: Path | str,
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = str(name_node.value)
        line = name_node.start_mark.line + 1
        if name in result:
            first = lines[(*key, name)]
            raise RecipeError(f"{path}:{line}: {name!r} stands twice (first on line {first})")
        lines[(*key, name)] = line
        result[name] = _construct(loader, value_node, (*key, name), lines, path)
    return result
