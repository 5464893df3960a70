"""Write the reference pages that follow from the code: ``python docs/generate.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from pipeline.config import Recipe

PAGE = Path(__file__).parent / "recipe.md"

_HEAD = """\
# Recipe keys

A recipe is a YAML file of plain data: everything that determines a data set. Unknown keys,
wrong types and impossible combinations are refused with the line and a suggestion before
anything is read.
Paths are relative to the recipe. This page is written by `python docs/generate.py`.
"""


def sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The model itself and every model inside it, with the key that leads there."""
    yield prefix, model
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from sections(kind, f"{prefix}.{name}" if prefix else name)


def default(field: Any) -> str:
    """Default of a key as YAML would have it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {inner:g}" for key, inner in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def table(model: type[BaseModel]) -> str:
    """One row a key."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        text = field.description or "see below"
        rows.append(f"| `{name}` | {default(field)} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for key, model in sections(Recipe):
        title = f"`{key}`" if key else "The recipe"
        text = (model.__doc__ or "").strip().splitlines()[0]
        parts.append(f"## {title}\n\n{text}\n\n{table(model)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE}\n")
