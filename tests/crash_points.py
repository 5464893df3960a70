"""Crash points: a build that is killed at its n-th change of the file system, and what then holds.

A process that has everything imported forks a child for every point.  In the
child, the functions that change files are wrapped: the n-th call inside the
output folder ends the process by SIGKILL, before it or (of a write) in the
middle of it.  Driver and worker are one process there, so both die at once.
Another child looks at what is left, goes on with the build and compares.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import LocalCluster

from pipeline import ledger
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import DatasetError
from pipeline.status import status_of
from pipeline.verify import verify
from tests.ensembles_made import write_ensemble, write_recipe

CHANGES = ("replace", "rename", "link", "unlink", "remove", "rmdir", "mkdir", "fsync", "truncate")


# ---------------------------------------------------------------- dying


@dataclass
class Injector:
    """Ends this process at the ``at``-th change inside ``folder``; counts them all."""

    folder: Path
    at: int
    torn: bool
    count: int = 0
    names: list[str] = field(default_factory=list)

    def install(self) -> None:
        for name in CHANGES:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        opened = io.open

        def open_(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            changes = set(mode) & set("wxa+")
            if not changes or not self._is_inside(self._path(file)):
                return opened(file, mode, *rest, **options)
            self.hit("open")
            return _File(opened(file, mode, *rest, **options), self)

        io.open = builtins.open = open_

    def hit(self, name: str) -> bool:
        """Count a change; whether it is the one to die in the middle of."""
        self.count += 1
        self.names.append(name)
        if self.count != self.at:
            return False
        if self.torn and name == "write":
            return True
        self.die()
        return False

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(target: Any, *rest: Any, **options: Any) -> Any:
            path = self._path(target, options.get("dir_fd"))
            if self._is_inside(path) and _changes(name, path):
                self.hit(name)
            return original(target, *rest, **options)

        return wrapper

    def _path(self, target: Any, dir_fd: int | None = None) -> Path:
        if isinstance(target, int):
            return Path(os.readlink(f"/proc/self/fd/{target}"))
        if dir_fd is not None:
            return Path(os.readlink(f"/proc/self/fd/{dir_fd}"), str(os.fspath(target)))
        return Path(os.path.abspath(os.fspath(target)))

    def _is_inside(self, path: Path) -> bool:
        return path == self.folder or self.folder in path.parents


def _changes(name: str, path: Path) -> bool:
    """Whether a call changes anything: a folder may be there, and a file may not."""
    if name == "mkdir":
        return not path.exists() and path.parent.exists()
    return name != "unlink" or os.path.lexists(path)


class _File:
    """A file open for writing, whose writes are counted and can be torn."""

    def __init__(self, file: Any, injector: Injector) -> None:
        self._file, self._injector = file, injector

    def write(self, data: Any) -> Any:
        if self._injector.hit("write"):
            self._file.write(bytes(data)[: len(data) // 2])
            self._file.flush()
            self._injector.die()
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *rest: object) -> None:
        self._file.close()


# ---------------------------------------------------------------- children


@contextmanager
def in_process_cluster() -> Iterator[ClusterChoice]:
    """A scheduler and a worker of one thread in this process."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as local:
        yield ClusterChoice(local.scheduler_address)


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Exit status (negative: the signal) and result of work done in a fork of this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code, answer = 1, None
        try:
            os.close(reading)
            code, answer = 0, work()
        except Exception:  # noqa: BLE001  (whatever it is, the parent tells)
            code, answer = 1, traceback.format_exc()
        finally:  # never back into the parent's loop
            os.write(writing, json.dumps(answer).encode())
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        raw = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), json.loads(raw) if raw else None


def run_build(recipe: Path, resume: bool) -> None:
    with in_process_cluster() as choice:
        build(recipe, choice, resume)


def build_and_die(recipe: Path, output: Path, at: int, torn: bool) -> tuple[int, Any]:
    """A build that dies at the ``at``-th change; its changes' names if there were fewer."""

    def work() -> list[str]:
        injector = Injector(output.resolve(), at, torn)
        injector.install()
        run_build(recipe, resume=False)
        return injector.names

    return in_child(work)


