"""Recipes: what is refused, with line and suggestion, and what defaults mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import (
    Recipe,
    load_recipe,
    recipe_difference,
    recipe_digest,
    recipe_yaml,
)
from pipeline.errors import RecipeError
from pipeline.yaml_source import load_yaml
from tests.ensembles_made import recipe_data, write_recipe

TEXT = """\
name: tiny
input:
  universes: "sims/*/"
  parameters: cosmology.csv
grid:
  n_grid: 8
  redshifts: [0.0, 1.0]
split: {subvolumes: 2}
targets: {Omega_m: [0.1, 0.5]}
output: {path: out, samples_per_shard: 16}
"""


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return str(caught.value)


def test_the_text_itself_is_right(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    recipe = load_recipe(path)
    assert recipe.sample_shape == (4, 4, 4, 2)
    assert recipe.dtype == "uint16"
    assert recipe.split.fractions == {"train": 0.8, "validation": 0.1, "test": 0.1}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("n_grid", "n_gird", [":6: grid.n_gird: unknown key; did you mean 'n_grid'?"]),
        ("n_grid: 8", "n_grid: eight", [":6: grid.n_grid: ", "found 'eight'"]),
        ("n_grid: 8", "n_grid: 9", ["n_grid 9 is not divisible by split.subvolumes 2", "1, 3"]),
        ("n_grid: 8", "n_grid: -8", [":6: grid.n_grid: "]),
        ("[0.0, 1.0]", "[0.0, 0.0]", [":5: grid: ", "one value twice"]),
        ("[0.0, 1.0]", "[.nan]", [":7: grid.redshifts.0: ", "finite"]),
        ("[0.1, 0.5]", "[0.5, 0.1]", [":9: targets.Omega_m: ", "low < high"]),
        ("{path: out,", "{path: out, format: zar,", ["did you mean 'zarr'?"]),
        ("samples_per_shard: 16", "samples_per_shard: 12", ["samples_per_shard 12", "use 8 or 16"]),
        ("{subvolumes: 2}", "{subvolumes: 2, fractions: {train: 0.5}}", ["add up to 0.5"]),
        ("{subvolumes: 2}", "{subvolumes: 2, fractions: {trian: 1}}", ["did you mean 'train'?"]),
        ("  n_grid: 8\n", "", [":5: grid.n_grid: is missing"]),
        ("  n_grid: 8\n", "  n_grid: 8\n  n_grid: 9\n", [":7: 'n_grid' stands twice", "line 6"]),
        ("name: tiny", "name: &a tiny\nnome: *a", [":2: aliases (*a) are not allowed"]),
        ("name: tiny", "name: ../tiny", [":1: name: "]),
        (
            "name: tiny",
            "name: !!python/object:os.system {}",
            [":1: the tag tag:yaml.org,2002:python/object:os.system is not allowed"],
        ),
        ("name: tiny", "name: [", ["recipe.yaml:"]),
        ("  n_grid: 8\n", "  n_grid: 8\n  scheme: tsc\n", None),
        ("path: out", "path: out, format: tfrecord, codec: fast", ["codec fast is not one of"]),
    ],
)
def test_typos(tmp_path: Path, old: str, new: str, expected: list[str] | None) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new)
    if expected is None:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        assert load_recipe(path).dtype == "float32"
        return
    message = refusal(tmp_path, text)
    for part in expected:
        assert part in message


def test_clouds_do_not_fit_integers_nor_silently_tfrecords(tmp_path: Path) -> None:
    text = TEXT.replace("n_grid: 8", "n_grid: 8\n  scheme: cic")
    assert "cannot hold the fractional masses" in refusal(
        tmp_path, text.replace("path: out", "path: out, dtype: uint16")
    )
    assert "int16 counts" in refusal(
        tmp_path, text.replace("path: out", "path: out, format: tfrecord")
    )


def test_offline_augmentation_multiplies_training_samples_only(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, augment={"offline": {"symmetries": 2, "shifts": True}})
    recipe = load_recipe(path)
    assert recipe.samples_per_universe("train") == 16
    assert recipe.samples_per_universe("test") == 8
    assert load_recipe(write_recipe(tmp_path, augment={"offline": "none"})).augment.variants == 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: " + b"x" * (1 << 20), b"", b"- 1\n"])
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(path)


def test_missing_recipe_and_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cosmoflow-prep init"):
        load_recipe(tmp_path / "no.yaml")
    with pytest.raises(RecipeError, match="a folder"):
        load_recipe(tmp_path)


@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.mktemp("yaml") / "recipe.yaml"
    path.write_bytes(raw)
    try:
        source = load_yaml(path)
    except RecipeError as error:
        message = str(error)
    else:
        message = source.where(("nothing",))
    assert message.startswith(str(path))


def test_resolved_recipe_loads_to_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, augment={"offline": {"symmetries": 2}}))
    again = Recipe.model_validate(yaml.safe_load(recipe_yaml(recipe)))
    assert again == recipe
    assert recipe_digest(again) == recipe_digest(recipe)


def test_digest_is_of_the_content_not_of_the_place() -> None:
    there = Recipe.model_validate(recipe_data())
    moved = Recipe.model_validate(recipe_data(output__path="elsewhere"))
    finer = Recipe.model_validate(recipe_data(grid__n_grid=16))
    assert recipe_digest(there) == recipe_digest(moved)
    assert recipe_digest(there) != recipe_digest(finer)
    assert recipe_difference(there, moved) == []
    assert recipe_difference(there, finer) == ["grid.n_grid: 8 there, 16 asked"]
