"""Real builds with real Dask workers: content, determinism, faults, resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import xarray as xr
import yaml
import zarr

from pipeline.augment import variant
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.deposit.oracle import deposit_reference
from pipeline.errors import InputError, OutputError, SnapshotError
from pipeline.manifest import load, scale_target
from pipeline.readers import open_snapshot
from pipeline.samples import universe_cube
from pipeline.subvolume import split_cube
from pipeline.verify import verify
from tests.conftest import ROOT, Run
from tests.ensembles_made import BOX_SIZE, all_digests, write_ensemble, write_recipe
from tests.snapshots_made import write_gadget_binary, write_gadget_hdf5


def positions_of(path: Path) -> np.ndarray:
    """Positions straight from the file, without our readers, Mpc/h."""
    with h5py.File(path) as file:
        return file["PartType1/Coordinates"][...] * np.float32(1e-3)


@pytest.mark.parametrize("scheme", ["ngp", "cic", "tsc", "pcs"])
def test_every_sample_is_the_oracles(ensemble: Path, cluster: ClusterChoice, scheme: str) -> None:
    recipe = write_recipe(ensemble, grid__scheme=scheme)
    result = build(recipe, cluster)
    table = dict(
        line.split(",", 1) for line in (ensemble / "cosmology.csv").read_text().splitlines()
    )
    for split, members in result.manifest.splits.items():
        data = xr.open_zarr(result.output / f"{split}.zarr")
        assert list(data["parameter"].values) == ["Omega_m", "sigma_8", "n_s"]
        assert list(data["channel"].values) == [0.0, 1.0]
        density = data["density"].values.astype(np.float64)
        for number, universe in enumerate(members.universes):
            rows = slice(8 * number, 8 * number + 8)
            for channel in range(2):
                positions = positions_of(ensemble / "sims" / universe / f"snap_{channel}.hdf5")
                cube = deposit_reference(positions, 8, BOX_SIZE, scheme)
                expected = split_cube(cube[..., None], 2)[..., 0]
                np.testing.assert_allclose(density[rows, ..., channel], expected, atol=1e-5)
            physical = [float(v) for v in table[universe].split(",")]
            np.testing.assert_array_equal(data["parameters"].values[rows], [physical] * 8)
            limits = result.manifest.targets.values()
            scaled = [scale_target(v, *r) for v, r in zip(physical, limits, strict=True)]
            np.testing.assert_allclose(data["target"].values[rows], [scaled] * 8, atol=1e-6)
            assert set(data["universe"].values[rows]) == {universe}
    assert verify(result.output).passed


def test_stored_variants_of_training_cubes(ensemble: Path, cluster: ClusterChoice) -> None:
    recipe = write_recipe(
        ensemble,
        augment={"offline": {"symmetries": 3, "shifts": True}},
        output__samples_per_shard=24,
    )
    result = build(recipe, cluster)
    train = result.manifest.splits["train"]
    assert train.samples == len(train.universes) * 24
    group = zarr.open_group(result.output / "train.zarr", mode="r")
    for number, universe in enumerate(train.universes):
        cube = universe_cube(result.output, result.manifest, universe)
        for which in range(3):
            start = 24 * number + 8 * which
            expected = split_cube(variant(cube, 7, universe, which, True), 2)
            np.testing.assert_array_equal(group["density"][start : start + 8], expected)
            assert set(group["variant"][start : start + 8]) == {which}
    assert result.manifest.splits["test"].samples_per_universe == 8
    assert verify(result.output).passed


@pytest.mark.parametrize("samples_per_shard", [2, 8, 16, 80])
def test_shards_of_any_size_hold_the_same_samples(
    ensemble: Path, cluster: ClusterChoice, samples_per_shard: int
) -> None:
    recipe = write_recipe(ensemble, output__samples_per_shard=samples_per_shard)
    result = build(recipe, cluster)
    assert verify(result.output).passed
    other = write_recipe(ensemble, "other.yaml", output__path="other", output__samples_per_shard=4)
    reference = build(other, cluster).output
    for split in result.manifest.splits:
        ours = zarr.open_group(result.output / f"{split}.zarr", mode="r")
        theirs = zarr.open_group(reference / f"{split}.zarr", mode="r")
        for name in ("density", "target", "universe", "subvolume"):
            np.testing.assert_array_equal(ours[name][...], theirs[name][...])


def test_same_bytes_for_any_workers_and_order(ensemble: Path, cluster: ClusterChoice) -> None:
    """Fault row 28: one worker, two, a rerun: one set of digests."""
    digests = []
    for number, choice in enumerate([cluster, ClusterChoice(workers=1), ClusterChoice(workers=3)]):
        recipe = write_recipe(ensemble, f"r{number}.yaml", output__path=f"out{number}")
        output = build(recipe, choice).output
        # recipe.yaml holds the output's own place
        digests.append({k: v for k, v in all_digests(output).items() if k != "recipe.yaml"})
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_tfrecord_twin_holds_the_same_samples(
    ensemble: Path, cluster: ClusterChoice, codec: str
) -> None:
    tf = pytest.importorskip("tensorflow", reason="needs the train extra")
    zarr_set = build(write_recipe(ensemble), cluster)
    recipe = write_recipe(
        ensemble, "t.yaml", output__path="twin", output__format="tfrecord", output__codec=codec
    )
    twin = build(recipe, cluster)
    assert verify(twin.output).passed
    for split in twin.manifest.splits:
        files = [str(twin.output / s.path) for s in twin.manifest.shards_of(split)]
        kind = "GZIP" if codec == "gzip" else ""
        features = {
            "x": tf.io.FixedLenFeature([], tf.string),
            "y": tf.io.FixedLenFeature([3], tf.float32),
        }
        parsed = [
            tf.io.parse_single_example(record, features)
            for record in tf.data.TFRecordDataset(files, compression_type=kind)
        ]
        x = [tf.reshape(tf.io.decode_raw(p["x"], tf.int16), (4, 4, 4, 2)).numpy() for p in parsed]
        group = zarr.open_group(zarr_set.output / f"{split}.zarr", mode="r")
        np.testing.assert_array_equal(x, group["density"][...])
        np.testing.assert_array_equal([p["y"].numpy() for p in parsed], group["target"][...])


def test_the_mlperf_loader_reads_four_targets(ensemble: Path, cluster: ClusterChoice) -> None:
    """The public loader's parse: x int16, y exactly four floats, log(1 + x)."""
    tf = pytest.importorskip("tensorflow", reason="needs the train extra")
    table = (ensemble / "cosmology.csv").read_text().splitlines()
    rows = [table[0] + ",H_0", *(f"{line},{65 + i}" for i, line in enumerate(table[1:]))]
    (ensemble / "cosmology.csv").write_text("\n".join(rows))
    four = {"Omega_m": [0.1, 0.5], "sigma_8": [0.6, 1.0], "n_s": [0.8, 1.2], "H_0": [60.0, 80.0]}
    recipe = write_recipe(ensemble, targets=four, output__format="tfrecord")
    output = build(recipe, cluster).output

    def parse(proto: object) -> tuple[object, object]:
        spec = {
            "x": tf.io.FixedLenFeature([], tf.string),
            "y": tf.io.FixedLenFeature([4], tf.float32),
        }
        example = tf.io.parse_single_example(proto, features=spec)
        x = tf.cast(tf.reshape(tf.io.decode_raw(example["x"], tf.int16), [4, 4, 4, 2]), tf.float32)
        return tf.math.log(x + tf.constant(1.0)), example["y"]

    files = sorted(map(str, (output / "train").glob("*.tfrecord")))
    batches = list(tf.data.TFRecordDataset(files).map(parse).batch(8))
    counts = np.rint(np.expm1(np.concatenate([x.numpy() for x, _ in batches])))
    assert counts.sum() == load(output).splits["train"].samples / 8 * 2 * 512
    assert np.abs(np.concatenate([y.numpy() for _, y in batches])).max() <= 1


