"""Real snapshots, where they are at hand, through the whole build."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.deposit.oracle import deposit_reference
from pipeline.errors import InputError
from pipeline.verify import verify
from tests.ensembles_made import write_recipe


def test_gadget4_multi_file_with_four_redshifts(
    snapshots: Path, tmp_path: Path, cluster: ClusterChoice
) -> None:
    folder = snapshots / "gadget4_dmo32_multifile"
    (tmp_path / "table.csv").write_text(
        "id,Omega_m,sigma_8,n_s\ngadget4_dmo32_multifile,0.3175,0.834,0.9624\n"
    )
    recipe = write_recipe(
        tmp_path,
        input={"universes": [str(folder)], "parameters": "table.csv"},
        grid={"n_grid": 32, "scheme": "tsc", "redshifts": [0.0, 0.5, 1.5, 3.0]},
        split__fractions={"train": 1.0},
        output__samples_per_shard=8,
    )
    result = build(recipe, cluster)
    assert verify(result.output).passed
    (universe,) = result.manifest.universes
    recorded = [s.redshift for s in universe.snapshots]
    np.testing.assert_allclose(recorded, [0, 0.511, 1.501, 3.017], atol=2e-3)
    assert [len(s.files) for s in universe.snapshots] == [4, 4, 4, 4]
    density = zarr.open_group(result.output / "train.zarr", mode="r")["density"][...]
    for channel, number in enumerate((3, 2, 1, 0)):
        parts = sorted((folder / f"snapdir_00{number}").glob("*.hdf5"))
        positions = np.concatenate(
            [h5py.File(part)["PartType1/Coordinates"][...] for part in parts]
        )
        expected = deposit_reference(positions, 32, 64.0, "tsc")
        found = density[..., channel].sum()
        assert found == pytest.approx(32**3, rel=1e-6)
        first = expected[:16, :16, :16]
        np.testing.assert_allclose(density[0, ..., channel], first, atol=1e-4)


def test_a_part_of_a_multi_file_snapshot_is_missing(
    snapshots: Path, tmp_path: Path, cluster: ClusterChoice
) -> None:
    """Fault row 18: the file is named, expected and found counts are shown, no partial cube."""
    source = snapshots / "gadget4_dmo32_multifile/snapdir_003"
    folder = tmp_path / "sims/u0/snapdir_003"
    folder.mkdir(parents=True)
    for part in source.glob("*.hdf5"):
        if ".2." not in part.name:
            (folder / part.name).write_bytes(part.read_bytes())
    (tmp_path / "cosmology.csv").write_text("id,Omega_m,sigma_8,n_s\nu0,0.3175,0.834,0.9624\n")
    recipe = write_recipe(tmp_path, grid__redshifts=[0.0], split__fractions={"train": 1.0})
    with pytest.raises(InputError) as caught:
        build(recipe, cluster)
    assert "snapshot_003.2.hdf5" in str(caught.value)
    assert "32768" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["lcdm_gas_bigendian.dat", "lcdm_gas_littleendian.dat"])
def test_gadget2_initial_conditions_whose_header_says_nothing(
    snapshots: Path, tmp_path: Path, cluster: ClusterChoice, name: str
) -> None:
    (tmp_path / "table.csv").write_text(f"id,files,Omega_m,sigma_8,n_s\nics,{name},0.3,0.9,1.0\n")
    os.symlink(snapshots / "gadget2_lcdm_gas_ics" / name, tmp_path / name)
    recipe = write_recipe(
        tmp_path,
        input={
            "universes": "table.csv",
            "length_unit": "kpc/h",
            "box_size": 50.0,
            "particle_types": ["gas", "dark_matter"],
            "Omega_m": 0.3,
            "h": 0.7,
        },
        grid={"n_grid": 16, "scheme": "cic", "redshifts": [10.0]},
        split__fractions={"train": 1.0},
    )
    with pytest.raises(InputError, match="outside of"):
        build(recipe, cluster)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes((snapshots / "gadget2_lcdm_gas_ics" / name).read_bytes())
    result = build(recipe, cluster)
    assert verify(result.output).passed
    (record,) = result.manifest.universes[0].snapshots
    assert record.n_particles == 2 * 32**3
    assert record.box_size == 50.0
    # initial conditions at z = 10: nearly homogeneous
    assert 0 < record.variance < 0.5
