"""Extensions that are killed, refused or have nothing to do: the data set stays whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import pytest

from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import CosmoflowError, DatasetError, InputError, OutputError
from pipeline.manifest import load
from pipeline.verify import verify
from tests.conftest import ROOT, Run
from tests.ensembles_made import all_digests, write_recipe
from tests.extensions_made import LATER, Stop, arrive, content, files_of, spoil_headers

_CRASH = """
import os, sys
from pathlib import Path
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.write.local_store import LocalStore

left = int(sys.argv[3])

def counted(name):
    inner = getattr(LocalStore, name)
    def call(self, *arguments):
        global left
        left -= not arguments[0].startswith(".lock")
        if left == 0:
            os._exit(9)
        return inner(self, *arguments)
    setattr(LocalStore, name, call)

for name in ("write", "append", "create", "remove"):
    counted(name)
build(Path(sys.argv[1]), ClusterChoice(sys.argv[2]), extend=True, resume=True)
"""


def test_killed_at_any_write_the_data_set_is_the_old_or_the_new(
    growing: Path, cluster: ClusterChoice
) -> None:
    recipe = write_recipe(growing, output__format="tfrecord", output__samples_per_shard=40)
    build(recipe, cluster)
    arrive(growing, *LATER[:2])
    expected, versions = None, []
    for number in (99, *range(1, 99)):
        copy = growing.parent / str(number)
        shutil.copytree(growing, copy)
        command = [sys.executable, "-c", _CRASH, copy / recipe.name, cluster.cluster, number]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([str(part) for part in command], env=environment, check=False)
        assert verify(copy / "out").passed, f"after write {number}"
        versions.append(load(copy / "out").version)
        if versions[-1] == 1:
            assert done.returncode == 9
            build(copy / recipe.name, cluster, extend=True, resume=True)
        expected = expected or (content(copy / "out"), all_digests(copy / "out"))
        assert (content(copy / "out"), all_digests(copy / "out")) == expected
        if number < 99 and done.returncode == 0:
            break
    assert versions == [2] + [1] * (len(versions) - 2) + [2]
    assert len(versions) > 7


# ---------------------------------------------------------------- refused


@pytest.fixture
def published(growing: Path, cluster: ClusterChoice) -> Path:
    build(growing / "recipe.yaml", cluster)
    arrive(growing)
    return growing


def refused(
    root: Path,
    cluster: ClusterChoice,
    kind: type[CosmoflowError],
    pattern: str,
    recipe: str = "recipe.yaml",
) -> None:
    before = files_of(root / "out")
    with pytest.raises(kind, match=pattern):
        build(root / recipe, cluster, extend=True)
    assert files_of(root / "out") == before
    assert verify(root / "out").passed


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"grid__scheme": "cic"}, r"grid\.scheme: ngp there, cic asked"),
        ({"split__seed": 8}, r"split\.seed: 7 there, 8 asked"),
        ({"output__samples_per_shard": 8}, r"output\.samples_per_shard: 16 there, 8 asked"),
    ],
)
def test_another_recipe(
    published: Path, cluster: ClusterChoice, changes: Mapping[str, Any], pattern: str
) -> None:
    write_recipe(published, **changes)
    refused(published, cluster, OutputError, pattern)


def test_another_list_of_the_input_is_no_other_recipe(
    published: Path, cluster: ClusterChoice
) -> None:
    shutil.move(published / "cosmology.csv", published / "table.csv")
    for name in LATER:
        shutil.move(published / "sims" / name, published / "sims" / f"v{name}")
    text = (published / "table.csv").read_text()
    for name in LATER:
        text = text.replace(f"{name},", f"v{name},")
    (published / "table.csv").write_text(text)
    write_recipe(published, input={"universes": "sims/*[0-9]/", "parameters": "table.csv"})
    result = build(published / "recipe.yaml", cluster, extend=True)
    assert verify(result.output).passed
    assert len(result.manifest.universes) == 15
    assert "table.csv" in (published / "out/part-0001/recipe.yaml").read_text()


def test_other_software(published: Path, cluster: ClusterChoice) -> None:
    from pipeline import manifest as manifests

    manifest = load(published / "out")
    old = manifest.parts[0].model_copy(update={"software": {**manifest.software, "numpy": "1.0"}})
    raw = manifests.dump(manifest.model_copy(update={"parts": [old]}))
    (published / "out/manifest.json").write_bytes(raw)
    with pytest.raises(OutputError, match=r"software numpy: 1\.0 there"):
        build(published / "recipe.yaml", cluster, extend=True)


def test_a_universe_that_is_gone(published: Path, cluster: ClusterChoice) -> None:
    shutil.rmtree(published / "sims/u003")
    refused(published, cluster, InputError, r"universe 'u003' of the data set .* no longer")


def test_snapshots_that_changed(published: Path, cluster: ClusterChoice) -> None:
    """Fault row 13."""
    with h5py.File(published / "sims/u003/snap_0.hdf5", "r+") as file:
        file["PartType1/Coordinates"][0] += 1000.0
    spoil_headers(published, "u004")
    pattern = r"2 universes of the data set .*\n.*u003: its snapshots changed \(sims/u003/snap_0"
    refused(published, cluster, InputError, pattern)


def test_parameters_that_changed(published: Path, cluster: ClusterChoice) -> None:
    table = published / "cosmology.csv"
    lines = table.read_text().splitlines()
    lines[4] = ",".join([*lines[4].split(",")[:-1], "1.0"])
    table.write_text("\n".join(lines))
    refused(published, cluster, InputError, r"u003: its parameters changed")


def test_a_copy_of_what_is_there_under_another_name(
    published: Path, cluster: ClusterChoice
) -> None:
    """Fault row 27: it could be dealt to another split."""
    for path in (published / "sims" / LATER[2]).iterdir():
        path.unlink()
    for path in (published / "sims/u002").iterdir():
        shutil.copy(path, published / "sims" / LATER[2])
    table = published / "cosmology.csv"
    rows = dict(line.split(",", 1) for line in table.read_text().splitlines())
    table.write_text(table.read_text().replace(rows[LATER[2]], rows["u002"]))
    refused(published, cluster, InputError, r"'u012'.*'u002'.*the same snapshot")


def test_there_is_nothing_to_extend(growing: Path, cluster: ClusterChoice) -> None:
    with pytest.raises(DatasetError, match=r"no manifest\.json"):
        build(growing / "recipe.yaml", cluster, extend=True)
    with pytest.raises(KeyboardInterrupt):
        build(growing / "recipe.yaml", cluster, report=Stop("publish"))
    with pytest.raises(DatasetError, match=r"the build did not finish.*--resume"):
        build(growing / "recipe.yaml", cluster, extend=True)
    build(growing / "recipe.yaml", cluster, resume=True)
    with pytest.raises(InputError, match=r"nothing to add to .*: all 10 universes"):
        build(growing / "recipe.yaml", cluster, extend=True)


def test_the_command_line(published: Path, prep: Run, cluster: ClusterChoice) -> None:
    recipe = published / "recipe.yaml"
    assert prep("build", recipe, "--retry-quarantined").returncode == 2
    plain = prep("build", recipe, "--cluster", cluster.cluster)
    assert plain.returncode == 5
    assert "--extend" in plain.stderr
    with pytest.raises(KeyboardInterrupt):
        build(recipe, cluster, extend=True, report=Stop("publish"))
    spoil_headers(published, "u000")
    options = ("--extend", "--cluster", cluster.cluster)
    changed = prep("build", recipe, "--resume", *options)
    assert changed.returncode == 4
    assert f"go on with: cosmoflow-prep build {recipe} --resume --extend" in changed.stderr