def test_gadget_binary_and_a_table_of_universes(tmp_path: Path, cluster: ClusterChoice) -> None:
    rng = np.random.default_rng(0)
    rows = ["id,files,Omega_m"]
    for number in range(3):
        positions = rng.uniform(0, 50, (256, 3))
        path = tmp_path / "data" / f"run{number}" / "snap"
        path.parent.mkdir(parents=True)
        write_gadget_binary(
            path, positions, box_size=50, Omega_m=0.3, n_files=1 + number, byte_order=">"
        )
        rows.append(f"box-{number},run{number}/snap*,0.3")
    (tmp_path / "data/universes.csv").write_text("\n".join(rows))
    recipe = write_recipe(
        tmp_path,
        input={"universes": "data/universes.csv"},
        grid__redshifts=[0.0],
        split__fractions={"train": 1.0},
        targets={"Omega_m": [0.1, 0.5]},
    )
    result = build(recipe, cluster)
    assert [len(u.snapshots[0].files) for u in result.manifest.universes] == [1, 2, 3]
    assert zarr.open_group(result.output / "train.zarr")["density"][...].sum() == 3 * 256


# ---------------------------------------------------------------- bad input and output


def refused(recipe: Path, cluster: ClusterChoice, *parts: str) -> None:
    """The build refuses with all ``parts`` in its message and leaves nothing behind."""
    output = recipe.parent / yaml.safe_load(recipe.read_text())["output"]["path"]
    before = sorted(output.rglob("*")) if output.exists() else None
    with pytest.raises(InputError) as caught:
        build(recipe, cluster, strict=True)
    for part in parts:
        assert part in str(caught.value)
    assert (sorted(output.rglob("*")) if output.exists() else None) == before


