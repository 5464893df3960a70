"""Anything in any order to one output: verify passes if and only if its bytes are right.

A rule for everything that can happen to a data set.  To add one (a command, a
fault), write a method; what it must keep to is in the invariant.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline import ledger
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import CosmoflowError, DatasetError, OutputError
from pipeline.rounds import Progress
from pipeline.status import status_of
from pipeline.verify import verify
from tests.crash_points import in_process_cluster, prepare

N_SHARDS = 3


class StopError(CosmoflowError):
    """Ends a build from its callback."""


class World:
    """What all runs of the machine share."""

    cluster: ClusterChoice
    root: Path
    golden: dict[str, bytes]
    dead_pid: int


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    World.root = tmp_path_factory.mktemp("machine")
    recipe = prepare(World.root / "golden")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    World.dead_pid = process.pid
    with in_process_cluster() as World.cluster:
        build(recipe, World.cluster)
        World.golden = contents(World.root / "golden/out")
        yield


def contents(output: Path) -> dict[str, bytes]:
    """Every file but the ledger, which names writers, times and places, and what is swept."""
    names = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    return {
        name: (output / name).read_bytes()
        for name in names
        if not name.startswith("ledger/") and not name.endswith(".tmp")
    }


class BuildMachine(RuleBasedStateMachine):
    """One output and all that happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(mkdtemp(dir=World.root))
        shutil.copytree(World.root / "golden", self.root, dirs_exist_ok=True)
        self.output = self.root / "out"
        shutil.rmtree(self.output)

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @property
    def is_begun(self) -> bool:
        return (self.output / "ledger/software.json").exists()

    @property
    def is_published(self) -> bool:
        return (self.output / "manifest.json").exists()

    def shards(self) -> list[Path]:
        return sorted(self.output.glob("*.zarr/density/c/*/0/0/0/0"))

    def build(self, stop_after: int | None = None) -> None:
        def report(progress: Progress) -> None:
            done = progress.done if progress.stage == "build" else -1
            if stop_after is not None and done >= stop_after:
                raise StopError("enough")

        build(self.root / "recipe.yaml", World.cluster, self.is_begun, report)

    # ------------------------------------------------------------ what a user does

    @precondition(lambda self: not self.is_published)
    @rule(shards=st.integers(0, N_SHARDS))
    def build_part(self, shards: int) -> None:
        with pytest.raises(StopError):
            self.build(stop_after=shards)

    @precondition(lambda self: not self.is_published)
    @rule()
    def build_or_resume(self) -> None:
        self.build()
        assert self.is_published

    @precondition(lambda self: self.is_published)
    @rule(resume=st.booleans())
    def a_finished_one_is_not_built_again(self, resume: bool) -> None:
        before = contents(self.output)
        with pytest.raises(OutputError, match="finished data set"):
            build(self.root / "recipe.yaml", World.cluster, resume)
        assert contents(self.output) == before

    @precondition(lambda self: self.output.exists())
    @rule()
    def remove(self) -> None:
        shutil.rmtree(self.output)

    # ------------------------------------------------------------ what a kill leaves

    @precondition(lambda self: self.is_begun and not self.is_published)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """The lock of a dead process, temporary files, a torn line, or a line never written."""
        holder = {"host": socket.gethostname(), "pid": World.dead_pid, "token": "dead"}
        (self.output / ".lock").write_text(json.dumps(holder))
        for name in data.draw(st.lists(st.sampled_from(["recipe.yaml", "train.zarr/x"]))):
            half = self.output / name
            half.parent.mkdir(exist_ok=True)
            half.with_name(f".{half.name}.{World.dead_pid}.tmp").write_bytes(b"half")
        journals = sorted(self.output.glob("ledger/*.jsonl"))
        if journals:
            journal = data.draw(st.sampled_from(journals))
            raw = journal.read_bytes()
            journal.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
            ledger._writer.cache_clear()  # a process that was killed writes no more

    # ------------------------------------------------------------ what a disk does

    @precondition(lambda self: self.is_published or self.shards())
    @rule(data=st.data())
    def corrupt(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(self.targets()))
        raw = bytearray(path.read_bytes())
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
            path.write_bytes(raw)

    @precondition(lambda self: self.is_published or self.shards())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.targets())).unlink()

    @precondition(lambda self: self.is_published)
    @rule()
    def restore(self) -> None:
        """From a backup."""
        for name, raw in World.golden.items():
            (self.output / name).parent.mkdir(parents=True, exist_ok=True)
            (self.output / name).write_bytes(raw)

    def targets(self) -> list[Path]:
        """Files that can be damaged: what a build was begun with is refused when it is resumed."""
        if not self.is_published:
            return self.shards()
        return [self.output / name for name in World.golden if (self.output / name).exists()]

    # ------------------------------------------------------------ what always holds

    @invariant()
    def verify_passes_if_and_only_if_the_bytes_are_right(self) -> None:
        try:
            passed = verify(self.output).passed
        except DatasetError:
            passed = False
        assert passed == (self.is_published and contents(self.output) == World.golden)

    @invariant()
    def status_tells_what_there_is(self) -> None:
        if not self.is_begun and not self.is_published:
            return
        status = status_of(self.output)
        if not self.is_published:
            assert status.state == "stopped"
            assert status.shards == N_SHARDS
            listed = [s for e in ledger.read(self.output).values() for s in e.shards]
            assert status.shards_done == len(listed)
        elif contents(self.output) == World.golden:
            assert status.state == "finished"
        else:
            assert status.state in ("finished", "damaged")


BuildMachine.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestBuildMachine = BuildMachine.TestCase
