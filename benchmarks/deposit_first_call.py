"""Seconds of our first call in a fresh process, with and without compiled kernels on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

SIDE = 32


def first_calls(schemes: list[str]) -> dict[str, dict[str, float]]:
    """By scheme: ``compiling`` (empty cache), ``cached`` (a second process), ``warm``."""
    seconds = {}
    for scheme in schemes:
        with tempfile.TemporaryDirectory() as cache:
            compiling, cached = _child(scheme, cache), _child(scheme, cache)
        seconds[scheme] = {
            "compiling": compiling["first"],
            "cached": cached["first"],
            "warm": cached["second"],
        }
    return seconds


def _child(scheme: str, cache: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, scheme],
        env=os.environ | {"NUMBA_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _time_here(scheme: str) -> dict[str, float]:
    from deposit_ours import deposit_ours  # noqa: PLC0415  (its import is not the first call)

    positions = np.random.default_rng(0).random((SIDE**3, 3), dtype="f4") * SIDE
    out = np.zeros((SIDE,) * 3, "f4")
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        deposit_ours(positions, out, float(SIDE), scheme, 1)
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "second": seconds[1]}


if __name__ == "__main__":
    print(json.dumps(_time_here(sys.argv[1])))
