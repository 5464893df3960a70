"""Builds on a scheduler that is already there: by address, by file, under MPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.cluster import LOOPBACK
from tests.conftest import Run
from tests.ensembles_made import all_digests, write_recipe

BIN = Path(sys.executable).parent


@contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def scheduler_and_worker(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``dask scheduler`` and one ``dask worker`` as a user starts them; gives the scheduler."""
    dask = BIN / "dask"
    where = ("--scheduler-file", file, "--no-dashboard")
    with (
        running(dask, "scheduler", "--host", LOOPBACK, "--port", "0", *where) as scheduler,
        running(dask, "worker", "--nthreads", "1", *where),
    ):
        yield scheduler


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def check_builds(ensemble: Path, prep: Run, cluster: str) -> None:
    """A build there has the digests of a local one."""
    there = write_recipe(ensemble, "there.yaml", output__path="there")
    done = prep("build", there, "--cluster", cluster)
    assert done.returncode == 0, done.stderr
    here = write_recipe(ensemble, "here.yaml", output__path="here")
    assert prep("build", here, "--workers", "1").returncode == 0
    digests = [all_digests(ensemble / name) for name in ("there", "here")]
    for digest in digests:
        digest.pop("recipe.yaml")
    assert digests[0] == digests[1]


def test_dask_scheduler_and_worker_from_the_shell(
    ensemble: Path, tmp_path: Path, prep: Run
) -> None:
    file = tmp_path / "scheduler.json"
    with scheduler_and_worker(file):
        check_builds(ensemble, prep, str(file))  # which waits for the scheduler itself


def test_dask_mpi(ensemble: Path, tmp_path: Path, prep: Run) -> None:
    pytest.importorskip("dask_mpi", reason="needs the mpi extra")
    mpiexec = shutil.which("mpiexec", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("no mpiexec: install the mpi extra")
    file = tmp_path / "scheduler.json"
    with running(
        mpiexec,
        "-n",
        "3",
        BIN / "dask-mpi",
        "--scheduler-file",
        file,
        "--nthreads",
        "1",
        "--no-dashboard",
    ):
        wait_for(file)
        check_builds(ensemble, prep, str(file))


def test_nobody_there(ensemble: Path, prep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSMOFLOW_SCHEDULER_FILE_SECONDS", "0.5")
    recipe = ensemble / "recipe.yaml"
    (ensemble / "half.json").write_text('{"address": "tcp')
    for name in ("no-such.json", "half.json"):
        done = prep("build", recipe, "--cluster", ensemble / name)
        assert done.returncode == 8
        assert "start the scheduler first" in done.stderr
    for options, expected in (
        (("--cluster", "kubernetes"), "expected local, tcp://"),
        (("--cluster", "tcp://localhost"), "not an address"),
        (("--memory-limit", "much"), "expected auto or a size like 2GiB"),
    ):
        wrong = prep("build", recipe, *options)
        assert wrong.returncode == 3, wrong.stderr
        assert expected in wrong.stderr
    assert not (ensemble / "out").exists()


def test_a_scheduler_that_goes_away(ensemble: Path, tmp_path: Path, prep: Run) -> None:
    """Slurm ends the scheduler with the job: an error and a way to go on, no traceback."""
    file = tmp_path / "scheduler.json"
    write_recipe(ensemble, grid__scheme="pcs", grid__n_grid=128, output__samples_per_shard=8)
    with scheduler_and_worker(file) as scheduler:
        wait_for(file)
        killer = threading.Thread(target=_kill_after_a_shard, args=(ensemble / "out", scheduler))
        killer.start()
        done = prep("build", ensemble / "recipe.yaml", "--cluster", file)
        killer.join()
    assert done.returncode == 8, done.stderr
    assert "Traceback" not in done.stderr.split("error: ")[-1]
    assert "--resume" in done.stderr


def _kill_after_a_shard(output: Path, scheduler: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not list(output.glob("ledger/*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    scheduler.kill()
