"""Universes in parts in processes of their own: workers killed, builds killed, memory measured."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline import worker_memory
from pipeline.boxes import BoxOptions
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.config import load_recipe
from pipeline.scratch import FOLDER
from pipeline.verify import verify
from tests.boxes_made import box_recipe, content, write_boxes
from tests.conftest import ROOT, Run

N_PARTICLES = 200_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxes")
    write_boxes(root, n_universes=3, n_particles=N_PARTICLES)
    return root


@pytest.fixture(scope="module")
def expected(root: Path, cluster: ClusterChoice) -> dict[str, str]:
    recipe = box_recipe(root, "expected", grid__scheme="pcs")
    return content(build(recipe, cluster, boxes=BoxOptions("never")).output)


def start(recipe: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), *options]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(output: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not any((output / FOLDER).glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {pattern} in two minutes"
        time.sleep(0.002)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Worker processes: those that have the interpreter and much memory."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [c for c in children if c.memory_info().rss > 100 << 20]


@pytest.mark.parametrize("stage", ["*/c0-section-*.json", "*/c1-cells-*.json", "*/shard-*.json"])
def test_a_worker_killed_in_any_stage_is_replaced(
    root: Path, expected: dict[str, str], stage: str
) -> None:
    name = "killed-" + re.sub(r"\W+", "", stage)
    recipe = box_recipe(root, name, grid__scheme="pcs")
    process = start(recipe, "--workers", "2", "--split-boxes", "always")
    wait_for(root / name, stage, process)
    max(workers_of(process), key=lambda c: c.cpu_times().user).kill()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert content(root / name) == expected
    assert not (root / name / FOLDER).exists()


def test_a_killed_build_goes_on_with_what_is_there(
    root: Path, expected: dict[str, str], prep: Run
) -> None:
    name = "resumed"
    recipe, scratch = box_recipe(root, name, grid__scheme="pcs"), root / name / FOLDER
    process = start(recipe, "--workers", "2", "--split-boxes", "always")
    wait_for(root / name, "u1/c1-cells-00000.json", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    cells = scratch / "u1/c0-cells-00000.tiles"
    made = cells.stat().st_mtime_ns
    (scratch / "stranger").mkdir()
    resumed = start(recipe, "--workers", "1", "--split-boxes", "always", "--resume")
    kept: set[int] = set()
    while resumed.poll() is None:
        try:
            kept.add(cells.stat().st_mtime_ns)
        except FileNotFoundError:  # the universe is done
            time.sleep(0.01)
    _, errors = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, errors
    assert kept == {made}
    assert content(root / name) == expected
    assert not scratch.exists()
    assert verify(root / name).passed
    # one that is never taken up again leaves nothing that a finished build does not remove
    again = prep("build", recipe)
    assert again.returncode == 5


# ---------------------------------------------------------------- memory


def peak_of_workers(process: subprocess.Popen[str]) -> int:
    """Most resident memory of any one worker, as the kernel counts it, when the process is done."""
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            for child in _children(process.pid):
                peak = max(peak, _high_water(child))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.communicate(timeout=200)
    watcher.join()
    assert process.returncode == 0
    return peak


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _high_water(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) << 10 if found else 0


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("scheme", ["ngp", "tsc"])
def test_memory_is_what_was_promised(root: Path, scheme: str) -> None:
    """Peaks of real workers, whole and in parts, within the bounds and not far below."""
    settings = {
        "grid__n_grid": 256,
        "grid__scheme": scheme,
        "grid__redshifts": [0.0],
        "split__subvolumes": 4,
    }
    whole = box_recipe(root, f"memory-whole-{scheme}", **settings)
    parts = box_recipe(root, f"memory-parts-{scheme}", **settings)
    bound = worker_memory.whole(load_recipe(whole), N_PARTICLES)
    peak = peak_of_workers(start(whole, "--workers", "1", "--split-boxes", "never"))
    assert 0.4 * bound < peak <= bound
    limit = 1 << 30
    recipe = load_recipe(parts)
    bound = worker_memory.in_parts(recipe, worker_memory.bin_bytes_within(recipe, limit))
    process = start(
        parts, "--workers", "2", "--memory-limit", str(limit), "--split-boxes", "always"
    )
    assert peak_of_workers(process) <= bound <= limit
