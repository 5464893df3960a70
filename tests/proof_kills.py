"""Kill a real build by SIGKILL at random instants until it is done, again and again.

python tests/proof_kills.py --kills 200

Each build runs as a user starts it, `cosmoflow-prep build`, with worker processes.
Half of the kills take the whole process group, half the driver alone (its workers
have to end by themselves).  After each the build is gone on with, or killed again.
When it is done its bytes are compared with those of a build that was never
killed, and every shard that the ledger listed at a kill has to be the same file
still.  The exit code is 1 if anything is lost, or made twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline import ledger  # noqa: E402
from pipeline.errors import CosmoflowError  # noqa: E402
from pipeline.status import status_of  # noqa: E402
from pipeline.verify import verify  # noqa: E402
from tests.ensembles_made import write_ensemble, write_recipe  # noqa: E402

ORPHAN_SECONDS = 20.0


@dataclass
class Tally:
    """What was done and what went wrong."""

    kills: int = 0
    builds: int = 0
    finished_at_kills: int = 0
    when: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Killed:
    """A build of one folder that is killed again and again."""

    def __init__(self, root: Path, rng: random.Random, tally: Tally) -> None:
        self.recipe, self.output = root / "recipe.yaml", root / "out"
        self.rng, self.tally = rng, tally
        self.seconds = 0.0
        self.finished: dict[str, tuple[int, int]] = {}

    def golden(self) -> dict[str, bytes]:
        """Bytes of a build that nobody kills, and how long it takes."""
        started = time.monotonic()
        process = self._start(resume=False)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        self.seconds = time.monotonic() - started
        return self.contents()

    def contents(self) -> dict[str, bytes]:
        """Every file but the journals, which name their writers and times."""
        return {
            path.relative_to(self.output).as_posix(): path.read_bytes()
            for path in self.output.rglob("*")
            if path.is_file() and path.suffix != ".jsonl"
        }

    def until_done(self, kills: int) -> int:
        """One build with at most so many kills; returns how many it took."""
        shutil.rmtree(self.output, ignore_errors=True)
        self.finished = {}
        done = 0
        while True:
            started = time.monotonic()
            process = self._start(resume=self.output.exists())
            if done < kills and self._kill(process):
                done += 1
                self._look()
                continue
            _, errors = process.communicate(timeout=600)
            # as busy as the machine is now: a kill that comes too late is none
            self.seconds = time.monotonic() - started
            if process.returncode != 0 and not (self.output / "manifest.json").exists():
                self.tally.failures.append(f"exit code {process.returncode}: {errors[-2000:]}")
            return done

    def compare(self, golden: dict[str, bytes]) -> None:
        self._check_kept()
        found = self.contents()
        # a kill after the manifest leaves the lock of a process that is gone
        found = {name: raw for name, raw in found.items() if not Path(name).name.startswith(".")}
        differ = sorted(n for n in found.keys() | golden.keys() if found.get(n) != golden.get(n))
        if differ:
            self.tally.failures.append(f"differ from the golden build: {differ}")
        if not verify(self.output).passed:
            self.tally.failures.append(f"verify: {verify(self.output).faults}")

    def _start(self, resume: bool) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipeline.cli", "build", str(self.recipe)]
        return subprocess.Popen(
            [*command, "--workers", "2", *(["--resume"] if resume else [])],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _kill(self, process: subprocess.Popen[str]) -> bool:
        """Kill a process at a random instant; False if it had ended before."""
        if self.rng.random() < 0.75:  # most of the time goes by before there is anything to lose
            while not (self.output / "ledger").exists() and process.poll() is None:
                time.sleep(0.002)
            time.sleep(self.rng.uniform(0, self.seconds / 2))
        else:
            time.sleep(self.rng.uniform(0, self.seconds))
        if process.poll() is not None:
            return False
        children = psutil.Process(process.pid).children(recursive=True)
        if self.rng.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        _, alive = psutil.wait_procs(children, timeout=ORPHAN_SECONDS)
        if alive:
            self.tally.failures.append(f"workers outlive their driver: {alive}")
            os.killpg(process.pid, signal.SIGKILL)
        self.tally.kills += 1
        return True

    def _look(self) -> None:
        """What status says of a build that is dead; which shards are finished."""
        state = "nothing begun"
        try:
            state = status_of(self.output).state
        except CosmoflowError:
            if (self.output / "ledger" / "software.json").exists():
                self.tally.failures.append("status finds no build")
        if state not in ("nothing begun", "stopped", "finished"):
            self.tally.failures.append(f"status of a dead build: {state}")
        self.tally.when[state] += 1
        self._check_kept()
        self.finished = self._listed()
        self.tally.finished_at_kills += len(self.finished)

    def _check_kept(self) -> None:
        now = self._listed()
        for path, stat in self.finished.items():
            if now.get(path) != stat:
                self.tally.failures.append(f"{path}: was finished, and is made again or lost")

    def _listed(self) -> dict[str, tuple[int, int]]:
        if not self.output.exists():
            return {}
        entries = ledger.read(self.output).values()
        paths = [shard.path for entry in entries for shard in entry.shards]
        stats = {path: (self.output / path).stat() for path in paths}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def run(root: Path, kills: int, seed: int, say: bool = True) -> Tally:
    """So many kills, over as many builds as they need."""
    tally, rng = Tally(), random.Random(seed)
    write_ensemble(root, n_universes=24, n_particles=60_000)
    write_recipe(
        root,
        grid__scheme="pcs",
        grid__n_grid=16,
        split__fractions={"train": 0.75, "test": 0.25},
        output__samples_per_shard=8,
    )
    killed = Killed(root, rng, tally)
    golden = killed.golden()
    while tally.kills < kills and len(tally.failures) < 10:
        killed.until_done(min(kills - tally.kills, rng.randint(1, 6)))
        killed.compare(golden)
        tally.builds += 1
        if say:
            click.echo(f"{tally.kills} kills, {tally.builds} builds", err=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the tally as one object")
    chosen = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = run(Path(folder), chosen.kills, chosen.seed)
    seconds = time.monotonic() - started
    if chosen.json:
        click.echo(json.dumps(tally.__dict__))
    else:
        click.echo(
            f"{tally.kills} kills over {tally.builds} builds, found {dict(tally.when)}; "
            f"{tally.finished_at_kills} times a finished shard was there at a kill and is the same "
            f"file; {len(tally.failures)} failures; {seconds:.0f} s"
        )
        for failure in tally.failures:
            click.echo(failure)
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