def test_truncated_snapshots_are_all_named(ensemble: Path, cluster: ClusterChoice) -> None:
    for name in ("u001", "u007"):
        path = ensemble / "sims" / name / "snap_1.hdf5"
        os.truncate(path, path.stat().st_size - 100)
    refused(ensemble / "recipe.yaml", cluster, "2 of 10 universes", "u001/snap_1", "u007/snap_1")


def test_missing_snapshot(ensemble: Path, cluster: ClusterChoice) -> None:
    (ensemble / "sims/u003/snap_0.hdf5").unlink()
    refused(ensemble / "recipe.yaml", cluster, "'u003' has no snapshot at redshift 0 (has 1)")


def test_universe_without_parameters(ensemble: Path, cluster: ClusterChoice) -> None:
    lines = (ensemble / "cosmology.csv").read_text().splitlines()
    (ensemble / "cosmology.csv").write_text("\n".join(lines[:-1]))
    refused(ensemble / "recipe.yaml", cluster, "no row for universe 'u009'")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("sigma_8", "sigma8", "no parameter 'sigma_8'"),
        ("u004,", "u003,", "universe 'u003' stands twice"),
        ("id,", "name,", "'id' among them"),
    ],
)
def test_tables_that_are_wrong(
    ensemble: Path, cluster: ClusterChoice, old: str, new: str, expected: str
) -> None:
    table = ensemble / "cosmology.csv"
    table.write_text(table.read_text().replace(old, new))
    refused(ensemble / "recipe.yaml", cluster, expected)


@pytest.mark.parametrize("value", ["nan", "inf", "0.3x", "0.9"])
def test_parameters_that_are_wrong(ensemble: Path, cluster: ClusterChoice, value: str) -> None:
    table = ensemble / "cosmology.csv"
    lines = table.read_text().splitlines()
    name, _, rest = lines[3].split(",", 2)
    lines[3] = f"{name},{value},{rest}"
    table.write_text("\n".join(lines))
    refused(ensemble / "recipe.yaml", cluster, "'u002'", "Omega_m")


def test_rows_of_the_table_that_went_to_the_wrong_universe(
    ensemble: Path, cluster: ClusterChoice
) -> None:
    a, b = ensemble / "sims/u000", ensemble / "sims/u001"
    shutil.move(a, ensemble / "kept")
    shutil.move(b, a)
    shutil.move(ensemble / "kept", b)
    refused(ensemble / "recipe.yaml", cluster, "'u000'", "in the parameter table")


