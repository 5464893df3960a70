"""repair makes again exactly what is damaged, to the same bytes, and never anything worse."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import manifest as manifests
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import DatasetError, InputError, OutputError, RecipeError
from pipeline.lock import locked
from pipeline.manifest import load
from pipeline.remake import find_source
from pipeline.repair import Repair, Wishes, repair
from pipeline.verify import verify
from pipeline.write.stores import open_store
from tests.conftest import ROOT, Run
from tests.ensembles_made import write_ensemble, write_recipe
from tests.test_verify import rewritten

Damage = Callable[[Path], None]


@pytest.fixture(scope="module", params=["zarr", "tfrecord"])
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cluster: ClusterChoice
) -> Path:
    """Universes, recipe and, in ``out``, the data set: shards of two universes in train."""
    root = tmp_path_factory.mktemp("project")
    write_ensemble(root, n_universes=10, n_particles=64)
    recipe = write_recipe(
        root,
        grid__n_grid=4,
        split__subvolumes=1,
        augment={"offline": {"symmetries": 2}},
        output__format=request.param,
        output__samples_per_shard=4,
    )
    assert verify(build(recipe, cluster).output).passed
    return root


@pytest.fixture
def damaged(project: Path, tmp_path: Path) -> Path:
    """A copy of all of it, whose data set a test damages."""
    return Path(shutil.copytree(project, tmp_path / "project"))


def contents(dataset: Path) -> dict[str, bytes]:
    """All files but the ledger and the lock."""
    found = (p for p in dataset.rglob("*") if p.is_file())
    return {
        p.relative_to(dataset).as_posix(): p.read_bytes()
        for p in found
        if "ledger" not in p.relative_to(dataset).parts
    }


def run(root: Path, **wishes: bool) -> Repair:
    """Repair with what the build noted: nothing is named."""
    output = root / "out"
    return repair(output, find_source(open_store(output), None), Wishes(**wishes))


def flip(path: Path, place: int = 3) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def _shards(dataset: Path) -> list[Path]:
    return [dataset / shard.path for shard in load(dataset).shards]


def _delete(dataset: Path) -> None:
    _shards(dataset)[0].unlink()


def _flip(dataset: Path) -> None:
    flip(_shards(dataset)[1], 40)


def _cut(dataset: Path) -> None:
    path = _shards(dataset)[-1]
    path.write_bytes(path.read_bytes()[:-7])


def _empty(dataset: Path) -> None:
    _shards(dataset)[-1].write_bytes(b"")


def _swap(dataset: Path) -> None:
    a, b = (dataset / shard.path for shard in load(dataset).shards_of("train")[:2])
    first = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(first)


def _every_file(dataset: Path) -> None:
    for file in [*load(dataset).files, *load(dataset).shards]:
        flip(dataset / file.path, 0)
    for shard in load(dataset).shards:
        if shard.index is not None:
            flip(dataset / shard.index.path, 0)


def _every_shard_gone(dataset: Path) -> None:
    for path in _shards(dataset):
        path.unlink()


def _small_files(dataset: Path) -> None:
    for file in load(dataset).files[1:]:
        (dataset / file.path).unlink()
    for shard in load(dataset).shards:
        if shard.index is not None:
            flip(dataset / shard.index.path, 1)


def _recipe(dataset: Path) -> None:
    flip(dataset / "recipe.yaml")


@pytest.mark.parametrize(
    "damage",
    [_delete, _flip, _cut, _empty, _swap, _every_file, _every_shard_gone, _small_files, _recipe],
)
def test_every_damage_is_named_and_mended_to_the_same_bytes(damaged: Path, damage: Damage) -> None:
    output = damaged / "out"
    before = contents(output)
    damage(output)
    broken = contents(output)
    if broken == before:
        pytest.skip("records have no metadata")
    hurt = {path for path in before if broken.get(path) != before[path]}
    found = {fault.path for fault in verify(output).found}
    assert hurt <= found
    result = run(damaged)
    assert contents(output) == before
    assert not result.left
    assert set(result.repaired) == hurt
    assert verify(output).passed


def test_only_what_is_damaged_is_written(damaged: Path) -> None:
    output = damaged / "out"
    _delete(output)
    times = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
    assert run(damaged).repaired == [load(output).shards[0].path]
    assert {p for p, t in times.items() if p.exists() and p.stat().st_mtime_ns != t} == set()


def test_a_dry_run_changes_nothing(damaged: Path) -> None:
    output = damaged / "out"
    _flip(output)
    _recipe(output)
    (output / "train.zarr").mkdir(exist_ok=True)
    (output / "train.zarr/stranger").write_bytes(b"?")
    broken = contents(output)
    result = run(damaged, dry_run=True, remove_strangers=True)
    assert contents(output) == broken
    assert {load(output).shards[1].path, "recipe.yaml"} <= set(result.repaired)
    assert result.removed == ["train.zarr/stranger"]
    assert not (output / ".lock").exists()


def test_strangers_stay_unless_asked(damaged: Path) -> None:
    output = damaged / "out"
    stranger = _shards(output)[0].parent / "stranger"
    stranger.write_bytes(b"?")
    first = run(damaged)
    assert stranger.exists()
    assert len(first.left) == 1
    assert "--remove-strangers" in first.left[0]
    second = run(damaged, remove_strangers=True)
    assert not stranger.exists()
    assert second.removed == [stranger.relative_to(output).as_posix()]
    assert verify(output).passed


def test_a_link_is_replaced_and_what_it_leads_to_stays(damaged: Path, tmp_path: Path) -> None:
    output = damaged / "out"
    shard = _shards(output)[0]
    before = contents(output)
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    shard.unlink()
    shard.symlink_to(outside)
    assert not run(damaged).left
    assert outside.read_bytes() == b"mine"
    assert not shard.is_symlink()
    assert contents(output) == before


# ---------------------------------------------------------------- what cannot be mended


def test_an_input_that_changed_is_named_and_nothing_replaced(damaged: Path) -> None:
    """Fault row 13: the other shards are made again all the same."""
    output = damaged / "out"
    manifest = load(output)
    before = contents(output)
    _every_shard_gone(output)
    snapshot = damaged / "sims" / manifest.universes[0].id / "snap_1.hdf5"
    flip(snapshot, snapshot.stat().st_size - 5)
    result = run(damaged)
    n = manifest.splits["train"].samples_per_universe
    split = manifest.splits[manifest.universes[0].split]
    each = split.samples_per_universe
    sample = split.universes.index(manifest.universes[0].id) * each
    (lost,) = [
        s.path
        for s in manifest.shards
        if s.split == manifest.universes[0].split
        and s.first_sample <= sample < s.first_sample + s.samples
    ]
    assert n == 2
    (left,) = result.left
    assert left.startswith(f"{lost}: ")
    assert str(snapshot) in left
    assert "fingerprint" in left
    assert not (output / lost).exists()
    assert {p for p in before if p not in contents(output)} - {lost} <= {
        lost.replace(".tfrecord", ".idx")
    }


def test_a_universe_that_is_gone_is_named(damaged: Path) -> None:
    output = damaged / "out"
    universe = load(output).splits["train"].universes[0]
    shard = load(output).shards_of("train")[0]
    (output / shard.path).unlink()
    shutil.rmtree(damaged / "sims" / universe)
    (left,) = run(damaged).left
    assert left.startswith(f"{shard.path}: universe {universe} is not in the input")


def test_a_shard_that_comes_out_otherwise_is_not_replaced(damaged: Path) -> None:
    """The manifest asks for other bytes than the input gives: the file there is kept."""
    output = damaged / "out"

    def other(body: dict) -> None:
        body["shards"][0]["digest"] = "sha256:" + "0" * 64

    rewritten(output, other)
    before = contents(output)
    result = run(damaged)
    assert contents(output) == before
    assert "not replaced" in result.left[0]
    assert load(output).shards[0].path in result.left[0]


def test_another_recipe_is_refused_with_the_difference(damaged: Path) -> None:
    output = damaged / "out"
    _delete(output)
    _recipe(output)
    other = write_recipe(damaged, "other.yaml", grid__n_grid=4, split__subvolumes=1)
    broken = contents(output)
    with pytest.raises(RecipeError, match="recipe"):
        repair(output, find_source(open_store(output), other))
    assert contents(output) == broken
    assert not (output / ".lock").exists()


def test_the_input_root_serves_where_the_recipe_is_gone(damaged: Path) -> None:
    output = damaged / "out"
    before = contents(output)
    _delete(output)
    (damaged / "recipe.yaml").unlink()
    with pytest.raises(RecipeError, match="--recipe"):
        find_source(open_store(output), None)
    assert not repair(output, find_source(open_store(output), None, damaged)).left
    assert contents(output) == before


def test_a_table_that_is_gone(damaged: Path) -> None:
    _delete(damaged / "out")
    (damaged / "cosmology.csv").unlink()
    with pytest.raises(InputError, match=r"cosmology\.csv"):
        run(damaged)
    assert not (damaged / "out/.lock").exists()


# ---------------------------------------------------------------- manifest and ledger


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, None])
def test_a_damaged_manifest_is_made_again(damaged: Path, place: float | None) -> None:
    output = damaged / "out"
    before = contents(output)
    path = output / "manifest.json"
    flip(path, -20 if place is None else int(place * path.stat().st_size))
    _flip_first_shard = next(p for p in before if p.endswith(("0/0/0/0/0", "00000.tfrecord")))
    flip(output / _flip_first_shard, 30)
    result = run(damaged)
    assert not result.left
    assert set(result.repaired) == {"manifest.json", _flip_first_shard}
    assert contents(output) == before


def test_a_manifest_that_cannot_be_proved_is_not_replaced(damaged: Path) -> None:
    """Valid JSON of another data set, its digest and all the rest other."""
    path = damaged / "out/manifest.json"
    for raw in (b"", b"{}", path.read_bytes()[: path.stat().st_size // 2]):
        path.write_bytes(raw)
        with pytest.raises(DatasetError, match=r"not a manifest|changed"):
            run(damaged)
        assert path.read_bytes() == raw


def test_a_manifest_that_is_gone_is_published_by_resume(
    damaged: Path, cluster: ClusterChoice
) -> None:
    output = damaged / "out"
    before = contents(output)
    (output / "manifest.json").unlink()
    with pytest.raises(DatasetError, match="--resume"):
        run(damaged)
    build(damaged / "recipe.yaml", cluster, resume=True)
    assert contents(output) == before


def test_a_damaged_ledger_is_named_and_made_again(damaged: Path) -> None:
    """Fault row 15: every kind of file that a build leaves."""
    output = damaged / "out"
    before = contents(output)
    journals = sorted((output / "ledger").glob("*.jsonl"))
    assert journals
    for path in [*journals, output / "ledger/software.json", output / "ledger/universes.json"]:
        flip(path, path.stat().st_size // 2)
        named = verify(output).found
        assert named, path
        assert {fault.kind for fault in named} == {"ledger"}
        result = run(damaged)
        assert not result.left, result.left
        assert verify(output).passed
    assert contents(output) == before


def test_a_manifest_that_was_edited_is_not_taken_for_the_truth(damaged: Path) -> None:
    """Its digest is right, but ledger and samples know better: nothing is written."""
    output = damaged / "out"

    def edit(body: dict) -> None:
        body["universes"][0]["snapshots"][0]["maximum"] += 1

    rewritten(output, edit)
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    found = verify(output).found
    assert {fault.kind for fault in found} == {"content", "ledger"}
    result = run(damaged)
    assert not result.repaired
    assert len(result.left) == len(found)
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before


def test_a_torn_last_line_is_no_fault(damaged: Path) -> None:
    """Fault row 17: a kill leaves one, and the task is made again by another writer."""
    journal = next((damaged / "out/ledger").glob("*.jsonl"))
    line = journal.read_bytes().split(b"\n")[0]
    (journal.parent / "host-1-abcdef.jsonl").write_bytes(line[: len(line) // 2])
    assert verify(damaged / "out").passed


# ---------------------------------------------------------------- locks, kills, the command


def test_a_held_data_set_is_left_alone(damaged: Path) -> None:
    output = damaged / "out"
    _delete(output)
    broken = contents(output)
    with locked(output), pytest.raises(OutputError, match="another build holds it"):
        run(damaged)
    assert contents(output) == broken


def test_nothing_is_made_where_no_data_set_is(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(DatasetError, match="no data set"):
        repair(tmp_path / "nothing", find_source_of_nothing(tmp_path))
    assert not (tmp_path / "nothing").exists()


def find_source_of_nothing(root: Path) -> object:
    from pipeline.remake import Source

    return Source(None, root)


def test_a_repair_that_is_killed_is_gone_on_with(damaged: Path) -> None:
    output = damaged / "out"
    before = contents(output)
    _every_shard_gone(output)
    command = [sys.executable, "-m", "pipeline.cli", "repair", str(output), "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    paths = _shards(output)
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(p.exists() for p in paths) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    made = {p: before[p] for p in contents(output) if p in before}
    assert any((output / p).exists() for p in before)
    assert all(contents(output)[p] == raw for p, raw in made.items())
    assert not run(damaged).left
    assert contents(output) == before


def test_the_command(damaged: Path, prep: Run) -> None:
    output = damaged / "out"
    before = contents(output)
    shard = load(output).shards[0]
    _delete(output)
    told = prep("verify", output)
    assert told.returncode == 6
    assert f"fault: {shard.path}: missing" in told.stdout
    assert "samples 0 to " in told.stdout
    assert f"cosmoflow-prep repair {output}" in told.stderr
    dry = prep("repair", output, "--dry-run")
    assert dry.returncode == 6
    assert f"would be made again: {shard.path}" in dry.stdout
    done = prep("repair", output, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert shard.path in facts["repaired"]
    assert facts["found"][0]["kind"] == "missing"
    assert contents(output) == before
    again = prep("repair", output, "--recipe", damaged / "recipe.yaml")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    (output / "manifest.json").write_bytes(b"{}")
    assert prep("repair", output).returncode == 6


def test_on_workers_of_a_cluster(damaged: Path, cluster: ClusterChoice) -> None:
    output = damaged / "out"
    before = contents(output)
    _every_file(output)
    source = find_source(open_store(output), damaged / "recipe.yaml")
    result = repair(output, source, choice=cluster)
    assert not result.left
    assert contents(output) == before


def test_the_manifest_module_is_what_wrote_it(project: Path) -> None:
    """The oracle of the tests above: a manifest's own digest is that of its content."""
    raw = (project / "out/manifest.json").read_bytes()
    assert manifests.dump(manifests.parse(raw, "it")) == raw


