"""Rounds in which ours, the other libraries and the memory's speed take turns."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import deposit_ours
import numpy as np
from deposit_cases import LATTICE, SHUFFLED, Case, Particles
from deposit_peers import PEERS
from deposit_worker import MEMORY, Answer, Worker, threads_of

from pipeline.deposit.oracle import deposit_reference

CHECK = Case("", 32, 64, LATTICE)
"""The oracle is slow: few particles, in clumps."""

CHECK_TOLERANCE = 1e-4

FEWER_SECONDS = 2.0
FEWER_ROUNDS = 2
"""A peer that needs longer than that for one deposit runs in so many rounds only."""

PAUSE_SECONDS = 0.005
"""Between turns: OpenMP's threads spin a little after their work."""

OURS_LATTICE = f"{deposit_ours.OURS}, {LATTICE}"
"""In a shuffled case, ours on the same particles in the order of the lattice."""


@dataclass(frozen=True)
class Turn:
    """One who runs in each round: a worker and the key of its job."""

    label: str
    worker: Worker
    key: str


@dataclass
class Measured:
    """What one case, scheme and number of threads gave.

    Attributes
    ----------
    case : str
        Name of the case.
    scheme : str
    threads : int
        Most that each library may use.
    seconds : dict
        Of each round, from the first on, by who ran; slow peers have fewer.
    options : dict
        What was tuned, by peer.
    """

    case: str
    scheme: str
    threads: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