def contents(output: Path) -> dict[str, str]:
    """Every file but the journals, which name their writers and times."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes().hex()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.suffix != ".jsonl"
    }


def go_on_and_compare(recipe: Path, output: Path, golden: dict[str, str]) -> dict[str, Any]:
    """What is left of a dead build is told rightly, and a resumed one ends as the golden one."""
    state = "nothing"
    try:
        state = status_of(output).state
    except DatasetError:
        assert not (output / "ledger").exists(), "status finds no build where one was begun"
    published = (output / "manifest.json").exists()
    assert state == ("finished" if published else state), state
    assert state in ("nothing", "stopped", "finished"), state
    if published:
        assert verify(output).passed
    else:
        try:
            passed = verify(output).passed
        except DatasetError:
            passed = False
        assert not passed, "an unpublished data set passes verify"
    before = {shard: os.stat(output / shard) for shard in listed_shards(output)}
    assert set(listed_shards(output)) <= set(golden), "the ledger lists what does not belong there"
    if not published:
        run_build(recipe, resume=True)
    for shard, stat in before.items():
        after = os.stat(output / shard)
        assert (after.st_ino, after.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns), (
            f"{shard}: finished, and made again"
        )
    assert verify(output).passed
    assert status_of(output).state == "finished"
    found = contents(output)
    if published:  # killed between the manifest and giving back the lock
        found = {k: v for k, v in found.items() if not Path(k).name.startswith(".")}
    different = sorted(k for k in found.keys() | golden.keys() if found.get(k) != golden.get(k))
    assert not different, f"differ from the golden build: {different}"
    return {"state": state, "kept": len(before)}


def listed_shards(output: Path) -> list[str]:
    if not output.exists():
        return []
    return [shard.path for entry in ledger.read(output).values() for shard in entry.shards]


# ---------------------------------------------------------------- the loop


@dataclass
class Tally:
    """What was tried."""

    points: int = 0
    tried: int = 0
    killed: int = 0
    kept: int = 0
    states: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def prepare(root: Path) -> Path:
    """Three universes and a recipe of two splits, as small as they can be."""
    root.mkdir(parents=True, exist_ok=True)
    write_ensemble(root, n_universes=3, n_particles=64, redshifts=(0.0,))
    return write_recipe(
        root,
        grid={"n_grid": 4, "scheme": "ngp", "redshifts": [0.0]},
        split={"subvolumes": 1, "fractions": {"train": 0.67, "test": 0.33}, "seed": 1},
        output={"path": "out", "format": "zarr", "samples_per_shard": 1},
    )


def all_points(root: Path, stride: int, say: Callable[[str], None] = lambda line: None) -> Tally:
    """Kill a build at every ``stride``-th point, before it and in the middle of it."""
    started, tally = time.perf_counter(), Tally()
    recipe, output = prepare(root), root / "out"
    code, names = build_and_die(recipe, output, 0, False)
    assert code == 0, names
    golden = contents(output)
    tally.points = len(names)
    say(f"{len(names)} changes: {', '.join(f'{n} {names.count(n)}' for n in sorted(set(names)))}")
    for at in range(1, len(names) + 1, stride):
        for torn in (False, True) if names[at - 1] == "write" else (False,):
            shutil.rmtree(output, ignore_errors=True)
            tally.tried += 1
            code, answer = build_and_die(recipe, output, at, torn)
            where = f"point {at} ({names[at - 1]}{', torn' if torn else ''})"
            if code != -signal.SIGKILL:  # one change fewer than in the golden run
                say(f"{where}: ended with {code}")
                if code:
                    tally.failures.append(f"{where}: {answer}")
            else:
                tally.killed += 1
            code, answer = in_child(lambda: go_on_and_compare(recipe, output, golden))
            if code:
                tally.failures.append(f"{where}: {answer}")
                say(f"{where}: FAILED: {str(answer).splitlines()[-1:]}")
            else:
                tally.kept += answer["kept"]
                tally.states[answer["state"]] = tally.states.get(answer["state"], 0) + 1
    tally.seconds = time.perf_counter() - started
    return tally
