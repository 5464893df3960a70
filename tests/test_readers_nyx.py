"""Nyx's binary particle files: synthetic ones, a real one, damaged and hostile ones."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SnapshotError
from pipeline.readers import open_snapshot, sniff
from pipeline.readers.discover import find_snapshots
from pipeline.snapshot import ReadOptions
from tests.formats_made import outcome, read_all, read_weighted, with_options, write_nyx

OPTIONS = ReadOptions(box_size=70.0, h=0.7, redshift=3.0)

fuzz = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def real(snapshots: Path) -> Path:
    return snapshots / "nyx_lya32/32.nyx"


def in_mpc(n: int = 500) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 100.0, (n, 3))


@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8", ">f4"])
def test_all_variants(tmp_path, dtype):
    masses = np.random.default_rng(2).uniform(1e9, 2e9, 500)
    path = write_nyx(tmp_path / "ics", in_mpc(), masses, dtype=dtype)
    assert sniff(path).name == "nyx_binary"
    snapshot = open_snapshot(path, OPTIONS)
    native = dtype[1:]
    for chunk in (1, 70, 1000):
        positions, found = read_weighted(snapshot, chunk)
        assert positions.dtype == native
        assert positions.tobytes() == (in_mpc().astype(native) * 0.7).tobytes()
        assert np.array_equal(found, masses.astype(native).astype("f8") * (1e-10 * 0.7))
    assert read_all(snapshot).tobytes() == positions.tobytes()
    assert (snapshot.header.redshift, snapshot.header.length_unit) == (3.0, "Mpc")


def test_what_the_recipe_must_say(tmp_path):
    path = write_nyx(tmp_path / "ics", in_mpc())
    for key, message in {
        "h": r"expected input\.h in",
        "box_size": r"expected input\.box_size .*prob_hi",
        "redshift": r"give input\.redshift in the recipe, or input\.redshift_pattern",
    }.items():
        with pytest.raises(SnapshotError, match=message):
            open_snapshot(path, with_options(OPTIONS, **{key: None}))
    with pytest.raises(SnapshotError, match="no particles of the chosen types"):
        open_snapshot(path, with_options(OPTIONS, particle_types=(0,)))


def test_redshift_in_the_name(tmp_path):
    options = with_options(OPTIONS, redshift=None, redshift_pattern=r"z([0-9.p]+)")
    for name, redshift in {"ics_z159": 159.0, "z0.5.nyx": 0.5, "z003p017": 3.017}.items():
        path = write_nyx(tmp_path / name, in_mpc())
        assert open_snapshot(path, options).header.redshift == redshift
    folder = tmp_path / "z2" / "deeper"
    folder.mkdir(parents=True)
    assert open_snapshot(write_nyx(folder / "ics", in_mpc()), options).header.redshift == 2.0
    with pytest.raises(SnapshotError, match=r"finds '\.\.' in 'z\.\.', expected a redshift"):
        open_snapshot(write_nyx(tmp_path / "z..", in_mpc()), options)
    with pytest.raises(SnapshotError, match="is neither in its name nor"):
        open_snapshot(
            write_nyx(tmp_path / "ics", in_mpc()), with_options(options, redshift_pattern="Z=(.)")
        )
    named = with_options(options, redshift_pattern=r"(ics|snap)_z(?P<z>[0-9]+)")
    assert open_snapshot(tmp_path / "ics_z159", named).header.redshift == 159.0


def test_density_and_reach_catch_unit_slips(tmp_path):
    mean = 0.3 * 27.75366e10 * 0.7**2 * 100.0**3 / 500
    path = write_nyx(tmp_path / "ics", in_mpc(), mean)
    options = with_options(OPTIONS, Omega_m=0.3)
    assert open_snapshot(path, options).header.total_mass == pytest.approx(0.3 * 27.75366 * 70**3)
    with pytest.raises(SnapshotError, match="times the mean matter density"):
        open_snapshot(path, with_options(options, box_size=100.0))
    with pytest.raises(SnapshotError, match="expected them to fill the box"):
        open_snapshot(path, with_options(OPTIONS, length_unit="kpc"))


# --- the real file --------------------------------------------------------------------------

REAL = ReadOptions(box_size=8 * 0.702, h=0.702, Omega_m=0.275, redshift=159.0)
"""The 8 Mpc of Nyx's Lyman-alpha example, as its inputs have them."""