def test_one_snapshot_under_two_names(ensemble: Path, cluster: ClusterChoice) -> None:
    """Fault row 27: the copy would leak from one split into another."""
    shutil.copytree(ensemble / "sims/u002", ensemble / "sims/u0020")
    table = ensemble / "cosmology.csv"
    row = next(line for line in table.read_text().splitlines() if line.startswith("u002,"))
    table.write_text(table.read_text() + row.replace("u002,", "u0020,") + "\n")
    refused(ensemble / "recipe.yaml", cluster, "'u002'", "'u0020'", "the same snapshot")


def test_positions_that_are_not_finite(ensemble: Path, cluster: ClusterChoice) -> None:
    """Fault row 20: only the content tells, so the build stops in the middle and can go on."""
    path = ensemble / "sims/u005/snap_0.hdf5"
    with h5py.File(path, "r+") as file:
        good = file["PartType1/Coordinates"][17]
        file["PartType1/Coordinates"][17] = np.nan
    with pytest.raises(SnapshotError, match=r"snap_0\.hdf5: 1 of 512 positions are NaN"):
        build(ensemble / "recipe.yaml", cluster, strict=True)
    assert not (ensemble / "out/manifest.json").exists()
    with h5py.File(path, "r+") as file:
        file["PartType1/Coordinates"][17] = good
    with pytest.raises(OutputError, match="--resume"):
        build(ensemble / "recipe.yaml", cluster)


def test_counts_that_overflow_their_type(ensemble: Path, cluster: ClusterChoice) -> None:
    """Fault row 22."""
    path = ensemble / "sims/u000/snap_0.hdf5"
    header = open_snapshot(path).header
    assert header.box_size == BOX_SIZE
    n = 33_000
    with h5py.File(path, "r+") as file:
        for name in list(file["PartType1"]):
            del file["PartType1"][name]
        file["PartType1/Coordinates"] = np.full((n, 3), 50.0, np.float32)
        mass = file["Header"].attrs["MassTable"] * 512 / n
        file["Header"].attrs["MassTable"] = mass
        for name in ("NumPart_ThisFile", "NumPart_Total"):
            counts = file["Header"].attrs[name]
            counts[1] = n
            file["Header"].attrs[name] = counts
    recipe = write_recipe(ensemble, output__format="tfrecord")
    with pytest.raises(SnapshotError, match=r"a cell holds 33000 particles, more than int16"):
        build(recipe, cluster, strict=True)


def test_nothing_is_overwritten(ensemble: Path, cluster: ClusterChoice) -> None:
    recipe = ensemble / "recipe.yaml"
    output = build(recipe, cluster).output
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*")}
    for resume in (False, True):
        with pytest.raises(OutputError, match="a finished data set; nothing was changed"):
            build(recipe, cluster, resume=resume)
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*")} == before
    foreign = write_recipe(ensemble, "f.yaml", output__path="sims")
    with pytest.raises(OutputError, match="not empty"):
        build(foreign, cluster)
    as_file = write_recipe(ensemble, "g.yaml", output__path="cosmology.csv")
    with pytest.raises(OutputError, match="a file, expected a folder"):
        build(as_file, cluster)


@pytest.mark.parametrize("path", ["/proc/out", "/sys/out", "cosmology.csv/out"])
def test_an_output_that_cannot_be_made_is_refused_before_anything_is_computed(
    ensemble: Path, path: str
) -> None:
    """Fault row 9; no cluster is started: the choice would fail if it were asked."""
    recipe = write_recipe(ensemble, output__path=path)
    with pytest.raises(OutputError, match="out: "):
        build(recipe, ClusterChoice("never-asked"))


def test_a_living_lock_is_respected_and_a_dead_one_is_not(
    ensemble: Path, cluster: ClusterChoice
) -> None:
    """Fault row 10."""
    output = ensemble / "out"
    output.mkdir()
    holder = {"host": socket.gethostname(), "pid": os.getpid()}
    (output / ".lock").write_text(json.dumps(holder))
    with pytest.raises(OutputError, match=rf"process {os.getpid()} on {socket.gethostname()}"):
        build(ensemble / "recipe.yaml", cluster)
    (output / ".lock").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with pytest.raises(OutputError, match="process 1 on elsewhere"):
        build(ensemble / "recipe.yaml", cluster)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (output / ".lock").write_text(json.dumps({**holder, "pid": dead.pid}))
    assert verify(build(ensemble / "recipe.yaml", cluster).output).passed


