"""Universes that cannot be used: the rest is built, the same whenever they were found."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline import ledger
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import InputError, OutputError, SnapshotError
from pipeline.ledger import QuarantineLine
from pipeline.manifest import Manifest, load
from pipeline.quarantine import close_gaps
from pipeline.verify import verify
from pipeline.write.local_store import LocalStore
from tests.conftest import Run
from tests.ensembles_made import write_recipe
from tests.extensions_made import Stop, content, spoil_headers, spoil_positions
from tests.test_build import start, wait_for_shards

# ---------------------------------------------------------------- arithmetic


def closed_one_by_one(members: list[str], bad: set[str]) -> list[str]:
    """The rule as it is told: bad ones in order, the last good one into each gap."""
    left = list(members)
    for gone in [member for member in members if member in bad]:
        while left and left[-1] in bad:
            left.pop()
        if gone in left:
            left[left.index(gone)] = left.pop()
    return left


@given(flags=st.lists(st.booleans(), max_size=40))
def test_gaps_are_closed_by_the_last_members(flags: list[bool]) -> None:
    members = [f"u{number:02d}" for number in range(len(flags))]
    bad = {member for member, flag in zip(members, flags, strict=True) if flag}
    closed = close_gaps(members, bad)
    assert closed == closed_one_by_one(members, bad)
    assert sorted(closed) == [member for member in members if member not in bad]
    kept = [a == b for a, b in zip(closed, members, strict=False)]
    assert kept.count(False) == sum(member in bad for member in members[: len(closed)])


# ---------------------------------------------------------------- the means of the tests


def ids(manifest: Manifest) -> list[str]:
    return [universe.id for universe in manifest.quarantined]


def made(output: Path) -> Counter[str]:
    """How often each task was done, of all lines that were ever written."""
    lines = [
        json.loads(line.split(" ", 1)[1])
        for journal in sorted(output.glob("ledger/*.jsonl"))
        for line in journal.read_text().splitlines()
    ]
    return Counter(line["task"] for line in lines if line["kind"] == "task")


def stopped(recipe: Path, cluster: ClusterChoice, stage: str = "publish", **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(recipe, cluster, report=Stop(stage), **options)


BAD = ("u001", "u006")


@pytest.fixture(scope="session")
def expected(
    _ensemble: Path, cluster: ClusterChoice, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The content of the data set without ``BAD``, which the survey refused."""
    root = tmp_path_factory.mktemp("expected") / "project"
    shutil.copytree(_ensemble, root)
    spoil_headers(root, *BAD)
    result = build(write_recipe(root), cluster)
    assert verify(result.output).passed
    assert ids(result.manifest) == list(BAD)
    return content(result.output)


# ---------------------------------------------------------------- one content, whenever found


@pytest.mark.parametrize("workers", [1, 3])
def test_found_by_the_survey_or_while_it_is_built(
    ensemble: Path, expected: dict[str, Any], workers: int
) -> None:
    spoil_positions(ensemble, *BAD)
    result = build(ensemble / "recipe.yaml", ClusterChoice(workers=workers))
    assert verify(result.output).passed
    assert content(result.output) == expected
    for universe in result.manifest.quarantined:
        name = f"sims/{universe.id}/snap_1.hdf5"
        assert universe.reason.startswith(f"{name}: 1 of 512 positions are NaN")


def test_one_by_the_survey_and_one_later_with_stops_in_between(
    ensemble: Path, cluster: ClusterChoice, expected: dict[str, Any]
) -> None:
    spoil_positions(ensemble, BAD[0])
    stopped(ensemble / "recipe.yaml", cluster)
    spoil_headers(ensemble, BAD[1])
    stopped(ensemble / "recipe.yaml", cluster, resume=True)
    result = build(ensemble / "recipe.yaml", cluster, resume=True)
    assert content(result.output) == expected
    assert verify(result.output).passed
    assert result.shards_kept == len(result.manifest.shards)