# ---------------------------------------------------------------- data sets of several parts


@pytest.fixture(scope="module")
def extended(
    project: Path, tmp_path_factory: pytest.TempPathFactory, cluster: ClusterChoice
) -> Path:
    """The project with six universes more, added by an extension."""
    root = Path(shutil.copytree(project, tmp_path_factory.mktemp("more") / "project"))
    write_ensemble(root, n_universes=16, n_particles=64)
    build(root / "recipe.yaml", cluster, extend=True)
    assert len(load(root / "out").all_parts()) == 2
    return root


def test_every_file_of_an_extended_data_set(extended: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(extended, tmp_path / "project"))
    output = root / "out"
    assert verify(output).passed, verify(output).faults
    before = contents(output)
    _every_file(output)
    for journal in sorted((output / "ledger").rglob("*.jsonl")):
        flip(journal, 99)
    hurt = {path for path, raw in contents(output).items() if raw != before[path]}
    found = verify(output).found
    assert hurt <= {fault.path for fault in found}
    assert any(fault.path and fault.path.startswith("part-0001/") for fault in found)
    result = run(root)
    assert not result.left
    assert contents(output) == before
    assert verify(output).passed


def test_the_manifest_before_an_extension_and_after(extended: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(extended, tmp_path / "project"))
    output = root / "out"
    flip(output / "manifest.v1.json")
    assert {fault.path for fault in verify(output).found} == {"manifest.v1.json"}
    before = contents(extended / "out")
    assert run(root).repaired == ["manifest.v1.json"]
    assert contents(output) == before
    flip(output / "manifest.json")
    with pytest.raises(DatasetError, match=r"manifest\.v\*\.json"):
        run(root)


def test_in_an_object_store(project: Path) -> None:
    """The same where nothing can be renamed; paths of the lock and the ledger are objects."""
    url = f"memory://repair-{project.name}/set"
    remote, before = open_store(url), contents(project / "out")
    for path, raw in before.items():
        remote.write(path, raw)
    manifest = load(url)
    remote.remove(manifest.shards[0].path)
    remote.write(manifest.shards[1].path, before[manifest.shards[1].path][:-3])
    remote.write("recipe.yaml", b"name: other")
    remote.write(f"{manifest.shards[0].path}.stranger", b"?")
    source = find_source(remote, project / "recipe.yaml")
    result = repair(url, source, Wishes(remove_strangers=True))
    assert not result.left
    assert {path: remote.read(path) for path in remote.paths()} == before
    assert verify(url).passed