def test_real_file_against_a_plain_reading(real):
    rows = np.fromfile(real, "<f8", offset=16).reshape(32768, 7)
    snapshot = open_snapshot(real, REAL)
    found, masses = read_weighted(snapshot, 5000)
    assert found.dtype == np.float64
    assert found.tobytes() == (rows[:, :3] * 0.702).tobytes()
    assert np.array_equal(masses, rows[:, 3] * (1e-10 * 0.702))
    assert snapshot.header.n_particles == 32768
    assert 0.99 < found.max() / snapshot.header.box_size < 1
    expected = 0.275 * 27.75366 * snapshot.header.box_size**3
    assert snapshot.header.total_mass == pytest.approx(expected, rel=0.01)
    assert find_snapshots(real.parent) == [(real,)]


def test_real_file_with_h_forgotten(real):
    with pytest.raises(SnapshotError, match="times the mean matter density"):
        open_snapshot(real, with_options(REAL, box_size=8.0))


# --- damaged files --------------------------------------------------------------------------


def test_cut_at_any_offset(tmp_path):
    whole = write_nyx(tmp_path / "whole", in_mpc(10)).read_bytes()
    path = tmp_path / "ics"
    options = with_options(OPTIONS, format="nyx_binary")
    for size in [s for s in range(len(whole) + 9) if s != len(whole)]:
        path.write_bytes((whole + bytes(9))[:size])
        message = outcome(path, options)
        # half the file is a whole one of float32 numbers, whose values are wrong
        assert message or size == 16 + 10 * 28
    path.write_bytes(whole[:500])
    assert "500 bytes, expected 576 (float64) or 296 (float32) for the 10" in outcome(path, OPTIONS)


def test_cut_after_it_was_opened(tmp_path):
    path = write_nyx(tmp_path / "ics", in_mpc())
    snapshot = open_snapshot(path, OPTIONS)
    os.truncate(path, 1000)
    with pytest.raises(SnapshotError, match="ics: truncated: expected"):
        list(snapshot.iter_positions())


@pytest.mark.parametrize(
    "head", [(0, 3, 4), (-5, 3, 4), (2**60, 3, 4), (10, 2, 4), (10, 3, 0), (10, 3, -4)]
)
def test_headers_of_no_nyx_file(tmp_path, head):
    path = tmp_path / "ics"
    path.write_bytes(struct.pack("<q2i", *head) + bytes(560))
    assert sniff(path) is None
    message = outcome(path, with_options(OPTIONS, format="nyx_binary"))
    assert "expected the header of a Nyx particle file" in message


def test_more_particles_than_there_are(tmp_path):
    path = tmp_path / "ics"
    path.write_bytes(struct.pack("<q2i", 2**40, 3, 4) + bytes(560))
    assert f"576 bytes, expected {16 + 56 * 2**40}" in outcome(path, OPTIONS)


@fuzz
@given(
    changes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(0, 600),
    dtype=st.sampled_from(["<f8", ">f4"]),
)
def test_fuzzed_bytes(tmp_path, changes, cut, dtype):
    data = bytearray(write_nyx(tmp_path / "ics", in_mpc(10), dtype=dtype).read_bytes())
    for where, value in changes:
        data[where] = value
    (tmp_path / "ics").write_bytes(data[:cut])
    outcome(tmp_path / "ics", with_options(OPTIONS, format="nyx_binary"))
