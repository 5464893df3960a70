"""The demonstration, quick: every stage for real."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.verify import verify
from tests.conftest import Run


@pytest.fixture(scope="module")
def _extras() -> None:
    for module in ("pmpp", "tensorflow"):
        pytest.importorskip(module, reason="the demo needs the simulate and train extras")


@pytest.mark.usefixtures("_extras")
def test_quick_demo_from_nothing(tmp_path: Path, prep: Run) -> None:
    done = prep("demo", "demo", "--quick", "--seed", "3")
    assert done.returncode == 0, done.stderr
    demo = tmp_path / "demo"
    assert f"Report: {Path('demo') / 'report.html'}" in done.stdout
    for name in ("dataset-zarr", "dataset-tfrecord"):
        assert verify(demo / name).passed
    metrics = json.loads((demo / "training/metrics.json").read_text())
    for name, values in metrics["targets"].items():
        shown = next(line for line in done.stdout.splitlines() if line.split()[0] == name)
        assert f"{values['per_universe']['r2']:.2f}" in shown
        assert f"{values['per_universe']['mae']:.3f}" in shown
    assert f"on {metrics['universes']} held-out universes" in done.stdout
    html = (demo / "report.html").read_text()
    assert "What was learned" in html
    assert html.count("data:image/png;base64,") == 5

    density = xr.open_zarr(demo / "dataset-zarr/train.zarr")["density"]
    assert int(density.sum()) == density.sizes["sample"] * density.sizes["channel"] * 16**3
    # structure grows: each channel, from z = 0 on, is less clustered than the one before
    variances = density.values.astype(float).var(axis=(0, 1, 2, 3))
    assert np.all(np.diff(variances) < 0)

    _check_twin(demo, density)

    again = prep("demo", "demo", "--quick", "--seed", "3")
    assert again.returncode == 5
    assert "a finished demonstration is there" in again.stderr

    # stopped before its report, it goes on without doing the rest again
    (demo / "report.html").unlink()
    manifest = (demo / "dataset-zarr/manifest.json").stat().st_mtime_ns
    assert prep("demo", "demo", "--quick", "--seed", "3").returncode == 0
    assert (demo / "dataset-zarr/manifest.json").stat().st_mtime_ns == manifest
    assert (demo / "report.html").exists()


def _check_twin(demo: Path, density: xr.DataArray) -> None:
    """A plain TFRecordDataset parse of features x and y gives the Zarr set's samples."""
    tf = pytest.importorskip("tensorflow")
    files = sorted(map(str, (demo / "dataset-tfrecord/train").glob("*.tfrecord")))
    features = {
        "x": tf.io.FixedLenFeature([], tf.string),
        "y": tf.io.FixedLenFeature([3], tf.float32),
    }
    records = [tf.io.parse_single_example(r, features) for r in tf.data.TFRecordDataset(files)]
    x = [tf.io.decode_raw(record["x"], tf.int16).numpy() for record in records]
    np.testing.assert_array_equal(np.reshape(x, density.shape), density.values)
    y = np.array([record["y"].numpy() for record in records])
    assert np.abs(y).max() <= 1
