"""Asked to stop, by real signals at random instants: tidy, quick, resumable."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline import ledger
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.status import status_of
from pipeline.verify import verify
from pipeline.write.stores import open_store
from tests.conftest import ROOT
from tests.ensembles_made import all_digests, write_ensemble, write_recipe

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 138}
SLOW = {
    "grid__scheme": "pcs",
    "grid__n_grid": 16,
    "split__fractions": {"train": 1.0},
    "output__samples_per_shard": 8,
}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Universes and a recipe of which a build takes some seconds."""
    root = tmp_path_factory.mktemp("slow")
    write_ensemble(root, n_universes=20, n_particles=60_000)
    return root


@pytest.fixture(scope="module")
def golden(slow: Path, cluster: ClusterChoice) -> dict[str, str]:
    """Digests of a build that was never stopped."""
    recipe = write_recipe(slow, "golden.yaml", **{**SLOW, "output__path": "golden"})
    return digests(build(recipe, cluster).output)


def digests(output: Path | str) -> dict[str, str]:
    found = all_digests(Path(output))
    del found["recipe.yaml"]  # has the output's own place in it
    return found


def start(recipe: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "build", str(recipe), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(output: Path, shards: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while True:
        raw = [p.read_bytes() for p in output.glob("ledger/*.jsonl")]
        if output.joinpath(".lock").exists() and sum(r.count(b"\n") for r in raw) >= shards:
            return
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def check_tidy(output: Path, process: subprocess.Popen[str], children: list[psutil.Process]) -> str:
    """Nothing is left but what is finished; returns what it said."""
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors, errors
    assert not list(output.rglob("*.tmp"))
    assert not (output / ".lock").exists()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "workers outlive their build"
    return errors


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("to_all", [True, False], ids=["group", "driver"])
def test_at_a_random_instant(
    slow: Path,
    golden: dict[str, str],
    cluster: ClusterChoice,
    tmp_path: Path,
    seed: int,
    to_all: bool,
) -> None:
    """Fault row 11; a terminal sends Ctrl-C to all processes, a batch system to one."""
    rng = random.Random(10 * seed + to_all)
    # SIGTERM to all ends the workers by itself; Dask reports their death
    number = rng.choice([s for s in CODES if not to_all or s != signal.SIGTERM])
    output = tmp_path / "out"
    recipe = write_recipe(slow, f"{seed}-{to_all}.yaml", **{**SLOW, "output__path": str(output)})
    process = start(recipe, "--workers", "2")
    wait_for(output, rng.choice([0, 0, 1, 5]), process)
    time.sleep(rng.uniform(0, 1))
    children = psutil.Process(process.pid).children(recursive=True)
    (os.killpg if to_all else os.kill)(process.pid, number)
    errors = check_tidy(output, process, children)
    if process.returncode == 0 or (output / "manifest.json").exists():
        assert verify(output).passed  # it was done before
        return
    assert process.returncode == CODES[number], errors
    assert f"stopped by {number.name}" in errors
    listed = ledger.read(output)
    if (output / "ledger/software.json").exists():
        kept = sum(len(entry.shards) for entry in listed.values())
        command = f"cosmoflow-prep build {recipe} --resume --workers 2"
        assert f"{kept} shards are finished and kept; go on with: {command}" in errors
        assert status_of(recipe).state == "stopped"
    else:
        assert not output.exists()
    result = build(recipe, cluster, resume=True)
    assert result.shards_kept == sum(len(entry.shards) for entry in listed.values())
    assert digests(output) == golden


def test_twice_stops_at_once(
    slow: Path, golden: dict[str, str], cluster: ClusterChoice, tmp_path: Path
) -> None:
    """The second Ctrl-C waits for nothing; what is left is swept by the next run."""
    output = tmp_path / "out"
    recipe = write_recipe(slow, "twice.yaml", **{**SLOW, "output__path": str(output)})
    with workers_elsewhere() as (address, worker):
        process = start(recipe, "--cluster", address)
        wait_for(output, 2, process)
        worker.suspend()  # a task that does not end
        process.send_signal(signal.SIGINT)
        time.sleep(2)
        assert process.poll() is None, "it waits for what runs"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        worker.resume()
        assert process.returncode == 130
        assert "stopped at once" in errors
        assert "Traceback" not in errors
        assert status_of(output).state == "stopped"
        build(recipe, ClusterChoice(address), resume=True)
    assert digests(output) == golden
    assert not list(output.rglob("*.tmp"))
    assert not (output / ".lock").exists()


@contextmanager
def workers_elsewhere() -> Iterator[tuple[str, psutil.Process]]:
    """Address of a scheduler that is not the build's own, and its worker."""
    code = (
        "import time\n"
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=1, threads_per_worker=1, host='127.0.0.1',\n"
        "                           dashboard_address=None)\n"
        "    print(cluster.scheduler_address, flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        children = psutil.Process(process.pid).children(recursive=True)
        yield address, max(children, key=lambda child: child.memory_info().rss)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, psutil.Process]]:
    with workers_elsewhere() as found:
        yield found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_running_tasks_are_drained_on_a_cluster_of_others(
    slow: Path,
    golden: dict[str, str],
    elsewhere: tuple[str, psutil.Process],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """What runs is finished and kept, and no worker writes after the lock is given back."""
    address, _ = elsewhere
    output = tmp_path / "out"
    recipe = write_recipe(slow, f"{number}.yaml", **{**SLOW, "output__path": str(output)})
    process = start(recipe, "--cluster", address)
    wait_for(output, 2, process)
    process.send_signal(number)
    errors = check_tidy(output, process, [])
    assert process.returncode == CODES[number], errors
    assert f"go on with: cosmoflow-prep build {recipe} --resume --cluster {address}" in errors
    files = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
    listed = {s.path for entry in ledger.read(output).values() for s in entry.shards}
    there = {
        p.relative_to(output).as_posix() for p in output.glob("train.zarr/density/c/*/0/0/0/0")
    }
    assert listed == there, "a shard that nobody knows of"
    build(recipe, ClusterChoice(address), resume=True)
    for path, changed in files.items():
        if path.relative_to(output).as_posix() in listed:
            assert path.stat().st_mtime_ns == changed
    assert digests(output) == golden


def test_a_task_that_does_not_end_is_waited_for_a_while_only(
    slow: Path, golden: dict[str, str], elsewhere: tuple[str, psutil.Process], tmp_path: Path
) -> None:
    address, worker = elsewhere
    output = tmp_path / "out"
    recipe = write_recipe(slow, "hung.yaml", **{**SLOW, "output__path": str(output)})
    process = start(recipe, "--cluster", address, COSMOFLOW_DRAIN_SECONDS="1")
    wait_for(output, 2, process)
    worker.suspend()
    process.send_signal(signal.SIGTERM)
    errors = check_tidy(output, process, [])
    assert process.returncode == 143
    assert "drain: 0/" in errors
    worker.resume()
    build(recipe, ClusterChoice(address), resume=True)
    assert digests(output) == golden


def test_signals_that_are_ignored_stay_ignored(slow: Path, tmp_path: Path) -> None:
    """``nohup`` lets a build live on when its terminal is closed."""
    output = tmp_path / "out"
    recipe = write_recipe(slow, "nohup.yaml", **{**SLOW, "output__path": str(output)})
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--workers", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(output, 1, process)
    os.killpg(process.pid, signal.SIGHUP)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert verify(output).passed


def test_the_other_options_are_kept_in_what_to_do_next(tmp_path: Path) -> None:
    import click

    from pipeline.cli import cli
    from pipeline.entry import given_options

    command = cli.commands["build"]
    words = ["my recipe.yaml", "--resume", "--memory-limit", "2GiB", "--json"]
    with click.Context(command) as context:
        command.parse_args(context, words)
        assert given_options(context) == ["--resume", "--memory-limit", "2GiB", "--json"]
    assert open_store(tmp_path).names() == []
