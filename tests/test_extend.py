"""Universes are added to a published data set; what is there stays as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import ledger
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import InputError
from pipeline.inspect import describe
from pipeline.manifest import SPLITS, load
from pipeline.samples import universe_cube
from pipeline.split import assign_splits, extension_shares
from pipeline.verify import verify
from tests.ensembles_made import all_digests, write_recipe
from tests.extensions_made import (
    LATER,
    Stop,
    arrive,
    content,
    files_of,
    rows_are_right,
    same_samples,
    splits_of,
    spoil_headers,
    spoil_positions,
)

# ---------------------------------------------------------------- which split

FRACTIONS = st.sampled_from(
    [
        {"train": 0.8, "validation": 0.1, "test": 0.1},
        {"train": 0.6, "validation": 0.2, "test": 0.2},
        {"train": 0.5, "validation": 0.5},
        {"train": 1.0},
        {"train": 1 / 3, "validation": 1 / 3, "test": 1 / 3},
    ]
)


@given(
    shares=FRACTIONS,
    there=st.lists(st.integers(0, 60), min_size=3, max_size=3),
    n_new=st.integers(1, 60),
)
def test_the_whole_approaches_the_wanted_fractions(
    shares: dict[Any, float], there: list[int], n_new: int
) -> None:
    old = dict(zip(SPLITS, there, strict=True))
    new = {name: share * n_new for name, share in extension_shares(old, shares, n_new).items()}
    assert all(abs(number - round(number)) < 1e-9 and number > 0 for number in new.values())
    assert round(sum(new.values())) == n_new
    total = sum(old[name] for name in shares) + n_new
    behind = {name: shares[name] * total - old[name] - new.get(name, 0) for name in shares}
    # none of what was added would have been better in another split
    assert all(behind[giver] > -1 - 1e-9 for giver in new)
    if all(shares[name] * total >= old[name] for name in shares):
        assert all(abs(left) < 1 + 1e-9 for left in behind.values())


@given(
    shares=FRACTIONS,
    steps=st.lists(st.integers(1, 25), min_size=1, max_size=4),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_step_by_step_every_split_keeps_its_share(
    shares: dict[Any, float], steps: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    counts: dict[Any, int] = dict.fromkeys(SPLITS, 0)
    for step, n_new in enumerate(steps):
        new = {f"u{step}-{i}": {"a": rng.random(), "b": rng.random()} for i in range(n_new)}
        dealt = assign_splits(new, extension_shares(counts, shares, n_new), seed)
        assert dealt.keys() == new.keys()
        backwards = dict(reversed(new.items()))
        assert assign_splits(backwards, extension_shares(counts, shares, n_new), seed) == dealt
        for name in dealt.values():
            counts[name] += 1
        total = sum(counts.values())
        assert all(abs(counts[name] - share * total) < 1 + 1e-9 for name, share in shares.items())


# ---------------------------------------------------------------- what an extension makes


@pytest.mark.parametrize("format", ["zarr", "tfrecord"])
def test_extended_twice(growing: Path, cluster: ClusterChoice, format: str) -> None:
    """Nothing that was published changes; all samples are those of a build of all at once."""
    recipe = write_recipe(growing, output__format=format)
    output = growing / "out"
    first = build(recipe, cluster).manifest
    raw, before = (output / "manifest.json").read_bytes(), files_of(output)
    arrive(growing, *LATER[:3])
    second = build(recipe, cluster, extend=True).manifest
    assert verify(output).passed
    assert (second.version, len(second.universes)) == (2, 13)
    assert (output / "manifest.v1.json").read_bytes() == raw
    assert second.previous is not None
    assert second.previous.path == "manifest.v1.json"
    after = files_of(output)
    assert {path: after[path] for path in before} == before
    assert splits_of(first).items() <= splits_of(second).items()
    added = {path for path in after if path not in before}
    assert added
    assert all(path.startswith("part-0001/") for path in added)

    arrive(growing, *LATER[3:])
    third = build(recipe, cluster, extend=True).manifest
    assert verify(output).passed
    assert load(output) == third
    assert third.version == 3
    assert [part.folder for part in third.parts] == ["", "part-0001", "part-0002"]
    assert splits_of(second).items() <= splits_of(third).items()
    now = files_of(output)
    assert {path: now[path] for path in after} == after

    whole = write_recipe(growing, "whole.yaml", output__path="whole", output__format=format)
    assert same_samples(output, third, Path(build(whole, cluster).output)) == 15
    for name, share in {"train": 0.6, "validation": 0.2, "test": 0.2}.items():
        assert abs(len(third.splits[name].universes) - share * 15) <= 1
    rows_are_right(output)
    assert describe(output)["version"] == 3


def test_each_part_opens_with_xarray(growing: Path, cluster: ClusterChoice) -> None:
    build(growing / "recipe.yaml", cluster)
    arrive(growing)
    manifest = build(growing / "recipe.yaml", cluster, extend=True).manifest
    for name, split in manifest.splits.items():
        groups = [growing / "out" / p.place(name, "zarr") for p in manifest.parts_of(name)]
        data = xr.concat(
            [xr.open_zarr(group) for group in groups],
            "sample",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="override",
        )
        assert data.sizes["sample"] == split.samples
        expected = [u for u in split.universes for _ in range(8)]
        assert list(data["universe"].values) == expected
    assert {len(manifest.parts_of(name)) for name in manifest.splits} == {2}


def test_same_bytes_for_any_workers_and_after_stops(growing: Path, cluster: ClusterChoice) -> None:
    build(growing / "recipe.yaml", cluster)
    arrive(growing)
    spoil_positions(growing, LATER[1])
    other = growing.parent / "other"
    shutil.copytree(growing, other)
    build(growing / "recipe.yaml", ClusterChoice(workers=1), extend=True)
    for stage in ("survey", "build", "publish"):
        with pytest.raises(KeyboardInterrupt):
            build(
                other / "recipe.yaml",
                cluster,
                extend=True,
                resume=stage != "survey",
                report=Stop(stage),
            )
        assert verify(other / "out").passed
        assert load(other / "out").version == 1
    result = build(other / "recipe.yaml", cluster, extend=True, resume=True)
    assert result.shards_kept > 0
    assert verify(other / "out").passed
    assert content(other / "out") == content(growing / "out")
    assert all_digests(other / "out") == all_digests(growing / "out")
    assert [u.id for u in result.manifest.quarantined] == [LATER[1]]


def test_started_over_what_was_cut_off_is_swept(growing: Path, cluster: ClusterChoice) -> None:
    build(growing / "recipe.yaml", cluster)
    arrive(growing)
    with pytest.raises(KeyboardInterrupt):
        build(growing / "recipe.yaml", cluster, extend=True, report=Stop("publish"))
    assert ledger.read(growing / "out", 1)
    stranger = growing / "out/part-0001/train.zarr/density/c/77/0/0/0/0"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"of another time")
    result = build(growing / "recipe.yaml", cluster, extend=True)
    assert result.shards_kept == 0
    assert not stranger.exists()
    assert verify(growing / "out").passed


# ---------------------------------------------------------------- quarantine


def test_a_mended_universe_comes_in_by_an_extension(growing: Path, cluster: ClusterChoice) -> None:
    recipe = growing / "recipe.yaml"
    good = growing.parent / "good"
    shutil.copytree(growing, good)
    spoil_headers(growing, "u001")
    spoil_positions(growing, "u002")
    assert [u.id for u in build(recipe, cluster).manifest.quarantined] == ["u001", "u002"]
    with pytest.raises(InputError, match=r"nothing to add.*2 are quarantined.*--retry-quarantined"):
        build(recipe, cluster, extend=True)
    arrive(growing, LATER[0])
    second = build(recipe, cluster, extend=True).manifest
    assert [u.id for u in second.quarantined] == ["u001", "u002"]
    assert len(second.universes) == 9

    shutil.copy(good / "sims/u001/snap_1.hdf5", growing / "sims/u001")
    with pytest.raises(KeyboardInterrupt):
        build(recipe, cluster, extend=True, retry_quarantined=True, report=Stop("publish"))
    # a resumed extension knows what it was asked to try again
    third = build(recipe, cluster, extend=True, resume=True).manifest
    assert verify(growing / "out").passed
    assert [u.id for u in third.quarantined] == ["u002"]
    assert "u002/snap_1.hdf5: 1 of 512 positions are NaN" in third.quarantined[0].reason
    assert splits_of(second).items() <= splits_of(third).items()
    whole = build(good / "recipe.yaml", cluster).manifest
    np.testing.assert_array_equal(
        universe_cube(growing / "out", third, "u001"), universe_cube(good / "out", whole, "u001")
    )


def test_nothing_is_left_to_add(growing: Path, cluster: ClusterChoice) -> None:
    build(growing / "recipe.yaml", cluster)
    arrive(growing, LATER[0])
    spoil_headers(growing, LATER[0])
    with pytest.raises(InputError, match=rf"nothing is left to add.*\n.*{LATER[0]}"):
        build(growing / "recipe.yaml", cluster, extend=True)
    assert verify(growing / "out").passed
    assert load(growing / "out").version == 1
