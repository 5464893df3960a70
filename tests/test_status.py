"""How far a build is, as another shell sees it: running, dead, finished, damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline import ledger
from pipeline.build import build
from pipeline.cli_status import span
from pipeline.cluster import ClusterChoice
from pipeline.errors import CosmoflowError, DatasetError, OutputError, SnapshotError
from pipeline.manifest import load
from pipeline.plan_record import PlanRecord, read_plan_record
from pipeline.rounds import Progress
from pipeline.status import status_of
from pipeline.write.stores import open_store
from tests.conftest import ROOT, Run
from tests.ensembles_made import write_ensemble, write_recipe


class StopError(CosmoflowError):
    """Ends a build from its callback."""


def build_part(recipe: Path, cluster: ClusterChoice, shards: int, resume: bool = False) -> None:
    """A build that stops as soon as so many shards are done."""

    def stop(progress: Progress) -> None:
        if progress.stage == "build" and progress.done >= shards:
            raise StopError("enough")

    with pytest.raises(StopError):
        build(recipe, cluster, resume, stop)


def state_of_files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, size and time of change of all files and folders."""
    stats = {str(p): p.lstat() for p in (folder, *folder.rglob("*"))}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def test_before_while_stopped_and_after(ensemble: Path, cluster: ClusterChoice, prep: Run) -> None:
    recipe, output = ensemble / "recipe.yaml", ensemble / "out"
    nothing = prep("status", recipe)
    assert nothing.returncode == 6
    assert f"start one with: cosmoflow-prep build {recipe}" in nothing.stderr
    build_part(recipe, cluster, 2)
    before = state_of_files(output)
    for place in (recipe, output):
        stopped = prep("status", place)
        assert stopped.returncode == 21, stopped.stderr
        assert f"{output}: stopped" in stopped.stdout
        assert " of 5 shards" in stopped.stdout
        # the recipe is known from the output, too
        assert f"go on with: cosmoflow-prep build {recipe} --resume" in stopped.stdout
    assert state_of_files(output) == before, "status writes"
    found = json.loads(prep("status", output, "--json").stdout)
    listed = ledger.read(output)
    assert found["state"] == "stopped"
    assert found["exit_code"] == 21
    assert found["shards_done"] == sum(len(e.shards) for e in listed.values())
    assert found["universes_done"] == sum(len(e.universes) for e in listed.values())
    assert found["universes"] == 10
    assert found["samples"] == 80
    assert found["particles"] == 10 * 2 * 512
    assert found["particles_done"] == found["universes_done"] * 2 * 512
    assert found["bytes_written"] == sum(s.bytes for e in listed.values() for s in e.shards)
    assert (found["bytes_needed"] > 0) == (found["shards_done"] < 5)
    assert {last["task"] for last in found["last"]} <= set(listed)
    assert set(found["stage_seconds"]) >= {"read and deposit", "write"}
    build(recipe, cluster, resume=True)
    done = prep("status", output)
    assert done.returncode == 0
    assert "finished" in done.stdout
    whole = status_of(recipe)
    manifest = load(output)
    assert whole.shards_done == whole.shards == len(manifest.shards)
    assert whole.samples == sum(split.samples for split in manifest.splits.values())
    assert whole.bytes_needed == 0


def test_numbers_of_every_prefix(ensemble: Path, cluster: ClusterChoice) -> None:
    """They only grow from run to run, and the plan's record never changes."""
    recipe, output = ensemble / "recipe.yaml", open_store(ensemble / "out")
    done: list[int] = []
    records: set[bytes] = set()
    for shards in (1, 2, 4):
        build_part(recipe, cluster, shards, resume=bool(done))
        status = status_of(recipe)
        record = read_plan_record(output)
        assert isinstance(record, PlanRecord)
        records.add(output.read("ledger/plan.json"))
        assert status.shards == record.shards == 5
        assert shards <= status.shards_done <= 5
        done.append(status.shards_done)
    assert done == sorted(done)
    assert len(records) == 1


def test_a_shard_that_is_gone_is_told(ensemble: Path, cluster: ClusterChoice) -> None:
    build_part(ensemble / "recipe.yaml", cluster, 2)
    shard = next(iter(ledger.read(ensemble / "out").values())).shards[0]
    (ensemble / "out" / shard.path).unlink()
    status = status_of(ensemble / "out")
    assert status.state == "stopped"
    assert any(shard.path in fault and "is made again" in fault for fault in status.faults)


def test_damaged_data_sets(ensemble: Path, cluster: ClusterChoice, prep: Run) -> None:
    output = build(ensemble / "recipe.yaml", cluster).output
    assert isinstance(output, Path)
    shard = load(output).shards[0]
    raw = (output / shard.path).read_bytes()
    (output / shard.path).write_bytes(raw[:-1])
    damaged = prep("status", output)
    assert damaged.returncode == 6
    assert f"{shard.path}: {len(raw) - 1} bytes, expected {len(raw)} bytes" in damaged.stdout
    (output / shard.path).unlink()
    assert f"{shard.path}: is missing" in prep("status", output).stdout
    (output / shard.path).write_bytes(raw)
    manifest = (output / "manifest.json").read_bytes()
    (output / "manifest.json").write_bytes(manifest[:-9])
    half = prep("status", output)
    assert half.returncode == 6
    assert "not a manifest of this software" in half.stdout