# ---------------------------------------------------------------- killed, resumed


def start(recipe: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--workers", "1"]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_shards(output: Path, n: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while sum(p.read_text().count("\n") for p in output.glob("ledger/*.jsonl")) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no shard in two minutes"
        time.sleep(0.002)


@pytest.fixture
def slow_ensemble(tmp_path: Path) -> Path:
    """Enough particles that a build takes a while after its first shard."""
    write_ensemble(tmp_path, n_universes=30, n_particles=60_000)
    write_recipe(
        tmp_path,
        grid__scheme="pcs",
        grid__n_grid=16,
        split__fractions={"train": 1.0},
        output__samples_per_shard=8,
    )
    return tmp_path


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_stopped_and_resumed_gives_the_same_bytes(
    slow_ensemble: Path, cluster: ClusterChoice, number: int, code: int
) -> None:
    """Fault rows 1, 2, 11: killed after its second shard, resumed, compared with one in one go."""
    recipe, output = slow_ensemble / "recipe.yaml", slow_ensemble / "out"
    process = start(recipe)
    wait_for_shards(output, 2, process)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert not (output / "manifest.json").exists()
    if number != signal.SIGKILL:
        assert f"cosmoflow-prep build {recipe} --resume" in errors
        assert "Traceback" not in errors
    finished = {p: p.stat().st_mtime_ns for p in output.glob("train.zarr/density/c/*/0/0/0/0")}
    listed = {
        output / shard["path"]
        for journal in output.glob("ledger/*.jsonl")
        for line in journal.read_text().splitlines()
        for shard in json.loads(line.split(" ", 1)[1])["shards"]
    }
    result = build(recipe, cluster, resume=True)
    assert 2 <= result.shards_kept < 30
    for path in listed:
        assert path.stat().st_mtime_ns == finished[path], "a finished shard was made again"
    assert verify(output).passed
    assert not list(output.rglob("*.tmp"))
    fresh = write_recipe(
        slow_ensemble,
        "fresh.yaml",
        **{**_slow_changes(), "output__path": "fresh"},
    )
    again = all_digests(build(fresh, cluster).output)
    ours = all_digests(output)
    again.pop("recipe.yaml"), ours.pop("recipe.yaml")
    assert again == ours


def _slow_changes() -> dict[str, object]:
    return {
        "grid__scheme": "pcs",
        "grid__n_grid": 16,
        "split__fractions": {"train": 1.0},
        "output__samples_per_shard": 8,
    }


@pytest.fixture
def interrupted(ensemble: Path, cluster: ClusterChoice) -> Path:
    """A build that stopped on a damaged snapshot, which was mended; some shards are done."""
    path = ensemble / "sims/u009/snap_1.hdf5"
    with h5py.File(path, "r+") as file:
        good = file["PartType1/Coordinates"][3]
        file["PartType1/Coordinates"][3] = np.inf
    with pytest.raises(SnapshotError):
        build(ensemble / "recipe.yaml", cluster, strict=True)
    with h5py.File(path, "r+") as file:
        file["PartType1/Coordinates"][3] = good
    return ensemble


def test_torn_ledger_lines_are_not_trusted(interrupted: Path) -> None:
    """Fault rows 3 and 17: a line cut or changed: its shard is made again, once."""
    for journal in (interrupted / "out/ledger").glob("*.jsonl"):
        raw = journal.read_bytes()
        journal.write_bytes(raw[:-20])
    # who tore a line is dead: other processes go on, with journals of their own
    result = build(interrupted / "recipe.yaml", ClusterChoice(workers=1), resume=True)
    assert verify(result.output).passed


def test_a_deleted_shard_is_made_again(interrupted: Path, cluster: ClusterChoice) -> None:
    for shard in (interrupted / "out").glob("*.zarr/density/c/*/0/0/0/0"):
        shard.unlink()
    result = build(interrupted / "recipe.yaml", cluster, resume=True)
    assert result.shards_kept == 0
    assert verify(result.output).passed


def test_another_recipe_is_refused_with_the_difference(
    interrupted: Path, cluster: ClusterChoice
) -> None:
    """Fault row 12."""
    recipe = write_recipe(interrupted, split__seed=8, grid__scheme="cic")
    with pytest.raises(OutputError) as caught:
        build(recipe, cluster, resume=True)
    assert "grid.scheme: ngp there, cic asked" in str(caught.value)
    assert "split.seed: 7 there, 8 asked" in str(caught.value)


def test_other_software_is_refused_with_the_difference(
    interrupted: Path, cluster: ClusterChoice
) -> None:
    path = interrupted / "out/ledger/software.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "numpy": "1.0"}))
    with pytest.raises(OutputError, match=r"software numpy: 1\.0 there"):
        build(interrupted / "recipe.yaml", cluster, resume=True)


def test_an_input_that_changed_is_named(interrupted: Path, cluster: ClusterChoice) -> None:
    """Fault row 13."""
    journal = next((interrupted / "out/ledger").glob("*.jsonl"))
    entry = json.loads(journal.read_text().splitlines()[0].split(" ", 1)[1])
    universe = entry["universes"][0]
    with h5py.File(interrupted / universe["snapshots"][0]["files"][0], "r+") as file:
        file["PartType1/Coordinates"][0] += 1000.0
    with pytest.raises(InputError, match=f"'{universe['id']}': its snapshots changed"):
        build(interrupted / "recipe.yaml", cluster, resume=True)


def test_parameters_that_changed_are_named(interrupted: Path, cluster: ClusterChoice) -> None:
    """Shards of before would keep the labels of before."""
    journal = next((interrupted / "out/ledger").glob("*.jsonl"))
    entry = json.loads(journal.read_text().splitlines()[0].split(" ", 1)[1])
    name = entry["universes"][0]["id"]
    table = interrupted / "cosmology.csv"
    lines = table.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(f"{name},"))
    before = lines[number]
    values = before.split(",")
    lines[number] = ",".join([*values[:-1], str(float(values[-1]) * (1 - 1e-12))])
    table.write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"'{name}': its parameters changed since"):
        build(interrupted / "recipe.yaml", cluster, resume=True)
    lines[number] = before
    table.write_text("\n".join(lines[:-1]))
    shutil.move(interrupted / "sims/u009", interrupted / "u009")
    with pytest.raises(InputError, match="changed since"):
        build(interrupted / "recipe.yaml", cluster, resume=True)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", ["recipe.yaml", "ledger", ".recipe.yaml.1.tmp"])
