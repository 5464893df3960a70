"""The pages say what the code does."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

from cosmoflow_model.cli import cli as train_cli
from pipeline.cli import cli as prep_cli
from pipeline.config import load_recipe
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = {"cosmoflow-prep": prep_cli, "cosmoflow-train": train_cli}


def test_the_recipe_page_is_generated_from_the_models() -> None:
    generated = runpy.run_path(str(ROOT / "docs/generate.py"))["page"]()
    assert (ROOT / "docs/recipe.md").read_text() == generated, "run: python docs/generate.py"


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    for link in links:
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
    assert links or page.name != "README.md"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line.split(" ")[0] in COMMANDS})


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_readme_parse(line: str) -> None:
    """Each subcommand exists and takes these arguments and options."""
    program, name, *arguments = shlex.split(line)
    command = COMMANDS[program].commands[name]
    assert isinstance(command, click.Command)
    command.make_context(name, arguments)


def test_the_readmes_recipe_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert load_recipe(path).sample_shape == (128, 128, 128, 4)


def test_nothing_names_a_machines_paths() -> None:
    checked = 0
    for folder in ("pipeline", "cosmoflow_model", "docs", "benchmarks", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", "") and path.is_file():
                text = path.read_text(errors="ignore")
                assert not re.search(r"/(work|home|Users)/\w", text), path
                checked += 1
    assert checked > 60
