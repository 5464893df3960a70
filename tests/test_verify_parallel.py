"""verify over many shards at once: the same findings on threads and on real workers."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import runners
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.manifest import load
from pipeline.moments import Moments
from pipeline.verify import Progress, verify
from tests.conftest import Run
from tests.ensembles_made import write_ensemble, write_recipe


@pytest.fixture(scope="module", params=["zarr", "tfrecord"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cluster: ClusterChoice
) -> Path:
    """Universes of eight samples over two shards each."""
    root = tmp_path_factory.mktemp("whole")
    write_ensemble(root, n_universes=10, n_particles=256)
    recipe = write_recipe(
        root, grid__n_grid=4, output__format=request.param, output__samples_per_shard=4
    )
    return build(recipe, cluster).output


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def test_the_same_on_threads_and_on_workers(dataset: Path, cluster: ClusterChoice) -> None:
    """Fault row 28: nothing depends on where and in what order shards are looked at."""
    manifest = load(dataset)
    flip(dataset / manifest.shards[1].path, 20)
    (dataset / manifest.shards[3].path).unlink()
    flip(dataset / manifest.files[-1].path, 5)
    results = [
        verify(dataset, choice=choice)
        for choice in (None, cluster, ClusterChoice(workers=1), ClusterChoice(workers=5))
    ]
    assert results[0].found
    assert all(result == results[0] for result in results[1:])


def test_a_whole_one_passes_on_workers(dataset: Path, cluster: ClusterChoice) -> None:
    result = verify(dataset, choice=cluster)
    assert result.passed, result.faults
    assert result.samples == 80
    assert result.files == sum(1 for p in dataset.rglob("*") if p.is_file()) - 1 - len(
        list((dataset / "ledger").rglob("*.*"))
    )


def test_progress_counts_every_file_once(dataset: Path) -> None:
    seen: list[Progress] = []
    result = verify(dataset, seen.append)
    assert [p.done for p in seen] == list(range(1, result.files + 1))
    assert {p.total for p in seen} == {result.files}
    assert seen[-1].bytes == result.bytes


def test_every_damaged_sample_is_named(dataset: Path) -> None:
    """One byte in the middle of a sample's own bytes."""
    manifest = load(dataset)
    shard = manifest.shards_of("train")[1]
    raw = (dataset / shard.path).read_bytes()
    numbers = set()
    for place in range(0, len(raw), max(1, len(raw) // 40)):
        flip(dataset / shard.path, place)
        (fault,) = verify(dataset).found
        assert (fault.kind, fault.path) == ("changed", shard.path)
        if fault.first_sample is not None:
            owner = manifest.splits["train"].universes[fault.first_sample // 8]
            assert fault.universe == owner
            assert f"sample {fault.first_sample} (universe {owner})" in str(fault)
            numbers.add(fault.first_sample)
        flip(dataset / shard.path, place)
    assert numbers <= set(range(shard.first_sample, shard.first_sample + shard.samples))
    assert len(numbers) >= 3
    assert verify(dataset).passed


def test_a_missing_shard_names_its_samples(dataset: Path) -> None:
    shard = load(dataset).shards_of("test")[-1]
    (dataset / shard.path).unlink()
    (fault,) = verify(dataset).found
    last = shard.first_sample + shard.samples - 1
    assert f"test samples {shard.first_sample} to {last} are lost" in str(fault)
    assert (fault.first_sample, fault.samples) == (shard.first_sample, shard.samples)


def test_swapped_shards_are_recognised(dataset: Path) -> None:
    a, b, *_ = load(dataset).shards_of("train")
    raw = (dataset / a.path).read_bytes()
    (dataset / a.path).write_bytes((dataset / b.path).read_bytes())
    (dataset / b.path).write_bytes(raw)
    first, second = verify(dataset).faults
    assert first.startswith(a.path)
    assert f"it holds the bytes of {b.path}" in first
    assert f"it holds the bytes of {a.path}" in second


def test_rows_of_a_table_that_are_not_the_universes(dataset: Path) -> None:
    """First and number of the bad rows; the parameters of a universe edited in the manifest."""
    from tests.test_verify import rewritten

    manifest = load(dataset)
    name = manifest.splits["train"].universes[2]

    def other(body: dict) -> None:
        (universe,) = (u for u in body["universes"] if u["id"] == name)
        universe["parameters"]["sigma_8"] = 0.625

    rewritten(dataset, other)
    found = [f for f in verify(dataset).found if f.universe == name and f.kind == "content"]
    assert found
    assert all(f.first_sample in (16, 20) for f in found)
    assert sum(f.samples or 0 for f in found) in (8, 16)


def test_a_cluster_only_from_some_size(monkeypatch: pytest.MonkeyPatch, dataset: Path) -> None:
    chosen: list[ClusterChoice] = []

    def never(choice: ClusterChoice) -> object:
        chosen.append(choice)
        raise ConnectionRefusedError

    monkeypatch.setattr(runners, "connect_to", never)
    for choice in (None, ClusterChoice(), ClusterChoice(workers=3)):
        assert verify(dataset, choice=choice).passed
    monkeypatch.setattr(runners, "CLUSTER_BYTES", 1)
    assert verify(dataset, choice=ClusterChoice(workers=1)).passed
    with pytest.raises(ConnectionRefusedError):
        verify(dataset, choice=ClusterChoice(workers=2))
    assert chosen == [ClusterChoice(workers=2)]


def test_few_calls_are_taken_ahead() -> None:
    taken: list[int] = []
    gate = threading.Event()

    def calls() -> object:
        for number in range(1000):
            taken.append(number)
            yield (gate.wait,)

    with runners.runner(ClusterChoice(workers=2), 0) as run, run(calls()) as ended:  # type: ignore[arg-type]
        threading.Timer(0.2, gate.set).start()
        next(ended)
        assert len(taken) <= 2 * runners.IN_FLIGHT_PER_THREAD * 2
    assert len(taken) < 1000


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5),
    st.integers(0, 9),
    st.sampled_from(["int16", "uint16", "int32", "uint32", "float32"]),
    st.integers(0, 2**32 - 1),
)
def test_moments_are_those_of_numpy(channels: int, side: int, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, 30000, (3, side, side, 2, channels)).astype(dtype)
    moments = Moments.zeros(channels)
    for sample in samples:
        moments.add_sample(sample)
    wide = samples.astype("f8").reshape(-1, channels)
    np.testing.assert_array_equal(moments.mass, wide.sum(axis=0))
    np.testing.assert_array_equal(moments.square, (wide**2).sum(axis=0))
    np.testing.assert_array_equal(moments.maximum, wide.max(axis=0, initial=0))


def test_cells_that_are_no_numbers_spoil_the_sum() -> None:
    moments = Moments.zeros(1)
    cells = np.ones((2, 2, 2, 1), dtype="f4")
    cells[1, 1, 1] = np.nan
    moments.add_sample(cells)
    assert np.isnan(moments.mass[0])


def test_the_command_shows_lines_where_no_terminal_is(
    dataset: Path, cluster: ClusterChoice, prep: Run
) -> None:
    shown = prep("verify", dataset, "--cluster", cluster.cluster)
    assert shown.returncode == 0, shown.stderr
    n_files = verify(dataset).files
    assert f"verify: {n_files}/{n_files}" in shown.stderr
    flip(dataset / load(dataset).shards[0].path, 30)
    told = prep("verify", dataset, "--workers", "1", "--json")
    assert told.returncode == 6
    facts = json.loads(told.stdout)
    assert facts["details"][0]["path"] == load(dataset).shards[0].path
    assert facts["faults"] == [detail["message"] for detail in facts["details"]]