def test_killed_before_it_had_begun_is_started_again(
    ensemble: Path, cluster: ClusterChoice, left: str, resume: bool
) -> None:
    output = ensemble / "out"
    output.mkdir()
    if left == "ledger":
        (output / left).mkdir()
    else:
        (output / left).write_text("half")
    assert verify(build(ensemble / "recipe.yaml", cluster, resume=resume).output).passed


def test_a_damaged_beginning_is_an_error_not_a_traceback(
    interrupted: Path, cluster: ClusterChoice
) -> None:
    (interrupted / "out/ledger/software.json").write_text("{")
    with pytest.raises(OutputError, match=r"software\.json: cannot be read"):
        build(interrupted / "recipe.yaml", cluster, resume=True)


def test_a_second_build_is_told_to_wait_not_to_remove(slow_ensemble: Path, prep: Run) -> None:
    """Fault row 10, beside a build that runs."""
    recipe, output = slow_ensemble / "recipe.yaml", slow_ensemble / "out"
    process = start(recipe)
    wait_for_shards(output, 1, process)
    process.send_signal(signal.SIGSTOP)  # alive, and not done before the others have looked
    for arguments in ((), ("--resume",)):
        second = prep("build", recipe, *arguments)
        assert second.returncode == 5
        assert f"another build holds it (process {process.pid} on " in second.stderr
        assert "go on with" not in second.stderr
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert verify(output).passed


