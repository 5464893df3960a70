"""environment.yml and pyproject.toml agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def requirement(text: str) -> tuple[str, str]:
    """Name in lower case and version specifier of a requirement, without extras and markers."""
    match = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?\s*([^;]*)", text)
    assert match, text
    return match[1].lower().replace("_", "-"), match[3].strip()


def wanted() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = list(project["dependencies"])
    for extra in ("simulate", "train", "mpi", "dev"):
        texts += project["optional-dependencies"][extra]
    found: dict[str, str] = {}
    for text in texts:
        name, versions = requirement(text)
        if name != "tensorflow":
            found.setdefault(name, versions)
    return found


def given() -> dict[str, str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    texts = []
    for entry in environment["dependencies"]:
        texts += entry["pip"] if isinstance(entry, dict) else [entry]
    return dict(requirement(text) for text in texts if not text.startswith("-e"))


def test_same_packages_and_versions() -> None:
    conda, project = given(), wanted()
    python = conda.pop("python")
    assert (
        python == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    conda.pop("pip")
    assert conda == project


def test_ceilings_have_a_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    ceilings = [i for i, line in enumerate(lines) if re.search(r'"[^"]*<\d', line)]
    assert ceilings, "the ceiling on jax is known"
    for i in ceilings:
        assert lines[i - 1].lstrip().startswith("#"), f"no reason above: {lines[i]}"
