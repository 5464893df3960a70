"""Tipsy snapshots: synthetic ones of every kind, a real one, damaged and hostile ones."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SnapshotError
from pipeline.readers import open_snapshot, sniff, tipsy
from pipeline.readers.discover import find_snapshots
from pipeline.snapshot import ReadOptions
from pipeline.units import RHO_CRIT
from tests.deposits_made import deposit_snapshot
from tests.formats_made import outcome, read_all, read_weighted, with_options, write_tipsy

OPTIONS = ReadOptions(box_size=100.0)
TYPES = (0, 1, 4)

fuzz = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def real(snapshots: Path) -> Path:
    return snapshots / "tipsy_cube300/cube300.tbin"


def box_units(n: int, seed: int = 1) -> np.ndarray:
    """Positions as Tipsy has them: from -1/2 to 1/2, some a little outside."""
    return np.random.default_rng(seed).uniform(-0.502, 0.502, (n, 3)).astype("f4")


BY_TYPE = {0: box_units(150, 1), 1: box_units(333, 2), 4: box_units(70, 3)}


# --- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 0xDEADBEEF])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("types", [(1,), (0,), (4,), (0, 1, 4), (4, 0)])
def test_all_variants(tmp_path, types, byte_order, padding):
    path = write_tipsy(tmp_path / "s.tipsy", BY_TYPE, byte_order=byte_order, padding=padding)
    assert sniff(path).name == "tipsy"
    snapshot = open_snapshot(path, with_options(OPTIONS, particle_types=types))
    expected = np.concatenate([BY_TYPE[t] for t in TYPES if t in types]) * 100.0
    assert expected.dtype == np.float32
    for chunk in (1, 100, 10_000):
        assert read_all(snapshot, chunk).tobytes() == expected.tobytes()
    assert snapshot.header.n_particles == len(expected)
    assert snapshot.header.redshift == 1.0
    assert (snapshot.header.box_size, snapshot.header.length_unit) == (100.0, "box")


def test_masses_are_in_units_of_the_critical_density(tmp_path):
    masses = {t: np.random.default_rng(t).uniform(1e-4, 2e-4, len(p)) for t, p in BY_TYPE.items()}
    path = write_tipsy(tmp_path / "s.tipsy", BY_TYPE, masses=masses)
    snapshot = open_snapshot(path, with_options(OPTIONS, particle_types=(1, 4)))
    positions, found = read_weighted(snapshot)
    stored = np.concatenate([masses[t].astype("f4") for t in (1, 4)])
    assert found.dtype == np.float64
    assert np.array_equal(found, stored.astype("f8") * (RHO_CRIT * 100.0 * 100.0 * 100.0))
    assert positions.tobytes() == read_all(snapshot).tobytes()
    total = sum(m.astype("f4").sum(dtype="f8") for m in masses.values())
    opened = open_snapshot(path, with_options(OPTIONS, Omega_m=float(total)))
    assert opened.header.total_mass == pytest.approx(total * RHO_CRIT * 1e6)
    with pytest.raises(SnapshotError, match="times the mean matter density"):
        open_snapshot(path, with_options(OPTIONS, Omega_m=float(2 * total)))


def test_the_density_check_is_left_out_if_it_means_to_read_too_much(tmp_path, monkeypatch):
    path = write_tipsy(tmp_path / "s.tipsy", BY_TYPE)
    monkeypatch.setattr("pipeline.readers.record_snapshot.MAX_MASSES_READ", 100)
    assert open_snapshot(path, with_options(OPTIONS, Omega_m=0.3)).header.total_mass is None


def test_another_length_unit(tmp_path):
    path = write_tipsy(tmp_path / "s.tipsy", {1: box_units(100) * 50_000})
    options = ReadOptions(box_size=50.0, length_unit="kpc/h")
    snapshot = open_snapshot(path, options)
    assert read_all(snapshot).tobytes() == (box_units(100) * 50_000 * np.float32(1e-3)).tobytes()
    with pytest.raises(SnapshotError, match=r"known only with input\.length_unit: box"):
        next(snapshot.iter_weighted())
    with pytest.raises(SnapshotError, match="expected them to fill the box"):
        open_snapshot(path, OPTIONS)


def test_positions_outside_of_the_box_are_wrapped_by_the_deposit(tmp_path):
    from pipeline.deposit import get_scheme

    path = write_tipsy(tmp_path / "s.tipsy", BY_TYPE)
    scheme = get_scheme("ngp")
    grid = deposit_snapshot(open_snapshot(path, OPTIONS), 8, scheme, "cell")
    cells = np.floor((BY_TYPE[1].astype("f8") % 1.0) * 8).astype(int)
    expected = np.zeros((8, 8, 8), int)
    np.add.at(expected, tuple(cells.T), 1)
    assert np.array_equal(grid, expected)


def test_discovery(tmp_path):
    paths = [write_tipsy(tmp_path / f"s.{i}", BY_TYPE, time=0.2 * i) for i in (1, 2)]
    (tmp_path / "s.param").write_text("dOmega0 = 0.3")
    assert find_snapshots(tmp_path) == [(path,) for path in paths]


# --- the real file --------------------------------------------------------------------------

REAL = ReadOptions(box_size=210.0, Omega_m=0.3, h=0.7)
"""300 Mpc with h = 0.7."""


def test_real_file_against_a_plain_reading(real):
    rows = np.fromfile(real, ">f4", offset=32).reshape(110592, 9)
    snapshot = open_snapshot(real, REAL)
    found, masses = read_weighted(snapshot, 5000)
    assert found.dtype == np.float32
    assert found.tobytes() == (rows[:, 1:4].astype("f4") * 210.0).tobytes()
    assert np.array_equal(masses, rows[:, 0].astype("f8") * (RHO_CRIT * 210.0 * 210.0 * 210.0))
    header = snapshot.header
    assert (header.redshift, header.n_particles) == (1 / 0.05 - 1, 110592)
    assert header.total_mass == pytest.approx(0.3 * RHO_CRIT * 210.0**3, rel=1e-4)
    assert np.abs(found).max() > 105.0  # some are outside of the box


@pytest.mark.filterwarnings("ignore:No readable param file")
def test_real_file_against_pynbody(real):
    pynbody = pytest.importorskip("pynbody")
    expected = np.asarray(pynbody.load(str(real)).dm["pos"]).astype("f4") * 210.0
    assert read_all(open_snapshot(real, REAL), 5000).tobytes() == expected.tobytes()


def test_real_file_without_a_box_asks(real):
    with pytest.raises(SnapshotError, match=r"input\.box_size.*dKpcUnit"):
        open_snapshot(real)
    with pytest.raises(SnapshotError, match=r"density of Omega_m = 0\.2"):
        open_snapshot(real, with_options(REAL, Omega_m=0.2))
    with pytest.raises(SnapshotError, match="no particles of the chosen types"):
        open_snapshot(real, with_options(REAL, particle_types=(0,)))


# --- damaged files --------------------------------------------------------------------------


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_cut_at_any_offset(tmp_path, byte_order):
    whole = write_tipsy(tmp_path / "w", {1: box_units(20)}, byte_order=byte_order).read_bytes()
    path = tmp_path / "s"
    options = with_options(OPTIONS, format="tipsy")
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert outcome(path, options)
    path.write_bytes(whole + b"1234")
    assert "expected 752" in outcome(path, OPTIONS)
    path.write_bytes(whole[:700])
    assert "700 bytes, expected 752" in outcome(path, OPTIONS)  # still known for what it is


def test_cut_or_removed_after_it_was_opened(tmp_path):
    path = write_tipsy(tmp_path / "s", BY_TYPE)
    snapshot = open_snapshot(path, OPTIONS)
    os.truncate(path, 10_000)
    with pytest.raises(SnapshotError, match=r"s: truncated: expected"):
        list(snapshot.iter_positions())
    path.unlink()
    with pytest.raises(SnapshotError, match="cannot be read"):
        list(snapshot.iter_positions())


@pytest.mark.parametrize("time", [0.0, -1.0, 13.8, float("nan"), float("inf")])
def test_time_that_is_no_expansion_factor(tmp_path, time):
    path = write_tipsy(tmp_path / "s", BY_TYPE, time=time)
    with pytest.raises(SnapshotError, match=r"header's time is .*input\.redshift"):
        open_snapshot(path, OPTIONS)
    assert open_snapshot(path, with_options(OPTIONS, redshift=2.0)).header.redshift == 2.0


def test_counts_above_32_bits(tmp_path):
    """PKDGRAV3 has their high bits in the padding: of all, gas, dark matter and stars."""
    path = tmp_path / "s"
    n = (1 << 32) + 5000
    write_tipsy(path, {1: box_units(5000)}, padding=0x00010001)
    os.truncate(path, 32 + 36 * n)  # a file with a hole
    snapshot = open_snapshot(path, OPTIONS)
    assert snapshot.header.n_particles == n
    assert next(snapshot.iter_positions(5000)).tobytes() == (box_units(5000) * 100.0).tobytes()
    os.truncate(path, 32 + 36 * n - 1)
    with pytest.raises(SnapshotError, match="it is truncated"):
        open_snapshot(path, OPTIONS)


def test_more_files_than_one(tmp_path):
    paths = [write_tipsy(tmp_path / name, BY_TYPE) for name in "ab"]
    with pytest.raises(SnapshotError, match="given with 1 more, expected one file"):
        open_snapshot(paths, OPTIONS)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"not a snapshot at all, but a text" * 3])
def test_other_files(tmp_path, content):
    path = tmp_path / "s"
    path.write_bytes(content)
    assert sniff(path) is None
    assert "expected the header of a Tipsy file" in outcome(
        path, with_options(OPTIONS, format="tipsy")
    )
    assert not tipsy.TipsyReader().sniff(tmp_path / "none")


@pytest.mark.parametrize("chunk", [0, -1])
def test_chunk_of_nothing(tmp_path, chunk):
    snapshot = open_snapshot(write_tipsy(tmp_path / "s", BY_TYPE), OPTIONS)
    with pytest.raises(ValueError, match="expected at least 1"):
        next(snapshot.iter_positions(chunk))


@fuzz
@given(
    changes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(0, 800),
    order=st.sampled_from("<>"),
)
def test_fuzzed_bytes(tmp_path, changes, cut, order):
    path, whole = tmp_path / "s", tmp_path / f"whole{'<>'.index(order)}"
    if not whole.exists():
        write_tipsy(whole, {0: box_units(5), 1: box_units(10), 4: box_units(5)}, byte_order=order)
    data = bytearray(whole.read_bytes())
    for where, value in changes:
        data[where] = value
    path.write_bytes(data[:cut])
    outcome(path, with_options(OPTIONS, format="tipsy"))


words = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, 3, 10, 100])


@fuzz
@given(time=st.floats(), words=st.lists(words, min_size=6, max_size=6), add_up=st.booleans())
def test_fuzzed_header(tmp_path, time, words, add_up):
    path = write_tipsy(tmp_path / "s", {1: box_units(10)})
    if add_up:
        words[0], words[1] = (sum(words[2:5]) + 2**31) % 2**32 - 2**31, 3
    data = struct.pack(">d6i", time, *words) + path.read_bytes()[32:]
    path.write_bytes(data)
    outcome(path, with_options(OPTIONS, format="tipsy"))
