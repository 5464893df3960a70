"""A process for each library and number of threads, which deposits when it is told to.

The benchmark's process (:class:`Worker`) writes one line of JSON a command to the
worker's standard input and reads one answer; so rounds of many libraries alternate,
each library has its threads set before it starts, and one that dies takes nothing
with it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import deposit_memory
import deposit_ours
import numpy as np
from deposit_peers import PEERS, Call, Job, Peer, fastest, pin

MEMORY = "memory"
"""Name of the worker that measures reading and writing memory."""

ANSWER = "ANSWER "

PRIVATE_BYTES = 1 << 28
"""Positions of more bytes are mapped by all workers, to fit into memory together."""

TURN_SECONDS = 0.03
MOST_REPEATS = 200
PART = 16
MASS_TOLERANCE = 1e-4

Answer = dict[str, Any]


class Server:
    """What a worker process holds: its library, jobs and grids."""

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self.calls: dict[str, tuple[Callable[[], object], int]] = {}
        self.positions: dict[str, np.ndarray] = {}
        self.grids: dict[tuple[int, str], np.ndarray] = {}
        if name in PEERS and PEERS[name].pinned:
            pin(threads)

    def answer(self, command: Answer) -> Answer:
        """Do one command."""
        doing = command.pop("do")
        answer: Answer = getattr(self, doing)(**command)
        return answer

    def load(
        self,
        key: str,
        path: str,
        n_grid: int,
        box: float,
        scheme: str,
        dtype: str,
        limit: float | None,
    ) -> Answer:
        """Make a job ready and run it once, unless it would take more than ``limit`` seconds."""
        job = Job(self._positions(path), self._grid(n_grid, dtype), box, scheme, self.threads)
        expected = self._expected_seconds(job)
        if limit is not None and expected > limit:
            return {"refused": f"would take {expected:.0f} s"}
        call, options = self._make(job)
        result, seconds = _timed(call)
        error = abs(float(np.sum(result, dtype=np.float64)) / len(job.positions) - 1)
        if error > MASS_TOLERANCE:
            return {"refused": f"its grid holds a mass wrong by a part of {error:.1e}"}
        seconds = min(seconds, _timed(call)[1])
        repeats = min(MOST_REPEATS, math.ceil(TURN_SECONDS / seconds))
        self.calls[key] = call, repeats
        return {"seconds": seconds, "options": dict(options)}

    def probe(self, key: str) -> Answer:
        """Make a measurement of memory ready."""
        call = deposit_memory.probe(key, self.threads)
        call()
        self.calls[key] = call, 1
        return {"seconds": _timed(call)[1]}

    def run(self, key: str) -> Answer:
        """Seconds of one deposit; the mean of several where one is very short."""
        call, repeats = self.calls[key]
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return {"seconds": (time.perf_counter() - start) / repeats}

    def compare(self, path: str, n_grid: int, box: float, scheme: str, oracle: str) -> Answer:
        """Relative difference from the oracle's grid: sum of differences over the sum."""
        job = Job(
            np.load(path, mmap_mode="c"), np.zeros((n_grid,) * 3, "f4"), box, scheme, self.threads
        )
        right = np.load(oracle)
        result = np.asarray(self._make(job)[0](), np.float64)
        return {"difference": float(np.abs(result - right).sum() / right.sum())}

    def forget(self) -> Answer:
        """Let go of all jobs."""
        self.calls.clear()
        self.positions.clear()
        self.grids.clear()
        return {}

    def _positions(self, path: str) -> np.ndarray:
        if path not in self.positions:
            mapped = np.load(path, mmap_mode="c")
            self.positions[path] = np.array(mapped) if mapped.nbytes <= PRIVATE_BYTES else mapped
        return self.positions[path]

    def _grid(self, n_grid: int, dtype: str) -> np.ndarray:
        if (n_grid, dtype) not in self.grids:
            self.grids[n_grid, dtype] = np.empty((n_grid,) * 3, dtype)
            self.grids[n_grid, dtype].fill(0)
        return self.grids[n_grid, dtype]

    def _expected_seconds(self, job: Job) -> float:
        """From a part of the particles; the first call compiles and fills caches."""
        part = Job(
            job.positions[::PART][: 1 << 12].copy(), job.grid, job.box, job.scheme, job.threads
        )
        self._plain(part)()
        part = Job(
            job.positions[: max(1, len(job.positions) // PART)],
            job.grid,
            job.box,
            job.scheme,
            job.threads,
        )
        return PART * _timed(self._plain(part))[1]

    def _plain(self, job: Job) -> Call:
        """The call with the first of the library's choices."""
        if self.name in PEERS:
            return PEERS[self.name].make(job, **PEERS[self.name].choices(job)[0])
        return _ours(self.name, job)

    def _make(self, job: Job) -> tuple[Call, Any]:
        return fastest(PEERS[self.name], job) if self.name in PEERS else (_ours(self.name, job), {})


def _ours(name: str, job: Job) -> Call:
    function = deposit_ours.VARIANTS[name][0]

    def call() -> np.ndarray:
        function(job.positions, job.grid, job.box, job.scheme, job.threads)
        return job.grid

    return call


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def serve(name: str, threads: int) -> None:
    """Child process: answer commands until standard input ends."""
    server = Server(name, threads)
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001  (another library's failure is a result)
            answer = {"refused": f"{type(error).__name__}: {error}"[:200]}
        print(ANSWER + json.dumps(answer), flush=True)


class Worker:
    """The benchmark's end of one worker process."""

    def __init__(self, name: str, threads: int, folder: Path) -> None:
        self.name, self.threads = name, threads
        self.log = folder / f"{name.replace(' ', '-')}-{threads}.log"
        variables = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, str(threads))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, name, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def ask(self, **command: object) -> Answer:
        """Send a command; a worker that died answers with the end of its log."""
        try:
            _pipe(self.process.stdin).write(json.dumps(command) + "\n")
            _pipe(self.process.stdin).flush()
            for line in _pipe(self.process.stdout):
                if line.startswith(ANSWER):
                    return dict(json.loads(line.removeprefix(ANSWER)))
        except BrokenPipeError:
            pass
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        return {"refused": f"its process ended with {self.process.wait()}: {' '.join(last)}"[:200]}

    def close(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            _pipe(self.process.stdin).close()
            self.process.wait()


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("the worker was started without pipes")
    return stream


def threads_of(peer: Peer | None, threads: int) -> int:
    """Threads that a library runs with where so many are allowed; ours (None) has threads."""
    return threads if peer is None or peer.threaded else 1


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
