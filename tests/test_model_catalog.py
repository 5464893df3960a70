"""The catalog gives what was written, and refuses what was not."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from cosmoflow_model.catalog import Catalog
from cosmoflow_model.transform import unscale
from pipeline.errors import DatasetError, TrainingError
from tests.datasets_made import RANGES, flip_byte, make_dataset, scaled

FORMATS = [("zarr", "none"), ("tfrecord", "none"), ("tfrecord", "gzip")]


@pytest.mark.parametrize(("layout", "compression"), FORMATS)
def test_reads_every_sample_as_written(tmp_path: Path, layout: str, compression: str) -> None:
    made = make_dataset(tmp_path / "set", layout=layout, compression=compression, subvolumes=2)
    catalog = Catalog.open(made.root)
    for split in ("train", "validation", "test"):
        catalog.require(split)
        table = catalog.split(split)
        assert table.universes == made.universes[split]
        np.testing.assert_array_equal(table.parameters, made.parameters[split])
        for sample in range(table.samples):
            cube, target = catalog.read(split, sample)
            assert cube.dtype == made.cubes[split].dtype
            np.testing.assert_array_equal(cube, made.cubes[split][sample])
            np.testing.assert_allclose(target, scaled(made.parameters[split])[sample], atol=1e-6)
    assert catalog.sample_shape == (8, 8, 8, 2)
    assert not catalog.is_periodic


def test_unscaling_gives_the_physical_values(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set")
    values = made.parameters["train"]
    np.testing.assert_allclose(unscale(scaled(values), list(RANGES.values())), values, atol=1e-6)


def test_absent_split_is_no_error_until_it_is_needed(tmp_path: Path) -> None:
    catalog = Catalog.open(make_dataset(tmp_path / "set", counts=(4, 2, 0)).root)
    assert catalog.samples("test") == 0
    assert catalog.split("test").parameters.shape == (0, 2)
    with pytest.raises(TrainingError, match="no test samples"):
        catalog.require("test")


def test_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no manifest\.json"):
        Catalog.open(tmp_path)


@pytest.mark.parametrize("layout", ["zarr", "tfrecord"])
def test_missing_and_cut_shards_are_refused_by_name(tmp_path: Path, layout: str) -> None:
    catalog = Catalog.open(make_dataset(tmp_path / "set", layout=layout).root)
    shard = catalog.root / catalog.manifest.shards[1].path
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DatasetError, match=rf"{shard}: {len(whole) - 1} bytes"):
        catalog.require("train")
    shard.unlink()
    with pytest.raises(DatasetError, match=f"{shard}: missing"):
        catalog.require("train")


@pytest.mark.parametrize(("layout", "compression"), FORMATS)
def test_changed_byte_is_found_when_read(tmp_path: Path, layout: str, compression: str) -> None:
    made = make_dataset(tmp_path / "set", layout=layout, compression=compression)
    catalog = Catalog.open(made.root)
    shard = catalog.root / catalog.manifest.shards[0].path
    flip_byte(shard, 300)
    with pytest.raises(DatasetError, match=f"{shard}: damaged"):
        _read_all(catalog)


def _read_all(catalog: Catalog) -> None:
    for sample in range(5):
        catalog.read("train", sample)


def test_index_that_points_outside_is_refused(tmp_path: Path) -> None:
    catalog = Catalog.open(make_dataset(tmp_path / "set", layout="tfrecord").root)
    index = catalog.root / catalog.manifest.shards[0].index.path
    index.write_text("0 999999999999\n" * 5)
    with pytest.raises(DatasetError, match=r"\.idx: damaged"):
        catalog.read("train", 0)


def test_shard_of_other_universes_is_refused(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set", layout="tfrecord", counts=(10, 0, 0))
    catalog = Catalog.open(made.root)
    first, second = (catalog.root / shard.path for shard in catalog.manifest.shards)
    first.write_bytes(second.read_bytes())
    with pytest.raises(DatasetError, match="has the targets"):
        catalog.read("train", 0)


def test_gzip_shard_with_too_few_records_is_refused(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set", layout="tfrecord", compression="gzip")
    catalog = Catalog.open(made.root)
    shard = catalog.root / catalog.manifest.shards[0].path
    shard.write_bytes(gzip.compress(b""))
    with pytest.raises(DatasetError, match="0 records, 5 expected"):
        catalog.read("train", 0)


def test_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set", layout="tfrecord", compression="gzip")
    catalog = Catalog.open(made.root)
    shard = catalog.root / catalog.manifest.shards[0].path
    shard.write_bytes(gzip.compress(bytes(1 << 20)) * 8)
    with pytest.raises(DatasetError, match="unpacks to more than the 30800 bytes"):
        catalog.read("train", 0)


def test_advice_for_damage_names_commands_that_exist(tmp_path: Path) -> None:
    catalog = Catalog.open(make_dataset(tmp_path / "set").root)
    shard = catalog.root / catalog.manifest.shards[0].path
    flip_byte(shard, 300)
    with pytest.raises(DatasetError) as caught:
        _read_all(catalog)
    shard.unlink()
    with pytest.raises(DatasetError) as missing:
        catalog.require("train")
    for error in (caught, missing):
        assert "'cosmoflow-prep verify DATASET'" in str(error.value)
        assert "from a copy or build the data set again in another folder" in str(error.value)
        assert "--" not in str(error.value)
