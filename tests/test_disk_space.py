"""Disk space: estimated, checked before and during a build; full, read-only and forbidden disks."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import ledger
from pipeline.build import build, plan_recipe
from pipeline.cluster import ClusterChoice
from pipeline.disk_space import MARGIN, DiskGuard, estimate
from pipeline.errors import OutputError
from pipeline.plan import Plan
from pipeline.rounds import Progress
from pipeline.status import status_of
from pipeline.verify import verify
from pipeline.write.local_store import LocalStore
from tests.conftest import ROOT, Run
from tests.ensembles_made import all_digests, write_recipe

RAW: dict[str, Any] = {"output__codec": "none", "grid__n_grid": 16, "output__samples_per_shard": 8}
"""Ten tasks of one shard, 16 KiB each."""

Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A function that mounts a tmpfs with options such as ``size=128k``."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("no mount command on this system")
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


@pytest.fixture
def golden(ensemble: Path, cluster: ClusterChoice) -> dict[str, str]:
    recipe = write_recipe(ensemble, "golden.yaml", output__path="golden", **RAW)
    return digests(build(recipe, cluster).output)


def digests(output: Path | str) -> dict[str, str]:
    found = all_digests(Path(output))
    del found["recipe.yaml"]  # has the output's own place in it
    return found


# ---------------------------------------------------------------- estimates


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("zarr", "none"),
        ("zarr", "fast"),
        ("zarr", "small"),
        ("tfrecord", "none"),
        ("tfrecord", "gzip"),
    ],
)
def test_the_upper_bound_holds(
    ensemble: Path, cluster: ClusterChoice, form: str, codec: str
) -> None:
    """Also for many tiny samples, where what surrounds them is more than they are."""
    for n_grid, samples_per_shard in ((4, 2), (16, 8)):
        shutil.rmtree(ensemble / "out", ignore_errors=True)
        recipe = write_recipe(
            ensemble,
            output__format=form,
            output__codec=codec,
            grid__n_grid=n_grid,
            output__samples_per_shard=samples_per_shard,
        )
        space = estimate(plan_recipe(recipe, cluster))
        assert space.bytes_raw == 10 * n_grid**3 * 2 * 2
        output = ensemble / "out"
        build(recipe, cluster)
        written = [p.stat().st_size for p in output.rglob("*") if p.is_file()]
        assert sum(written) <= space.bytes_at_most
        shards = [s for e in ledger.read(output).values() for s in e.shards]
        assert max(shard.bytes for shard in shards) <= space.bytes_of_a_shard
        assert space.bytes_at_least <= space.bytes_raw


def test_plan_says_what_is_needed(ensemble: Path, prep: Run) -> None:
    recipe = write_recipe(ensemble, **RAW)
    facts = json.loads(prep("plan", recipe, "--workers", "1", "--json").stdout)
    assert facts["output_bytes_uncompressed"] == facts["output_bytes_at_least"] == 163840
    assert facts["output_bytes_at_most"] > 163840
    assert facts["free_bytes"] > 0
    text = prep("plan", recipe, "--workers", "1").stdout
    assert "160.0 KiB of samples before compression; on disk at most" in text
    assert "a build starts where 160.0 KiB are free" in text
    assert "temporary files: one shard a worker, at most" in text


# ---------------------------------------------------------------- the guard


class Told(LocalStore):
    """A folder whose free space is told."""

    free = 0

    def free_bytes(self) -> int:
        return Told.free


@pytest.fixture(scope="module")
def a_plan(
    _ensemble: Path, cluster: ClusterChoice, tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    root = tmp_path_factory.mktemp("plan")
    shutil.copytree(_ensemble, root, dirs_exist_ok=True)
    return plan_recipe(write_recipe(root, **RAW), cluster)


@given(free=st.integers(0, 400_000))
def test_a_build_starts_if_and_only_if_it_can_fit(a_plan: Plan, free: int) -> None:
    Told.free = free
    guard = DiskGuard(Told(Path("/nowhere")), a_plan)
    needed = int(163840 * MARGIN)
    if free >= needed:
        guard.check_start()
    else:
        with pytest.raises(OutputError, match=rf"{needed} bytes .* {free} free") as caught:
            guard.check_start()
        assert f"({needed - free} too few)" in str(caught.value)
        DiskGuard(Told(Path("/nowhere")), a_plan, ignore=True).check_start()


@given(free=st.integers(0, 400_000))
def test_tasks_are_let_in_as_long_as_they_fit(a_plan: Plan, free: int) -> None:
    """None of them ends here, so all are in flight."""
    Told.free = free
    guard = DiskGuard(Told(Path("/nowhere")), a_plan)
    fit = next(n for n in range(11) if n == 10 or int((n + 1) * 16384 * MARGIN) > free)
    admitted = guard.admitted(a_plan.tasks)
    tasks = [next(admitted) for _ in range(fit)]
    if fit == 10:
        assert next(admitted, None) is None
        return
    with pytest.raises(OutputError, match=r"\d+ bytes needed .* too few\).* --resume"):
        next(admitted)
    for task in tasks:  # they made nothing, and take no more room
        guard.given_up(task.name)
    again = guard.admitted(a_plan.tasks)
    assert [next(again) for _ in range(fit)] == tasks


# ---------------------------------------------------------------- real disks


def test_too_small_a_disk_is_refused_before_anything_is_written(
    ensemble: Path, disk: Disk, prep: Run
) -> None:
    place = disk("size=128k")
    recipe = write_recipe(ensemble, output__path=str(place / "out"), **RAW)
    done = prep("build", recipe, "--workers", "1")
    assert done.returncode == 5
    found = re.search(r"(\d+) bytes needed at least for 80 samples, (\d+) free", done.stderr)
    assert found is not None, done.stderr
    assert int(found[1]) == int(163840 * MARGIN)
    assert "--ignore-disk-space" in done.stderr
    assert list(place.iterdir()) == []


def test_a_full_disk_in_the_middle_of_a_write(
    ensemble: Path, disk: Disk, prep: Run, cluster: ClusterChoice, golden: dict[str, str]
) -> None:
    """Fault row 8: no partial shard, the bytes needed are told, and resuming gives all."""
    place = disk("size=128k")
    output = place / "out"
    recipe = write_recipe(ensemble, output__path=str(output), **RAW)
    done = prep("build", recipe, "--workers", "1", "--ignore-disk-space")
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert "the disk is full; free space and go on with --resume" in done.stderr
    assert re.search(r"\(\d+ bytes were to be written, \d+ are free\)", done.stderr)
    assert f"cosmoflow-prep build {recipe} --resume" in done.stderr
    assert not list(output.rglob("*.tmp"))
    assert status_of(output).state == "stopped"
    kept = sum(len(entry.shards) for entry in ledger.read(output).values())
    remount(place, "size=4m")
    result = build(recipe, cluster, resume=True)
    assert result.shards_kept == kept
    assert verify(output).passed
    assert digests(output) == golden


def test_a_disk_that_fills_up_stops_the_build_before_it_is_full(
    ensemble: Path, disk: Disk, cluster: ClusterChoice, golden: dict[str, str]
) -> None:
    place = disk("size=1m")
    output, ballast = place / "out", place / "ballast"
    recipe = write_recipe(ensemble, output__path=str(output), **RAW)

    def fill(progress: Progress) -> None:
        if progress.stage == "build" and progress.done and not ballast.exists():
            ballast.write_bytes(bytes(shutil.disk_usage(place).free - 90_000))

    with pytest.raises(OutputError, match="stopped before the disk is full") as caught:
        build(recipe, cluster, report=fill)
    assert re.search(r"\d+ bytes needed .* \d+ free \(\d+ too few\)", str(caught.value))
    assert not list(output.rglob("*.tmp"))
    left = ledger.read(output)
    assert 0 < len(left) < 10
    with pytest.raises(OutputError, match="bytes needed"):
        build(recipe, cluster, resume=True)
    ballast.unlink()
    assert build(recipe, cluster, resume=True).shards_kept == len(left)
    assert digests(output) == golden


def test_files_that_may_not_be_so_large(
    ensemble: Path, prep: Run, cluster: ClusterChoice, golden: dict[str, str]
) -> None:
    """The same without rights to mount: ``ulimit -f`` cuts a write in its middle."""
    recipe = write_recipe(ensemble, **RAW)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 10, 12 << 10))

    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--workers", "1"],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert done.returncode == 5, done.stderr
    assert "larger than is allowed (ulimit -f)" in done.stderr
    assert "bytes were to be written" in done.stderr
    output = ensemble / "out"
    assert not list(output.rglob("*.tmp"))
    assert not list(output.glob("*.zarr/density/c/*/0/0/0/0"))
    build(recipe, cluster, resume=True)
    assert digests(output) == golden


def test_a_line_of_the_ledger_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    """What follows a torn line in a journal would be lost with it."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from pipeline.errors import OutputError\n"
        "from pipeline.write.local_store import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "store.append('ledger/a.jsonl', b'one\\n')\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))\n"
        "try:\n"
        "    store.append('ledger/a.jsonl', b'x' * 2000 + b'\\n')\n"
        "except OutputError as error:\n"
        "    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
        "store.append('ledger/a.jsonl', b'two\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "a.jsonl: the file would be larger than is allowed" in done.stdout
    assert (tmp_path / "ledger/a.jsonl").read_bytes() == b"one\ntwo\n"


