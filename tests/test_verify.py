"""verify finds every damage and names the file; inspect and report read what is whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from pipeline import manifest as manifests
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import DatasetError
from pipeline.manifest import load
from pipeline.report import write_report
from pipeline.samples import universe_cube
from pipeline.verify import verify
from tests import proof_corruption
from tests.conftest import Run
from tests.ensembles_made import write_ensemble, write_recipe


@pytest.fixture(scope="module", params=["zarr", "tfrecord"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cluster: ClusterChoice
) -> Path:
    root = tmp_path_factory.mktemp("whole")
    write_ensemble(root, n_universes=10, n_particles=64)
    recipe = write_recipe(
        root,
        grid__n_grid=4,
        split__subvolumes=1,
        output__format=request.param,
        output__samples_per_shard=4,
    )
    return build(recipe, cluster).output


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def faults(dataset: Path) -> list[str]:
    return verify(dataset).faults


def rewritten(dataset: Path, change: object) -> None:
    """Publish the manifest again with ``change(body)`` made, as a wrong software would."""
    body = load(dataset).model_dump(mode="json")
    change(body)  # type: ignore[operator]
    changed = manifests.Manifest.model_validate(body)
    (dataset / "manifest.json").write_bytes(manifests.dump(changed))


def test_a_whole_data_set_passes(dataset: Path) -> None:
    result = verify(dataset)
    assert result.passed
    assert result.samples == 10
    assert result.bytes > 0


def test_every_changed_byte_of_every_file_is_found(dataset: Path) -> None:
    """Fault row 15, some bytes of each here; each byte of the manifest in test_manifest."""
    manifest = load(dataset)
    files = [*manifest.files, *manifest.shards, *(s.index for s in manifest.shards if s.index)]
    tried = 0
    for file in files:
        path = dataset / file.path
        raw = path.read_bytes()
        for position in range(0, len(raw), max(11, len(raw) // 6)):
            changed = bytearray(raw)
            changed[position] ^= 1 << position % 8
            path.write_bytes(changed)
            found = faults(dataset)
            assert any(fault.startswith(f"{file.path}: changed") for fault in found), file.path
            tried += 1
        path.write_bytes(raw)
    assert tried > 30
    assert verify(dataset).passed


@pytest.mark.parametrize("format", proof_corruption.FORMATS)
def test_bytes_of_every_file_and_of_the_ledger(
    tmp_path: Path, format: str, cluster: ClusterChoice
) -> None:
    """Fault row 15; ``tests/proof_corruption.py`` changes every byte."""
    made = proof_corruption.make(tmp_path, format, cluster)
    tried = [
        proof_corruption.damage(made, path, range(number % 7, (made / path).stat().st_size, 211))
        for number, path in enumerate(proof_corruption.files(made))
    ]
    assert [line for one in tried for line in one.undetected] == []
    assert sum(one.changes for one in tried) > 40
    assert {one.kind for one in tried} >= {"manifest", "ledger", "shards", "recipe"}


def test_every_deleted_or_cut_file_is_named(dataset: Path) -> None:
    """Fault rows 14 and 16."""
    manifest = load(dataset)
    for file in [*manifest.files, *manifest.shards]:
        path = dataset / file.path
        raw = path.read_bytes()
        path.write_bytes(raw[:-1])
        (cut,) = verify(dataset).found
        assert str(cut).startswith(f"{file.path}: {len(raw) - 1} bytes, expected {len(raw)}")
        assert (cut.kind, cut.path) == ("changed", file.path)
        path.unlink()
        (gone,) = verify(dataset).found
        assert str(gone).startswith(f"{file.path}: missing, expected {len(raw)} bytes")
        assert (gone.kind, gone.path) == ("missing", file.path)
        path.write_bytes(raw)


def test_files_that_nobody_listed_are_named(dataset: Path) -> None:
    folder = (dataset / load(dataset).shards[0].path).parent
    (folder / "stranger").write_bytes(b"?")
    assert any("stranger: not in manifest.json" in fault for fault in faults(dataset))


def test_links_out_of_the_data_set_are_refused(dataset: Path, tmp_path: Path) -> None:
    """Fault row 25."""
    path = dataset / load(dataset).shards[0].path
    shutil.move(path, tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    assert any("a link out of the data set" in fault for fault in faults(dataset))


def test_swapped_shards_are_found(dataset: Path) -> None:
    """Right bytes in the wrong place: sizes may agree, digests do not."""
    first, second, *_ = load(dataset).shards_of("train")
    a, b = dataset / first.path, dataset / second.path
    raw = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(raw)
    assert len(faults(dataset)) >= 2


def test_one_universe_in_two_splits(dataset: Path) -> None:
    """Fault row 27, in a manifest that says so itself."""

    def leak(body: dict) -> None:
        body["splits"]["test"]["universes"][0] = body["splits"]["train"]["universes"][0]

    rewritten(dataset, leak)
    assert any("2 times in the splits" in fault for fault in faults(dataset))


def test_one_snapshot_under_two_names(dataset: Path) -> None:
    def copy(body: dict) -> None:
        first, second, *_ = body["universes"]
        second["snapshots"][0]["fingerprint"] = first["snapshots"][0]["fingerprint"]

    rewritten(dataset, copy)
    assert any("same snapshot as universe" in fault for fault in faults(dataset))


def test_wrong_counts_parameters_and_targets(dataset: Path) -> None:
    def more_particles(body: dict) -> None:
        body["universes"][0]["snapshots"][1]["n_particles"] += 1

    rewritten(dataset, more_particles)
    fault, *others = faults(dataset)
    assert all(other.startswith("ledger: ") for other in others), others
    assert "its samples hold 64 particles, expected 65" in fault

    def other_parameter(body: dict) -> None:
        body["universes"][0]["snapshots"][1]["n_particles"] -= 1
        body["universes"][0]["parameters"]["sigma_8"] = 0.61

    rewritten(dataset, other_parameter)
    assert any("not those of" in fault for fault in faults(dataset))


@pytest.mark.parametrize("key", ["maximum", "variance"])
def test_moments_that_the_samples_do_not_have(dataset: Path, key: str) -> None:
    def other(body: dict) -> None:
        body["universes"][3]["snapshots"][1][key] *= 1.001

    before = getattr(load(dataset).universes[3].snapshots[1], key)
    rewritten(dataset, other)
    fault, *others = faults(dataset)
    assert all(other.startswith("ledger: ") for other in others), others
    assert fault.startswith("universe u003, redshift 1: the ")
    assert f"{before:.10g}, expected {before * 1.001:.10g}" in fault


def _unknown_universe(body: dict) -> None:
    body["splits"]["train"]["universes"][0] = "nobody"


def _no_parameter(body: dict) -> None:
    for universe in body["universes"]:
        del universe["parameters"]["n_s"]


def _too_many_samples(body: dict) -> None:
    body["shards"][-1]["samples"] += 100


def _too_few_universes(body: dict) -> None:
    for split in body["splits"].values():
        split["universes"].pop()


def _other_samples_per_universe(body: dict) -> None:
    for split in body["splits"].values():
        split["samples_per_universe"] = 10**12


def _far_channel(body: dict) -> None:
    for universe in body["universes"]:
        universe["snapshots"][1]["channel"] = 5


def _other_channels(body: dict) -> None:
    body["layout"]["sample_shape"][3] = 3


def _other_sides(body: dict) -> None:
    body["layout"]["subvolumes"] = 1000


def _no_split(body: dict) -> None:
    del body["splits"]["test"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_unknown_universe, "universe nobody: in a split, but not described"),
        (_no_parameter, "n_s = None"),
        (_too_many_samples, "shards hold "),
        (_too_few_universes, "samples, expected "),
        (_other_samples_per_universe, "1000000000000 samples a universe, expected 1"),
        (_far_channel, "channels [0, 5], expected them in order"),
        (_other_channels, "samples of 3 channels, but 2 redshifts"),
        (_other_sides, "1000 a side: expected 4 cells a side in all"),
    ],
)
def test_what_cannot_be_decoded_is_said_and_left_out(
    dataset: Path, change: object, said: str
) -> None:
    """No inconsistency of a manifest with itself is a traceback."""
    rewritten(dataset, change)
    found = faults(dataset)
    assert any(said in fault for fault in found), found
    assert any("samples were not looked at, for the faults above" in fault for fault in found)


def test_shards_of_a_split_that_is_not_described(dataset: Path) -> None:
    rewritten(dataset, _no_split)
    assert any("of the split test, which is not described" in fault for fault in faults(dataset))


@pytest.mark.parametrize("path", ["train.zarr/density/zarr.json", "train.zarr/zarr.json"])
def test_zarr_metadata_that_is_none(dataset: Path, path: str) -> None:
    """Rightly listed, with the right digest, and yet not Zarr."""
    if load(dataset).layout.format != "zarr":
        pytest.skip("only Zarr has metadata")
    (dataset / path).write_bytes(b"[]")

    def listed(body: dict) -> None:
        (file,) = (file for file in body["files"] if file["path"] == path)
        file |= {"bytes": 2, "digest": "sha256:" + hashlib.sha256(b"[]").hexdigest()}

    rewritten(dataset, listed)
    found = faults(dataset)
    assert found
    assert all(fault.startswith("train.zarr") for fault in found)


def test_missing_samples_are_counted(dataset: Path) -> None:
    def shorten(body: dict) -> None:
        body["shards"][0]["samples"] -= 1

    rewritten(dataset, shorten)
    assert faults(dataset)


def test_the_command(whole: Path, dataset: Path, prep: Run) -> None:
    good = prep("verify", dataset)
    assert good.returncode == 0
    assert "is whole" in good.stdout
    shard = load(dataset).shards[0]
    (dataset / shard.path).unlink()
    bad = prep("verify", dataset)
    assert bad.returncode == 6
    assert f"fault: {shard.path}: missing" in bad.stdout
    as_json = prep("verify", dataset, "--json")
    assert as_json.returncode == 6
    assert json.loads(as_json.stdout)["passed"] is False
    (dataset / "manifest.json").unlink()
    assert "did not finish" in prep("verify", dataset).stderr


def test_the_report_is_one_file_with_everything_escaped(dataset: Path) -> None:
    def rename(body: dict) -> None:
        body["name"] = "<script>alert(1)</script>"

    rewritten(dataset, rename)
    html = write_report(dataset).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("data:image/png;base64,") == 3
    assert "http" not in html.replace("http-equiv", "")


def test_a_cube_is_put_together_again(dataset: Path) -> None:
    manifest = load(dataset)
    for universe in manifest.universes:
        cube = universe_cube(dataset, manifest, universe.id)
        assert cube.shape == (4, 4, 4, 2)
        assert cube.sum() == 128
    with pytest.raises(DatasetError, match="no universe 'nobody'"):
        universe_cube(dataset, manifest, "nobody")
