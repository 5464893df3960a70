"""The commands as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.cli import cli
from pipeline.terminal import size
from tests.conftest import ROOT, Run
from tests.ensembles_made import write_recipe
from tests.snapshots_made import random_positions


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_with_an_example(name: str, prep: Run) -> None:
    done = prep(name, "--help")
    assert done.returncode == 0
    assert f"cosmoflow-prep {name}" in done.stdout


def test_exit_codes_in_the_help_are_those_of_the_errors() -> None:
    from pipeline import errors

    text = " ".join((cli.help or "").split())
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.CosmoflowError)
    }
    assert codes == {1, 3, 4, 5, 6, 7, 8, 9, 10}
    table = (ROOT / "docs/exit-codes.md").read_text()
    for code in (0, 2, *codes, 130, 143):
        assert f"{code} " in text
        assert f"| {code} |" in table


def test_init_fills_in_what_the_folder_says_and_its_recipe_builds(
    ensemble: Path, prep: Run
) -> None:
    done = prep("init", "sims", "-o", "mine.yaml", "--name", "mine", cwd=ensemble)
    assert done.returncode == 0, done.stderr
    assert "10 folders in sims; the first holds 2 snapshots" in done.stdout
    data = yaml.safe_load((ensemble / "mine.yaml").read_text())
    assert data["grid"]["n_grid"] == 8
    assert data["grid"]["redshifts"] == [0.0, 1.0]
    assert list(data["targets"]) == ["Omega_m", "sigma_8", "n_s"]
    again = prep("init", "sims", "-o", "mine.yaml", cwd=ensemble)
    assert again.returncode == 5
    assert "not overwritten" in again.stderr
    built = prep("build", "mine.yaml", "--workers", "1", cwd=ensemble)
    assert built.returncode == 0, built.stderr
    verified = prep("verify", "datasets/mine", cwd=ensemble)
    assert verified.returncode == 0, verified.stdout


def test_init_without_a_folder_gives_a_recipe_to_fill_in(tmp_path: Path, prep: Run) -> None:
    from pipeline.config import load_recipe

    assert prep("init").returncode == 0
    assert load_recipe(tmp_path / "recipe.yaml").grid.n_grid == 512
    (tmp_path / "empty").mkdir()
    done = prep("init", "empty", "-o", "b.yaml")
    assert done.returncode == 4
    assert "no sub-folder holds a snapshot" in done.stderr
    assert not (tmp_path / "b.yaml").exists()


def test_init_passes_over_blank_cells_and_refuses_other_words(ensemble: Path, prep: Run) -> None:
    table = ensemble / "cosmology.csv"
    table.write_text("id,Omega_m,sigma_8,n_s\nu000,0.21,,1\nu001,0.39,0.7\nu002, ,0.9,1\n")
    done = prep("init", "sims", "-o", "blank.yaml", cwd=ensemble)
    assert done.returncode == 0, done.stderr
    targets = yaml.safe_load((ensemble / "blank.yaml").read_text())["targets"]
    assert targets == {"Omega_m": [0.21, 0.39], "sigma_8": [0.7, 0.9]}
    table.write_text("id,Omega_m\nu000,0.2\nu001,unknown\n")
    done = prep("init", "sims", "-o", "word.yaml", cwd=ensemble)
    assert done.returncode == 4
    assert "cosmology.csv: Omega_m of universe 'u001' is 'unknown'" in done.stderr
    assert not (ensemble / "word.yaml").exists()


@pytest.mark.parametrize("name", ["my data", "", "-x", "a/b", "x\n"])
def test_init_refuses_names_that_a_recipe_cannot_have(tmp_path: Path, name: str) -> None:
    from pipeline.errors import RecipeError
    from pipeline.starter import write_recipe as begin

    with pytest.raises(RecipeError, match="cannot be the name of a data set"):
        begin(tmp_path / "recipe.yaml", None, name)
    assert list(tmp_path.iterdir()) == []


def test_init_takes_a_name_that_yaml_would_read_as_a_number(tmp_path: Path) -> None:
    from pipeline.config import load_recipe
    from pipeline.starter import write_recipe as begin

    begin(tmp_path / "recipe.yaml", None, "123")
    assert load_recipe(tmp_path / "recipe.yaml").name == "123"


def test_inspect_takes_folders_that_are_snapshots(tmp_path: Path) -> None:
    from pipeline.errors import DatasetError
    from pipeline.inspect import describe
    from tests.bigfile_made import write_mp_gadget

    entry = write_mp_gadget(tmp_path / "PART_000", random_positions(64))
    facts = describe(tmp_path / "PART_000")
    assert facts["kind"] == "snapshot"
    assert facts == describe(entry)
    with pytest.raises(DatasetError, match="no data set"):
        describe(tmp_path)


def test_check_prints_what_would_be_read_and_every_refusal(ensemble: Path, prep: Run) -> None:
    good = prep("check", ensemble / "recipe.yaml", "--workers", "1")
    assert good.returncode == 0, good.stderr
    assert "10 universes would be read" in good.stdout
    (ensemble / "sims/u004/snap_0.hdf5").write_bytes(b"not a snapshot")
    (ensemble / "sims/u006/snap_1.hdf5").unlink()
    bad = prep("check", ensemble / "recipe.yaml", "--workers", "1")
    assert bad.returncode == 4
    assert "8 universes would be read" in bad.stdout
    for name in ("u004", "u006"):
        assert f"refused: {name}: " in bad.stderr
    as_json = json.loads(prep("check", ensemble / "recipe.yaml", "--json").stdout)
    assert sorted(as_json["refused"]) == ["u004", "u006"]
    assert len(as_json["accepted"]) == 8


def test_plan_says_what_a_build_would_do_and_writes_nothing(ensemble: Path, prep: Run) -> None:
    done = prep("plan", ensemble / "recipe.yaml", "--json")
    facts = json.loads(done.stdout)
    assert facts["samples"] == {"train": 48, "validation": 16, "test": 16}
    assert facts["shards"] == 5
    assert facts["output_bytes_uncompressed"] == 80 * 4**3 * 2 * 2
    assert facts["particles"] == 10 * 2 * 512
    assert not (ensemble / "out").exists()
    text = prep("plan", ensemble / "recipe.yaml").stdout
    assert "memory of one worker: at most" in text


def test_inspect_knows_what_it_is_shown(ensemble: Path, prep: Run) -> None:
    def kind(path: Path) -> str:
        done = prep("inspect", path, "--json")
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["kind"])

    recipe = write_recipe(ensemble)
    assert kind(recipe) == "recipe"
    assert kind(ensemble / "sims/u000/snap_1.hdf5") == "snapshot"
    assert prep("build", recipe, "--workers", "1").returncode == 0
    assert kind(ensemble / "out") == "data set"
    (ensemble / "out/manifest.json").unlink()
    assert kind(ensemble / "out") == "unfinished build"
    nothing = prep("inspect", ensemble / "sims")
    assert nothing.returncode == 6
    assert "no data set" in nothing.stderr
    assert prep("inspect", ensemble / "no.hdf5").returncode == 4
    assert "Omega_m" in prep("inspect", ensemble / "sims/u000/snap_1.hdf5").stdout


def test_sizes_are_readable() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 << 30, 3 << 42)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "12.0 TiB",
    ]
