"""One build at a time: who holds an output is told, and of all who race for it one gets it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import OutputError
from pipeline.lock import Holder, locked, refuse_held
from pipeline.manifest import Manifest
from pipeline.publish import publish
from pipeline.rounds import Progress
from pipeline.verify import verify
from tests.conftest import ROOT
from tests.ensembles_made import write_recipe

RACER = (
    "import sys\n"
    "from pathlib import Path\n"
    "from pipeline.build import build\n"
    "from pipeline.cluster import ClusterChoice\n"
    "from pipeline.errors import OutputError\n"
    "recipe, address = Path(sys.argv[1]), sys.argv[2]\n"
    "for line in sys.stdin:\n"
    "    try:\n"
    "        build(recipe, ClusterChoice(address))\n"
    "        print('built', flush=True)\n"
    "    except OutputError as error:\n"
    "        print('refused:', ' '.join(str(error).split()), flush=True)\n"
)


def test_of_builds_that_race_one_wins_each_time(ensemble: Path, cluster: ClusterChoice) -> None:
    """Fault row 10: real processes that start at one instant, many rounds."""
    recipe = write_recipe(ensemble)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(recipe), cluster.cluster],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for _ in range(5):
            answers = []
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("go\n")
                racer.stdin.flush()
            for racer in racers:
                assert racer.stdout is not None
                answers.append(racer.stdout.readline().strip())
            refused = [answer for answer in answers if answer != "built"]
            assert len(refused) == 2, answers
            for answer in refused:
                assert re.search("another build holds it|there is a finished data set", answer)
            assert verify(ensemble / "out").passed
            assert not list((ensemble / "out").rglob(".lock*"))
            shutil.rmtree(ensemble / "out")
    finally:
        for racer in racers:
            racer.communicate(timeout=30)


def test_the_holder_its_age_and_the_command_are_told(tmp_path: Path) -> None:
    place = tmp_path / "my set"
    with locked(place):
        with pytest.raises(OutputError) as caught:
            refuse_held(place)
        assert re.search(
            rf"\(process {os.getpid()} on \S+; held for \d+ s, last sign of life \d+ s ago\)",
            str(caught.value),
        )
        assert str(caught.value).endswith(f"remove {place}/.lock: rm '{place}/.lock'")
    old = replace(Holder.myself(), host="elsewhere", since=time.time() - 4 * 3600)
    (place / ".lock").write_text(json.dumps(asdict(old)))
    with pytest.raises(
        OutputError, match=r"on elsewhere, but no sign of life for 240 .*held for 4\.0 h"
    ):
        refuse_held(place)


def test_a_later_process_of_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    """Process numbers are used again: the lock of one that is gone does not stay."""
    me = Holder.myself()
    if not me.started:
        pytest.skip("this system does not tell when a process was started")
    (tmp_path / ".lock").write_text(json.dumps(asdict(me)))
    with pytest.raises(OutputError, match="another build holds it"):
        refuse_held(tmp_path)
    (tmp_path / ".lock").write_text(json.dumps(asdict(replace(me, started="1"))))
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["started"] == me.started


def test_a_process_of_another_container_is_not_judged(tmp_path: Path) -> None:
    """Its number means nothing here, though the host name be the same."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    theirs = replace(Holder.myself(), pid=dead.pid, started="")
    other = replace(theirs, system="another boot pid:[1]")
    (tmp_path / ".lock").write_text(json.dumps(asdict(other)))
    with pytest.raises(OutputError, match="another build holds it"), locked(tmp_path):
        pytest.fail("taken from a process that may live")
    (tmp_path / ".lock").write_text(json.dumps(asdict(theirs)))
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_killed_workers_left_goes_before_the_manifest_comes(
    ensemble: Path, cluster: ClusterChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the manifest and the last sweep would leave it in the data set for good."""
    output = ensemble / "out"
    left = output / "train.zarr/density/.0.1.tmp"
    seen = []

    def leave(progress: Progress) -> None:
        if progress.stage == "build" and progress.done:
            left.parent.mkdir(parents=True, exist_ok=True)
            left.write_bytes(b"half")

    def watched(*arguments: Any) -> Manifest:
        seen.append(left.exists())
        return publish(*arguments)

    monkeypatch.setattr("pipeline.build.publish", watched)
    build(ensemble / "recipe.yaml", cluster, report=leave)
    assert seen == [False]
    assert verify(output).passed