def test_two_takers_of_one_stale_lock(tmp_path: Path) -> None:
    """Both find the lock of a dead process; one gets it."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    code = (
        "import sys, time, pathlib\n"
        "from pipeline.lock import locked\n"
        "from pipeline.errors import OutputError\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n"
        "    with locked(pathlib.Path(sys.argv[1])):\n"
        "        print('got it', flush=True); time.sleep(1)\n"
        "except OutputError:\n"
        "    print('refused', flush=True)\n"
    )
    for _ in range(3):
        holder = {"host": socket.gethostname(), "pid": dead.pid}
        (tmp_path / ".lock").write_text(json.dumps(holder))
        takers = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for _ in range(3)
        ]
        for taker in takers:
            assert taker.stdout is not None
            taker.stdout.readline()
        answers = []
        for taker in takers:
            assert taker.stdin is not None
            taker.stdin.write("go\n")
            taker.stdin.flush()
        for taker in takers:
            answers.append(taker.communicate(timeout=30)[0].strip())
        assert sorted(answers) == ["got it", "refused", "refused"]
        assert list(tmp_path.iterdir()) == []


def test_boxes_of_different_kinds_are_refused(ensemble: Path, cluster: ClusterChoice) -> None:
    rng = np.random.default_rng(0)
    line = (ensemble / "cosmology.csv").read_text().splitlines()[5].split(",")
    for number in range(2):
        write_gadget_hdf5(
            ensemble / "sims" / line[0] / f"snap_{number}.hdf5",
            rng.uniform(0, 1000, (512, 3)),
            box_size=1000.0,
            redshift=float(number),
            Omega_m=float(line[1]),
        )
    refused(ensemble / "recipe.yaml", cluster, f"{line[0]!r} (1000 Mpc/h)", "factor of 1.5")


def test_the_tables_omega_m_checks_the_density_where_the_header_has_none(
    ensemble: Path, cluster: ClusterChoice
) -> None:
    """Fault row 21: a box of 1000 times the size, in a file that records no Omega_m."""
    for path in (ensemble / "sims").glob("*/*.hdf5"):
        with h5py.File(path, "r+") as file:
            for group in ("Header", "Parameters"):
                if group in file:
                    file[group].attrs.pop("Omega0", None)
    recipe = write_recipe(
        ensemble,
        input={"universes": "sims/*/", "parameters": "cosmology.csv", "length_unit": "Mpc/h"},
    )
    refused(recipe, cluster, "10 of 10 universes", "times the mean matter density")


def test_a_worker_that_dies_is_replaced(slow_ensemble: Path) -> None:
    """Fault row 5: a worker process is killed; the job ends with the right result."""
    recipe, output = slow_ensemble / "recipe.yaml", slow_ensemble / "out"
    process = start(recipe)
    wait_for_shards(output, 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    worker = max(children, key=lambda c: c.memory_info().rss)
    worker.kill()
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, (out, errors)
    assert verify(output).passed


def test_exit_codes_and_messages_of_the_command(ensemble: Path, prep: Run) -> None:
    recipe = ensemble / "recipe.yaml"
    done = prep("build", recipe, "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shards"] == 5
    assert "Dask dashboard: http://127.0.0.1:" in done.stderr
    again = prep("build", recipe)
    assert again.returncode == 5
    assert again.stderr.startswith("error: ")
    (ensemble / "typo.yaml").write_text(recipe.read_text().replace("n_grid", "n_gird"))
    typo = prep("build", ensemble / "typo.yaml")
    assert typo.returncode == 3
    assert "typo.yaml:6: grid.n_gird: unknown key; did you mean 'n_grid'?" in typo.stderr
    os.truncate(ensemble / "sims/u000/snap_0.hdf5", 1000)
    broken = prep("build", write_recipe(ensemble, output__path="b"), "--workers", "1", "--strict")
    assert broken.returncode == 4
    assert "snap_0.hdf5" in broken.stderr
    assert not (ensemble / "b").exists()
    for result in (again, typo, broken):
        assert "Traceback" not in result.stderr
    assert prep("build", recipe, "--cluster", "nowhere").returncode == 3
    assert prep("buidl").returncode == 2