class Bench:
    """All workers of a run.

    ``left_out`` says who is not in a table and why; ``agreement`` is the relative
    difference of each library and scheme from the oracle.
    """

    def __init__(self, folder: Path, names: list[str], limit: float) -> None:
        self.folder, self.limit = folder, limit
        self.particles = Particles(folder)
        self.left_out: dict[str, str] = {}
        self.agreement: dict[str, float] = {}
        self.workers: dict[tuple[str, int], Worker] = {}
        missing = {name: PEERS[name].missing() for name in names}
        self.peers = {name: PEERS[name] for name in names if not missing[name]}
        for name in names:
            if missing[name]:
                self.left_out[name] = f"not installed ({', '.join(missing[name])})"

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close()

    def check(self, schemes: list[str], threads: int) -> None:
        """Compare everyone with the oracle; who differs is left out."""
        path = str(self.particles.path(CHECK))

        @cache
        def oracle(scheme: str, origin: str) -> str:
            stored = self.folder / f"oracle-{scheme}-{origin}.npy"
            grid = deposit_reference(np.load(path), CHECK.n_grid, CHECK.box, scheme, origin)
            np.save(stored, grid)
            return str(stored)

        for scheme, (name, origin, most) in itertools.product(schemes, self._origins(threads)):
            if self._offers(name, scheme):
                answer = self._worker(name, most).ask(
                    do="compare",
                    path=path,
                    n_grid=CHECK.n_grid,
                    box=CHECK.box,
                    scheme=scheme,
                    oracle=oracle(scheme, origin),
                )
                self._judge(f"{name} {scheme}", answer)

    def measure(self, case: Case, scheme: str, threads: int, rounds: int) -> Measured:
        """Run all rounds of one case; the first to run moves on by one each round."""
        measured = Measured(case.name, scheme, threads)
        turns = [
            *self._memory(threads),
            *self._ours(case, measured),
            *self._others(case, measured),
        ]
        slow: set[str] = set()
        for number in range(rounds):
            shift = number % len(turns)
            for turn in turns[shift:] + turns[:shift]:
                if number < FEWER_ROUNDS or turn.label not in slow:
                    self._run(turn, measured, slow)
        for worker in self.workers.values():
            worker.ask(do="forget")
        return measured

    def _run(self, turn: Turn, measured: Measured, slow: set[str]) -> None:
        time.sleep(PAUSE_SECONDS)
        answer = turn.worker.ask(do="run", key=turn.key)
        if "seconds" not in answer:
            measured.seconds.pop(turn.label, None)
            slow.add(turn.label)
            self._leave_out(turn.label, measured, answer)
            return
        measured.seconds.setdefault(turn.label, []).append(answer["seconds"])
        if answer["seconds"] > FEWER_SECONDS and turn.label in self.peers:
            slow.add(turn.label)

    def _memory(self, threads: int) -> Iterator[Turn]:
        worker = self._worker(MEMORY, threads)
        for what in ("read", "write"):
            worker.ask(do="probe", key=what)
            yield Turn(what, worker, what)

    def _ours(self, case: Case, measured: Measured) -> Iterator[Turn]:
        for name, (_, schemes) in deposit_ours.VARIANTS.items():
            for dtype in deposit_ours.OUTPUTS.get(measured.scheme, ("float32",)):
                if measured.scheme in schemes:
                    label = name if dtype == "float32" else f"{name} {dtype}"
                    yield from self._turn(label, name, case, measured, dtype=dtype)
        if case.order == SHUFFLED and case.side:
            yield from self._turn(OURS_LATTICE, deposit_ours.OURS, case, measured, order=LATTICE)

    def _others(self, case: Case, measured: Measured) -> Iterator[Turn]:
        for name, peer in self.peers.items():
            if measured.scheme not in peer.schemes or f"{name} {measured.scheme}" in self.left_out:
                continue
            if case.n_particles > peer.most_particles:
                self._leave_out(name, measured, {"refused": "needs too much memory"})
                continue
            yield from self._turn(name, name, case, measured)

    def _turn(
        self,
        label: str,
        name: str,
        case: Case,
        measured: Measured,
        *,
        dtype: str = "float32",
        order: str | None = None,
    ) -> Iterator[Turn]:
        """Load a job and run it once; nothing where the worker refuses it."""
        peer = self.peers.get(name)
        worker = self._worker(name, threads_of(peer, measured.threads))
        answer = worker.ask(
            do="load",
            key=label,
            path=str(self.particles.path(case, order)),
            n_grid=case.n_grid,
            box=case.box,
            scheme=measured.scheme,
            dtype=dtype,
            limit=self.limit if peer else None,
        )
        if "refused" in answer:
            self._leave_out(label, measured, answer)
            return
        if answer["options"]:
            measured.options[label] = " ".join(f"{k} {v}" for k, v in answer["options"].items())
        yield Turn(label, worker, label)

    def _leave_out(self, label: str, measured: Measured, answer: Answer) -> None:
        where = f"{label} {measured.scheme}, {measured.case}, threads {measured.threads}"
        self.left_out[where] = str(answer["refused"])
        print(f"left out: {where}: {answer['refused']}", file=sys.stderr)

    def _judge(self, label: str, answer: Answer) -> None:
        difference = answer.get("difference", np.inf)
        if difference <= CHECK_TOLERANCE:
            self.agreement[label] = difference
            return
        reason = answer.get("refused", f"differs from the oracle by {difference:.1e}")
        self.left_out[label] = str(reason)
        print(f"left out: {label}: {reason}", file=sys.stderr)

    def _origins(self, threads: int) -> Iterator[tuple[str, str, int]]:
        for name in deposit_ours.VARIANTS:
            yield name, deposit_ours.ORIGIN, threads
        for name, peer in self.peers.items():
            yield name, peer.origin, threads_of(peer, threads)

    def _offers(self, name: str, scheme: str) -> bool:
        if name in self.peers:
            return scheme in self.peers[name].schemes
        return scheme in deposit_ours.VARIANTS[name][1]

    def _worker(self, name: str, threads: int) -> Worker:
        """The process of that name and number of threads; a dead one is replaced."""
        key = name, threads
        if key not in self.workers or self.workers[key].process.poll() is not None:
            self.workers[key] = Worker(name, threads, self.folder)
        return self.workers[key]
