"""The manifest: every byte counts, nothing leads out of the data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import manifest as manifests
from pipeline.errors import DatasetError
from pipeline.manifest import File, Layout, Manifest, Split, scale_target, unscale_target


def small() -> Manifest:
    return Manifest(
        name="tiny",
        recipe_digest="sha256:0",
        software={"numpy": "2"},
        layout=Layout(
            format="zarr",
            sample_shape=(4, 4, 4, 1),
            dtype="uint16",
            scheme="ngp",
            n_grid=4,
            subvolumes=1,
            redshifts=[0.0],
            samples_per_shard=1,
            compression="none",
        ),
        targets={"sigma_8": (0.6, 1.0), "Omega_m": (0.1, 0.5)},
        splits={"train": Split(universes=["u"], variants=1, samples_per_universe=1, samples=1)},
        shards=[],
        files=[File(path="train.zarr/zarr.json", bytes=3, digest="sha256:1")],
        universes=[],
    )


def test_round_trip_keeps_everything_and_the_order_of_targets() -> None:
    again = manifests.parse(manifests.dump(small()), "m")
    assert again == small()
    assert list(again.targets) == ["sigma_8", "Omega_m"]
    assert manifests.dump(again) == manifests.dump(small())


def test_every_changed_byte_is_found() -> None:
    raw = manifests.dump(small())
    for position in range(len(raw)):
        for bit in (0x01, 0x20):
            changed = bytearray(raw)
            changed[position] ^= bit
            with pytest.raises(DatasetError):
                manifests.parse(bytes(changed), "m")
    for length in range(len(raw)):
        with pytest.raises(DatasetError):
            manifests.parse(raw[:length], "m")
    with pytest.raises(DatasetError):
        manifests.parse(raw + b"\n", "m")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a\\..\\b", "a\0b"])
def test_paths_that_lead_out_are_refused(path: str) -> None:
    body = json.loads(manifests.dump(small()))
    body["files"][0]["path"] = path
    with pytest.raises(DatasetError, match="leads out of the data set"):
        manifests.parse(json.dumps(body).encode(), "m")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("layout", "dtype", "float64"),
        ("layout", "dtype", "object"),
        ("layout", "sample_shape", [4, 4, 0, 1]),
        ("layout", "sample_shape", [4, 4, 4]),
        ("layout", "n_grid", -4),
        ("layout", "subvolumes", 0),
        ("layout", "samples_per_shard", 0),
        ("train", "variants", 0),
        ("train", "samples_per_universe", 0),
        ("train", "samples", -1),
        ("file", "bytes", -1),
        ("targets", "sigma_8", [0.6, 0.6]),
    ],
)
def test_numbers_that_no_data_set_has_are_refused(section: str, key: str, value: object) -> None:
    body = json.loads(manifests.dump(small()))
    del body["digest"]
    sections = {
        "layout": body["layout"],
        "train": body["splits"]["train"],
        "file": body["files"][0],
        "targets": body["targets"],
    }
    sections[section][key] = value
    with pytest.raises(ValidationError, match=key):
        Manifest.model_validate(body)


def test_no_manifest_says_why(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set"):
        manifests.load(tmp_path)
    (tmp_path / "ledger").mkdir()
    with pytest.raises(DatasetError, match=r"did not finish.*--resume"):
        manifests.load(tmp_path)


@given(
    low=st.floats(-10, 10),
    width=st.floats(0.01, 10),
    fraction=st.floats(0, 1),
)
def test_targets_scale_to_one_and_back(low: float, width: float, fraction: float) -> None:
    high = low + width
    value = low + fraction * width
    scaled = scale_target(value, low, high)
    assert -1 - 1e-6 <= scaled <= 1 + 1e-6
    assert unscale_target(scaled, low, high) == pytest.approx(value, abs=1e-6)
    assert scale_target(low, low, high) == pytest.approx(-1)
    assert scale_target(high, low, high) == pytest.approx(1)
