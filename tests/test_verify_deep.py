"""verify --deep makes shards again and finds what no digest can: what was published wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import InputError, RecipeError
from pipeline.manifest import Manifest, Shard, load
from pipeline.remake import find_source
from pipeline.runners import runner
from pipeline.samples import shard_samples
from pipeline.verify import verify
from pipeline.verify_deep import Comparison, Sampling, verify_deep
from pipeline.write import tfrecord, zarr
from pipeline.write.stores import open_store
from tests.conftest import Run
from tests.ensembles_made import write_ensemble, write_recipe
from tests.test_verify import rewritten

ALL = Sampling(fraction=1.0)


@pytest.fixture(scope="module", params=["zarr", "tfrecord"])
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cluster: ClusterChoice
) -> Path:
    root = tmp_path_factory.mktemp("project")
    write_ensemble(root, n_universes=10, n_particles=64)
    recipe = write_recipe(
        root,
        grid__n_grid=4,
        split__subvolumes=1,
        augment={"offline": {"symmetries": 4}},
        output__format=request.param,
        output__samples_per_shard=4,
    )
    build(recipe, cluster)
    return root


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project, tmp_path / "project"))


def deep(
    root: Path,
    sampling: Sampling = ALL,
    recipe: Path | None = None,
    input_root: Path | None = None,
    choice: ClusterChoice | None = None,
) -> Comparison:
    store = open_store(root / "out")
    source = find_source(store, recipe, input_root)
    with runner(choice, 0) as run:
        return verify_deep(run, store, load(store), source, sampling=sampling)


def files(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in (root / "out").rglob("*") if p.is_file()}


def forge(root: Path, manifest: Manifest, shard: Shard, at: tuple[int, ...], to: int) -> None:
    """Change one cell of a sample, and shard and manifest to match: all digests are right."""
    samples = list(shard_samples(root / "out", manifest, shard))
    cells = np.stack([sample.cells for sample in samples])
    cells[at] = to
    path = root / "out" / shard.path
    changes: dict[str, object] = {}
    if manifest.layout.format == "zarr":
        path.write_bytes(zarr.encode_shard(cells, manifest.layout.samples_per_shard, "fast"))
    else:
        encoded = tfrecord.encode_records(cells, np.stack([s.targets for s in samples]), False)
        path.write_bytes(encoded.data)
    raw = path.read_bytes()
    changes = {"bytes": len(raw), "digest": "sha256:" + hashlib.sha256(raw).hexdigest()}

    def publish(body: dict) -> None:
        (entry,) = (s for s in body["shards"] if s["path"] == shard.path)
        entry |= changes

    rewritten(root / "out", publish)
    shutil.rmtree(root / "out/ledger")  # a ledger would tell


def test_a_right_data_set_is_the_same_byte_for_byte(project: Path) -> None:
    before = files(project)
    result = deep(project)
    assert (result.found, result.not_compared) == ([], [])
    assert result.compared == len(load(project / "out").shards)
    assert files(project) == before


def test_a_forged_shard_is_found_down_to_the_channel(copy: Path) -> None:
    """Two cells changed so that even the sum is right: only making it again tells."""
    manifest = load(copy / "out")
    shard = manifest.shards_of("train")[1]
    cells = list(shard_samples(copy / "out", manifest, shard))[2].cells
    value = int(cells[1, 2, 3, 1])
    forge(copy, manifest, shard, (2, 1, 2, 3, 1), value + 5)
    result = deep(copy, recipe=copy / "recipe.yaml")
    sample = shard.first_sample + 2
    universe = manifest.splits["train"].universes[sample // 4]
    (fault,) = result.found
    assert (fault.path, fault.split, fault.first_sample) == (shard.path, "train", sample)
    assert (fault.samples, fault.universe) == (1, universe)
    assert f"train sample {sample} (universe {universe}): channel 1 by at most 5" in str(fault)


def test_a_forged_shard_that_keeps_every_moment(copy: Path) -> None:
    """Two cells exchanged: digests, mass, largest cell and variance are all right."""
    manifest = load(copy / "out")
    shard = manifest.shards_of("train")[0]
    cells = next(iter(shard_samples(copy / "out", manifest, shard))).cells[..., 0]
    a, b = np.argwhere(cells == cells.max())[0], np.argwhere(cells == cells.min())[0]
    largest, least = int(cells.max()), int(cells.min())
    forge(copy, manifest, shard, (0, *a, 0), least)
    again = load(copy / "out")
    forge_shard = again.shards_of("train")[0]
    (copy / "out/ledger").mkdir()
    forge(copy, again, forge_shard, (0, *b, 0), largest)
    assert verify(copy / "out").passed
    (fault,) = deep(copy, recipe=copy / "recipe.yaml").found
    assert fault.path == shard.path
    assert f"by at most {largest - least}, in 2 cells" in str(fault)


def test_a_record_of_the_manifest_that_the_input_does_not_give(copy: Path) -> None:
    def other(body: dict) -> None:
        for universe in body["universes"]:
            universe["snapshots"][0]["mass_deviation"] += 0.25

    rewritten(copy / "out", other)
    found = deep(copy).found
    assert len(found) == 10
    assert "mass_deviation is 0.25 in the manifest, the input gives 0.0" in str(found[0])


def test_small_files_that_the_recipe_does_not_give(copy: Path) -> None:
    manifest = load(copy / "out")
    if manifest.layout.format != "zarr":
        pytest.skip("only Zarr has tables")
    path = "train.zarr/zarr.json"
    raw = (copy / "out" / path).read_bytes() + b"\n"
    (copy / "out" / path).write_bytes(raw)

    def listed(body: dict) -> None:
        (file,) = (file for file in body["files"] if file["path"] == path)
        file |= {"bytes": len(raw), "digest": "sha256:" + hashlib.sha256(raw).hexdigest()}

    rewritten(copy / "out", listed)
    (fault,) = deep(copy).found
    assert fault.path == path


def test_an_input_that_is_gone_or_another_is_named(copy: Path) -> None:
    universes = load(copy / "out").splits["train"].universes
    changed = copy / "sims" / universes[0] / "snap_0.hdf5"
    raw = bytearray(changed.read_bytes())
    raw[-9] ^= 4
    changed.write_bytes(raw)
    shutil.rmtree(copy / "sims" / universes[1])
    result = deep(copy)
    text = "\n".join(result.not_compared)
    assert not result.found
    assert f"{changed}: changed since universe {universes[0]} was made of it" in text
    assert f"universe {universes[1]} is not in the input" in text
    assert result.compared == len(load(copy / "out").shards) - 2


def test_a_parameter_that_changed_is_named(copy: Path) -> None:
    table = copy / "cosmology.csv"
    head, first, *others = table.read_text().splitlines()
    name, Omega_m, _, n_s = first.split(",")
    table.write_text("\n".join([head, f"{name},{Omega_m},0.625,{n_s}", *others]))
    text = "\n".join(deep(copy).not_compared)
    assert f"universe {name}" in text
    assert "0.625" in text


def test_another_recipe_is_refused(copy: Path) -> None:
    (copy / "out/recipe.yaml").unlink()
    other = write_recipe(copy, "other.yaml", grid__n_grid=4, split__subvolumes=1)
    with pytest.raises(RecipeError, match="--recipe"):
        deep(copy, recipe=other)


def test_the_input_may_have_moved(copy: Path, tmp_path: Path) -> None:
    (copy / "recipe.yaml").unlink()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("sims", "cosmology.csv"):
        shutil.move(copy / name, moved / name)
    result = deep(copy, input_root=moved)
    assert (result.found, result.not_compared) == ([], [])
    with pytest.raises(InputError):
        deep(copy, input_root=tmp_path)


def test_other_software_is_named_as_the_reason(copy: Path) -> None:
    manifest = load(copy / "out")
    forge(copy, manifest, manifest.shards[0], (0, 0, 0, 0, 0), 60)

    def older(body: dict) -> None:
        for software in (body["software"], *(part["software"] for part in body["parts"])):
            software["numpy"] = "1.0"

    rewritten(copy / "out", older)
    result = deep(copy, recipe=copy / "recipe.yaml")
    assert len(result.found) == 1
    assert any("numpy: 1.0 there" in note for note in result.notes)


def test_a_sample_is_the_seeds_and_grows(project: Path) -> None:
    shards = load(project / "out").shards
    few, same = Sampling(shards=3, seed=5).choose(shards), Sampling(shards=3, seed=5).choose(shards)
    assert few == same
    assert few == Sampling(fraction=1.0, seed=5).choose(shards)[:3]
    assert len(Sampling(fraction=0.01).choose(shards)) == 1
    chosen = {tuple(s.path for s in Sampling(shards=3, seed=n).choose(shards)) for n in range(9)}
    assert len(chosen) > 4
    assert deep(project, Sampling(shards=2)).compared == 2


def test_on_workers_of_a_cluster(copy: Path, cluster: ClusterChoice) -> None:
    manifest = load(copy / "out")
    forge(copy, manifest, manifest.shards[-1], (0, 0, 0, 0, 0), 61)
    here = deep(copy, recipe=copy / "recipe.yaml")
    there = deep(copy, recipe=copy / "recipe.yaml", choice=cluster)
    assert here == there
    assert len(here.found) == 1


def test_the_command(copy: Path, prep: Run) -> None:
    output = copy / "out"
    good = prep("verify", output, "--deep", "--shards", "2", "--seed", "3")
    assert good.returncode == 0, good.stderr
    assert "2 shards made again are the same, byte for byte" in good.stdout
    manifest = load(output)
    forge(copy, manifest, manifest.shards[0], (0, 0, 0, 0, 0), 60)
    bad = prep(
        "verify", output, "--deep", "--fraction", "1", "--recipe", copy / "recipe.yaml", "--json"
    )
    assert bad.returncode == 6
    facts = json.loads(bad.stdout)["deep"]
    assert facts["details"][0]["path"] == manifest.shards[0].path