def test_a_plan_record_that_cannot_be_read(ensemble: Path, cluster: ClusterChoice) -> None:
    recipe, record = ensemble / "recipe.yaml", ensemble / "out/ledger/plan.json"
    build_part(recipe, cluster, 1)
    good = record.read_bytes()
    record.write_bytes(b"{")
    status = status_of(recipe)
    assert status.shards is None
    assert "plan.json: cannot be read" in status.faults[0]
    record.unlink()
    assert status_of(recipe).shards is None
    build_part(recipe, cluster, 2, resume=True)
    assert record.read_bytes() == good


@pytest.mark.parametrize("place", ["sims", "no-such-folder", "no.yaml"])
def test_places_where_there_is_no_build(ensemble: Path, place: str) -> None:
    with pytest.raises(DatasetError, match="expected a data set, a build or a recipe"):
        status_of(ensemble / place)


def test_holders(ensemble: Path, cluster: ClusterChoice) -> None:
    """A process that lives, one that is gone, one of another host that is silent."""
    output = ensemble / "out"
    build_part(ensemble / "recipe.yaml", cluster, 1)
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "token": "a", "since": time.time()}
    (output / ".lock").write_text(json.dumps(holder))
    status = status_of(output)
    assert (status.state, status.exit_code) == ("running", 20)
    assert status.process is not None
    assert status.process.pid == os.getpid()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (output / ".lock").write_text(json.dumps({**holder, "pid": dead.pid}))
    assert status_of(output).state == "stopped"
    long_ago = {**holder, "host": "elsewhere", "since": time.time() - 3600}
    (output / ".lock").write_text(json.dumps(long_ago))
    status = status_of(output)
    assert (status.state, status.exit_code) == ("silent", 21)
    assert f"remove {output / '.lock'}" in status.advice
    with pytest.raises(OutputError, match="no sign of life for"):
        build(ensemble / "recipe.yaml", cluster, resume=True)


def test_in_memory(ensemble: Path) -> None:
    """A URL, where a place does not tell what is free."""
    url = "memory://status-test/set"
    recipe = write_recipe(ensemble, output__path=url)
    from tests.crash_points import in_process_cluster

    with in_process_cluster() as choice:
        build_part(recipe, choice, 2)
        status = status_of(url)
        assert status.state == "stopped"
        assert status.shards == 5
        assert status.bytes_free is None
        assert str(recipe) in status.advice
        build(recipe, choice, resume=True)
    assert status_of(recipe).state == "finished"
    store = open_store(url)
    store.remove(load(url).shards[0].path)
    assert status_of(url).state == "damaged"
    store.remove_all()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A build of a real process that takes a while, past its first shard."""
    write_ensemble(tmp_path, n_universes=30, n_particles=60_000)
    recipe = write_recipe(
        tmp_path,
        grid__scheme="pcs",
        grid__n_grid=16,
        split__fractions={"train": 1.0},
        output__samples_per_shard=8,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--workers", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not ledger.journals(open_store(tmp_path / "out")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        yield process, tmp_path / "out"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_build_that_runs(running: tuple[subprocess.Popen[str], Path], prep: Run) -> None:
    process, output = running
    process.send_signal(signal.SIGSTOP)  # so that it does not end before it is looked at
    done = prep("status", output, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 20
    assert found["state"] == "running"
    assert found["process"]["pid"] == process.pid
    assert found["process"]["host"] == socket.gethostname()
    assert found["shards"] == 30
    assert found["shards_a_minute"] is None or found["shards_a_minute"] > 0
    text = prep("status", output).stdout
    assert f"process {process.pid} on {socket.gethostname()}" in text
    process.send_signal(signal.SIGCONT)
    watched = prep("status", output, "--watch", "--every", "0.2", "--json")
    assert watched.returncode == 0, watched.stderr
    looks = [json.loads(line) for line in watched.stdout.splitlines()]
    assert looks[-1]["state"] == "finished"
    assert all(a["shards_done"] <= b["shards_done"] for a, b in pairwise(looks))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_quarantined_universes_are_named(ensemble: Path, cluster: ClusterChoice, prep: Run) -> None:
    (ensemble / "sims/u004/snap_0.hdf5").write_bytes(b"not a snapshot")
    try:
        build(ensemble / "recipe.yaml", cluster)
    except SnapshotError:  # pragma: no cover
        pytest.fail("a bad universe ends the build")
    done = prep("status", ensemble / "out")
    assert done.returncode == 11
    assert "quarantined: u004: " in done.stdout
    assert list(status_of(ensemble / "out").quarantined) == ["u004"]


def test_spans_are_readable() -> None:
    assert [span(s) for s in (0.04, 9.96, 59.6, 3599, 3600 * 5 + 65, 86400 * 3 + 7300)] == [
        "0.0 s",
        "10.0 s",
        "1 min 0 s",
        "59 min 59 s",
        "5 h 1 min",
        "3 d 2 h",
    ]


def test_a_copy_without_its_ledger_is_finished_all_the_same(
    ensemble: Path, cluster: ClusterChoice
) -> None:
    output = build(ensemble / "recipe.yaml", cluster).output
    assert isinstance(output, Path)
    shutil.rmtree(output / "ledger")
    assert status_of(output).state == "finished"