# ---------------------------------------------------------------- no rights


def test_a_read_only_disk_is_refused_before_anything_is_computed(
    ensemble: Path, disk: Disk
) -> None:
    """Fault row 9; no cluster is started: the choice would fail if it were asked."""
    place = disk("size=1m")
    remount(place, "ro")
    recipe = write_recipe(ensemble, output__path=str(place / "out"))
    with pytest.raises(OutputError, match="the file system is read-only; choose another output"):
        build(recipe, ClusterChoice("never-asked"))


def test_a_build_whose_disk_became_read_only(
    ensemble: Path, disk: Disk, cluster: ClusterChoice
) -> None:
    place = disk("size=1m")
    recipe = write_recipe(ensemble, output__path=str(place / "out"))

    def freeze(progress: Progress) -> None:
        if progress.stage == "publish":
            remount(place, "ro")

    with pytest.raises(OutputError, match="read-only"):
        build(recipe, cluster, report=freeze)
    remount(place, "rw")
    assert status_of(place / "out").state in ("stopped", "running")  # its lock could not be removed
    (place / "out/.lock").unlink(missing_ok=True)
    assert build(recipe, cluster, resume=True).shards_kept == 5


def test_a_folder_without_the_right_to_write(ensemble: Path) -> None:
    place = ensemble / "forbidden"
    place.mkdir()
    if os.geteuid() == 0:  # root may write anywhere but where nobody may
        done = subprocess.run(["chattr", "+i", str(place)], check=False, capture_output=True)
        if done.returncode:
            pytest.skip("root, and the file system knows no immutable folders")
    else:
        place.chmod(0o555)
    try:
        recipe = write_recipe(ensemble, output__path="forbidden/out")
        with pytest.raises(OutputError, match="permission denied; choose another output"):
            build(recipe, ClusterChoice("never-asked"))
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", str(place)], check=True)
        place.chmod(0o755)
