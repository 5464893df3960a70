"""Every real file at hand is either read, to the last particle, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.deposit import get_scheme
from pipeline.errors import SnapshotError
from pipeline.readers import open_snapshot
from pipeline.ready_field import fill_ready
from pipeline.snapshot import GridSnapshot, ReadOptions
from tests.deposits_made import deposit_snapshot

GADGET2_ICS = ReadOptions(box_size=50.0, Omega_m=0.3, h=0.7, length_unit="kpc/h")

# folder of the file: options it needs (None: its header says all), particles of its snapshot
READABLE: dict[str, tuple[ReadOptions | None, str, int]] = {
    "abacus_mini_N64_L32/halos/z0.000/field_rv_A": (None, "abacus", 7774),
    "abacus_mini_N64_L32/halos/z0.000/halo_rv_A": (None, "abacus", 7774),
    "abacus_mini_N64_L32/halos/z0.000/field_rv_B": (None, "abacus", 18510),
    "abacus_mini_N64_L32/halos/z0.000/halo_rv_B": (None, "abacus", 18510),
    "abacus_mini_N64_L32/slices/z0.000/L0_pack9": (None, "abacus", 64**3),
    "abacus_mini_N64_L32/slices/z0.000/field_pack9": (None, "abacus", 64**3),
    "gadget2_lcdm_gas_ics": (GADGET2_ICS, "gadget_binary", 32**3),
    "gadget4_dmo32_multifile/snapdir_000": (None, "gadget_hdf5", 32**3),
    "gadget4_dmo32_multifile/snapdir_001": (None, "gadget_hdf5", 32**3),
    "gadget4_dmo32_multifile/snapdir_002": (None, "gadget_hdf5", 32**3),
    "gadget4_dmo32_multifile/snapdir_003": (None, "gadget_hdf5", 32**3),
    "gadget4_glass32": (None, "gadget_hdf5", 32**3),
    "gadget4_lcdm_gas": (None, "gadget_hdf5", 32**3),
    "hacc_genericio": (ReadOptions(redshift=50.0), "genericio", 32**3),
    "nyx_hdf5_vizaly": (None, "nyx_grid", 0),
    "nyx_lya32": (
        ReadOptions(h=0.702, box_size=8.0 * 0.702, redshift=159.0),
        "nyx_binary",
        32**3,
    ),
    "tipsy_cube300": (ReadOptions(box_size=210.0, h=0.7), "tipsy", 48**3),
}

# what names other things than particles: read by nothing, and said so
NO_SNAPSHOT = (".par", ".par2", ".log", ".crc32", "header", "parameters-usedvalues", ".tfrecord")
NO_POSITIONS = ("_pid", "pid.", "halo_info")

UNSAID = {
    "gadget2_lcdm_gas_ics": "input.box_size",
    "hacc_genericio": "input.redshift",
    "nyx_lya32": "input.h",
    "tipsy_cube300": "input.box_size",
}


def listed(snapshots: Path) -> list[str]:
    lines = (snapshots / "MANIFEST.tsv").read_text().splitlines()[1:]
    return [line.split("\t")[0] for line in lines]


def has_positions(name: str) -> bool:
    return not name.endswith(NO_SNAPSHOT) and not any(word in name for word in NO_POSITIONS)


def test_every_file_with_positions_becomes_a_cube(snapshots: Path) -> None:
    done = set()
    for name in filter(has_positions, listed(snapshots)):
        folder = str(Path(name).parent)
        options, format_name, n_particles = READABLE[folder]
        snapshot = open_snapshot(snapshots / name, options)
        assert snapshot.header.format == format_name
        if isinstance(snapshot, GridSnapshot):
            cube = np.empty((32, 32, 32), np.float32)
            assert fill_ready(snapshot, cube).mass == pytest.approx(cube.sum(dtype="f8"))
        else:
            assert snapshot.header.n_particles == n_particles, name
            grid = deposit_snapshot(snapshot, 16, get_scheme("ngp"), "cell")
            assert int(grid.sum()) == n_particles
        done.add(folder)
    assert done == set(READABLE)


def test_every_other_file_is_refused_as_no_snapshot(snapshots: Path) -> None:
    others = [name for name in listed(snapshots) if not has_positions(name)]
    for name in others:
        with pytest.raises(SnapshotError, match="not a snapshot in any known format"):
            open_snapshot(snapshots / name)
    assert len(others) > 30


def test_what_a_header_does_not_say_is_asked_for(snapshots: Path) -> None:
    for folder, key in UNSAID.items():
        name = next(n for n in listed(snapshots) if n.startswith(folder))
        with pytest.raises(SnapshotError, match=key):
            open_snapshot(snapshots / name)
