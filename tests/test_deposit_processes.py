"""Deposits beside deposits: threads, forked and spawned processes, kernels compiled once."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from pipeline.deposit import assign, get_scheme, scheme_names

ROOT = Path(__file__).parent.parent
N_GRID, BOX_SIZE = 40, 100.0
LIMIT = 120
"""Seconds after which a process is taken to hang."""


def digest(scheme: str, threads: int = 2, seed: int = 0) -> str:
    """Of the grid of a crowd of particles."""
    rng = np.random.default_rng(seed)
    positions = np.concatenate([rng.normal(50, 5, (5000, 3)), rng.uniform(0, 100, (5000, 3))])
    grid = np.empty((N_GRID,) * 3, np.int64)
    result = assign([positions], grid, BOX_SIZE, get_scheme(scheme), threads=threads)
    assert int(grid.sum()) == result.total == len(positions) * get_scheme(scheme).unit
    return sha256(grid.tobytes()).hexdigest()


FORKS = """
import os, sys, time
from tests.test_deposit_processes import digest, scheme_names
expected = {scheme: digest(scheme) for scheme in scheme_names()}
child = os.fork()
if child == 0:
    os._exit(0 if {scheme: digest(scheme) for scheme in expected} == expected else 3)
deadline = time.monotonic() + float(sys.argv[1])
while time.monotonic() < deadline:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.05)
os.kill(child, 9)
os.waitpid(child, 0)
sys.exit("the child hangs")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_of_a_process_that_deposited_deposits() -> None:
    """Threads do not survive a fork; nothing of ours waits for them."""
    command = [sys.executable, "-c", FORKS, str(LIMIT)]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=2 * LIMIT
    )
    assert done.returncode == 0, done.stderr


def test_deposits_at_the_same_time_in_two_threads() -> None:
    work = [(scheme, seed) for scheme in scheme_names() for seed in range(3)]
    expected = [digest(scheme, 1, seed) for scheme, seed in work]
    assert len(set(expected)) == len(expected)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda case: digest(case[0], 2, case[1]), work))
    assert found == expected


def test_spawned_processes() -> None:
    schemes = scheme_names()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = list(pool.map(digest, schemes, timeout=LIMIT))
    assert found == [digest(scheme, 1) for scheme in schemes]


CACHE = """
import json
from tests.test_deposit_processes import digest
from pipeline.deposit import binning, tile_loops
digest("ngp", 1)
kernels = (binning.bin_counts, tile_loops.finish_counts)
stats = [kernel.stats for kernel in kernels]
print(json.dumps([sum(s.cache_hits.values()) for s in stats]))
print(json.dumps([sum(s.cache_misses.values()) for s in stats]))
"""


def test_the_second_process_loads_what_the_first_compiled(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    counted = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CACHE],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        counted.append([json.loads(line) for line in done.stdout.splitlines()])
    assert counted == [[[0, 0], [1, 1]], [[1, 1], [0, 0]]], "hits and misses, process by process"