@pytest.mark.parametrize("shards", [1, 4])
def test_killed_and_resumed(
    ensemble: Path, cluster: ClusterChoice, expected: dict[str, Any], shards: int
) -> None:
    """``kill -9`` after so many lines of the ledger, those of quarantined universes among them."""
    spoil_positions(ensemble, *BAD)
    process = start(ensemble / "recipe.yaml")
    wait_for_shards(ensemble / "out", shards, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (ensemble / "out/manifest.json").exists()
    result = build(ensemble / "recipe.yaml", cluster, resume=True)
    assert content(result.output) == expected
    assert verify(result.output).passed


@pytest.mark.parametrize("format", ["zarr", "tfrecord"])
@pytest.mark.parametrize("samples_per_shard", [4, 8, 16])
def test_only_what_held_a_bad_or_moved_universe_is_made_again(
    ensemble: Path, cluster: ClusterChoice, format: str, samples_per_shard: int
) -> None:
    recipe = write_recipe(
        ensemble, output__format=format, output__samples_per_shard=samples_per_shard
    )
    whole = write_recipe(
        ensemble,
        "whole.yaml",
        output__path="whole",
        output__format=format,
        output__samples_per_shard=samples_per_shard,
    )
    before = build(whole, cluster).manifest.splits["train"].universes
    bad = before[1]
    spoil_positions(ensemble, bad)
    result = build(recipe, cluster)
    assert verify(result.output).passed
    after = result.manifest.splits["train"].universes
    assert after == [before[0], before[-1], *before[2:-1]]
    assert result.manifest.quarantined[0].split == "train"
    universes_a_task = max(1, samples_per_shard // 8)
    # the bad one's task failed once; the last was done, then had one less or none
    tasks = made(ensemble / "out")
    last = "train/" + str(
        (len(before) - 1) * 8 // max(samples_per_shard, 8) * 8 // min(8, samples_per_shard)
    )
    again = {task for task, times in tasks.items() if times > 1}
    assert again == ({last} if universes_a_task > 1 else set())
    assert set(tasks) - set(ledger.read(ensemble / "out")) == (
        set() if universes_a_task > 1 else {last}
    )
    shards = {s.path for s in result.manifest.shards}
    there = [p for p in (ensemble / "out").rglob("*") if "/c/" in str(p) or ".tfrecord" in p.name]
    names = {p.relative_to(ensemble / "out").as_posix() for p in there if p.is_file()}
    assert {name for name in names if "density" in name or ".tfrecord" in name} == shards


def test_samples_are_those_of_the_universes_that_are_left(
    ensemble: Path, cluster: ClusterChoice
) -> None:
    """Moved or not, the samples of a universe are what they are without any quarantine."""
    whole = build(write_recipe(ensemble, "whole.yaml", output__path="whole"), cluster)
    spoil_positions(ensemble, *BAD)
    result = build(ensemble / "recipe.yaml", cluster)
    compared = 0
    for split, members in result.manifest.splits.items():
        ours = zarr.open_group(result.output / f"{split}.zarr", mode="r")
        theirs = zarr.open_group(whole.output / f"{split}.zarr", mode="r")
        for number, universe in enumerate(members.universes):
            there = whole.manifest.splits[split].universes.index(universe)
            for name in ("density", "target", "parameters", "universe", "subvolume"):
                a = ours[name][8 * number : 8 * number + 8]
                np.testing.assert_array_equal(a, theirs[name][8 * there : 8 * there + 8])
            compared += 1
    assert compared == 8


# ---------------------------------------------------------------- tried again


def test_a_mended_universe_is_taken_up_only_when_asked(
    ensemble: Path, cluster: ClusterChoice, expected: dict[str, Any]
) -> None:
    recipe = ensemble / "recipe.yaml"
    good = ensemble.parent / "good"
    shutil.copytree(ensemble, good)
    spoil_positions(ensemble, *BAD)
    stopped(recipe, cluster)
    for name in BAD:
        shutil.copy(good / "sims" / name / "snap_1.hdf5", ensemble / "sims" / name)
    # resumed without being asked to, it stops again before it is published
    stopped(recipe, cluster, resume=True)
    assert {q.id for q in ledger.read_history(ensemble / "out").quarantined.values()} == set(BAD)
    result = build(recipe, cluster, resume=True, retry_quarantined=True)
    assert result.shards_kept > 0
    assert verify(result.output).passed
    assert ids(result.manifest) == []
    assert content(result.output) == content(build(good / "recipe.yaml", cluster).output)


def test_a_universe_that_is_tried_again_and_still_bad(
    ensemble: Path, cluster: ClusterChoice, expected: dict[str, Any]
) -> None:
    spoil_positions(ensemble, *BAD)
    stopped(ensemble / "recipe.yaml", cluster)
    result = build(ensemble / "recipe.yaml", cluster, resume=True, retry_quarantined=True)
    assert content(result.output) == expected
    assert verify(result.output).passed


def test_superseded_entries_are_never_trusted_again(ensemble: Path, cluster: ClusterChoice) -> None:
    """A shard of the same size, written over since: without compression its size tells nothing."""
    recipe = write_recipe(ensemble, output__samples_per_shard=8, output__codec="none")
    good = ensemble.parent / "good"
    shutil.copytree(ensemble, good)
    stopped(recipe, cluster)
    first = ledger.read(ensemble / "out")["train/0"].universes[0].id
    sizes = {s.path: s.bytes for e in ledger.read(ensemble / "out").values() for s in e.shards}
    spoil_headers(ensemble, first)
    stopped(recipe, cluster, resume=True)
    again = ledger.read(ensemble / "out")["train/0"]
    assert again.universes[0].id != first
    assert again.shards[0].bytes == sizes[again.shards[0].path]
    shutil.copy(good / "sims" / first / "snap_1.hdf5", ensemble / "sims" / first)
    result = build(recipe, cluster, resume=True, retry_quarantined=True)
    assert verify(result.output).passed
    assert content(result.output) == content(build(good / "recipe.yaml", cluster).output)


# ---------------------------------------------------------------- refused all the same


def test_strict_stops_at_the_first(ensemble: Path, cluster: ClusterChoice) -> None:
    spoil_positions(ensemble, "u003")
    with pytest.raises(SnapshotError, match=r"u003/snap_1\.hdf5: 1 of 512 positions are NaN"):
        build(ensemble / "recipe.yaml", cluster, strict=True)
    assert not (ensemble / "out/manifest.json").exists()
    spoil_headers(ensemble, "u004", "u005")
    with pytest.raises(InputError, match=r"2 of 10 universes cannot be used"):
        build(ensemble / "recipe.yaml", cluster, resume=True, strict=True)


@pytest.mark.parametrize("spoil", [spoil_headers, spoil_positions])
def test_a_split_of_which_nothing_is_left(
    ensemble: Path, cluster: ClusterChoice, spoil: Any
) -> None:
    whole = write_recipe(ensemble, "whole.yaml", output__path="whole")
    members = build(whole, cluster).manifest.splits["test"].universes
    spoil(ensemble, *members)
    with pytest.raises(InputError, match=r"test would be empty: 2 of 10 universes") as caught:
        build(ensemble / "recipe.yaml", cluster)
    assert all(f"sims/{name}/snap_1.hdf5" in str(caught.value) for name in members)
    assert not (ensemble / "out/manifest.json").exists()


def test_parameters_that_only_bad_headers_have(ensemble: Path, cluster: ClusterChoice) -> None:
    """A universe without parameters has no split; which it is does not matter to the others."""
    recipe = write_recipe(
        ensemble,
        input={"universes": "sims/*/", "parameters": "header"},
        targets={"Omega_m": [0.1, 0.5]},
    )
    spoil_headers(ensemble, "u002")
    spoil_positions(ensemble, "u005")
    stopped(recipe, cluster)
    result = build(recipe, cluster, resume=True)
    assert verify(result.output).passed
    assert {q.id: q.split is None for q in result.manifest.quarantined} == {
        "u002": True,
        "u005": False,
    }


# ---------------------------------------------------------------- workers that are killed

_DEADLY = """
import os
from pipeline.readers.registry import get_reader, register

class Deadly:
    def __init__(self, inner):
        self.inner, self.name = inner, inner.name
        self.sniff, self.parts = inner.sniff, inner.parts

    def open(self, files, options):
        if "{when}" == "open" and "{universe}" in str(files[0]):
            os._exit(3)
        snapshot = self.inner.open(files, options)
        if "{universe}" in str(files[0]):
            snapshot.iter_positions = lambda *arguments: os._exit(3)
        return snapshot

def dask_setup(worker):
    register(Deadly(get_reader("gadget_hdf5")))
"""


@pytest.mark.parametrize("when", ["open", "read"])
def test_a_snapshot_that_kills_its_worker(
    ensemble: Path, prep: Run, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Fault row 7: the killer is named, those that shared its task or worker are not."""
    preload = ensemble / "deadly.py"
    preload.write_text(_DEADLY.format(universe="u004", when=when))
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", json.dumps([str(preload)]))
    recipe = write_recipe(ensemble, output__samples_per_shard=80)
    done = prep("build", recipe, "--workers", "2", "--json")
    assert done.returncode == 11, done.stderr
    assert list(json.loads(done.stdout)["quarantined"]) == ["u004"]
    assert "u004: universe 'u004': 2 workers died reading it" in done.stderr
    assert f"build {recipe} --extend --retry-quarantined" in done.stderr
    manifest = load(ensemble / "out")
    assert ids(manifest) == ["u004"]
    assert len(manifest.universes) == 9
    assert verify(ensemble / "out").passed
    monkeypatch.delenv("DASK_DISTRIBUTED__WORKER__PRELOAD")
    spoil_headers(ensemble, "u004")
    other = write_recipe(ensemble, "other.yaml", output__path="other", output__samples_per_shard=80)
    assert prep("build", other, "--workers", "1").returncode == 11
    assert content(ensemble / "other") == content(ensemble / "out")


def test_a_line_that_failed_spoils_none_after_it(tmp_path: Path) -> None:
    """A full disk leaves half a line; the process goes on, in another journal."""

    class Full(LocalStore):
        """Writes half of a line, as a disk with that much space does."""

        def append(self, path: str, line: bytes) -> None:
            super().append(path, line[: len(line) // 2])
            raise OutputError("no space left")

    lines = [QuarantineLine(id=name, reason="bad") for name in ("u1", "u2", "u3")]
    ledger.append(LocalStore(tmp_path), lines[0])
    with pytest.raises(OutputError):
        ledger.append(Full(tmp_path), lines[1])
    ledger.append(LocalStore(tmp_path), lines[2])
    there = ledger.read_history(tmp_path).quarantined.values()
    assert sorted(line.id for line in there) == ["u1", "u3"]
