"""Abacus's ASDF against abacusutils, on real and made files, and all that can be wrong."""

from __future__ import annotations

import os
import re
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.deposit import get_scheme
from pipeline.errors import SnapshotError
from pipeline.readers import open_snapshot, sniff
from pipeline.readers.asdf_block import iter_block, read_tree
from pipeline.readers.discover import find_snapshots
from pipeline.readers.pack9 import BAD_CELL, NO_CELL, no_cell, unpack_pack9
from pipeline.snapshot import ReadOptions, Snapshot
from pipeline.units import mean_matter_density
from tests.abacus_made import (
    header_facts,
    pack9,
    rvint,
    tree,
    write_asdf,
    write_slices,
    write_subsample,
)
from tests.deposits_made import deposit_snapshot
from tests.snapshots_made import random_positions

BOX = 32.0
CHUNK = 700
REAL = "abacus_mini_N64_L32"
SLICE, HALOS = "slices/z0.000", "halos/z0.000"


def centred(n: int = 1000, seed: int = 1) -> np.ndarray:
    return random_positions(n, BOX, seed) - BOX / 2


def read_all(snapshot: Snapshot, chunk_particles: int = CHUNK) -> np.ndarray:
    return np.concatenate([c.copy() for c in snapshot.iter_positions(chunk_particles)])


def by_abacusutils(files: tuple[Path, ...]) -> np.ndarray:
    module = pytest.importorskip("abacusnbody.data.read_abacus", reason="abacusutils is the oracle")
    tables = [module.read_asdf(str(path), load=("pos",), verbose=False) for path in files]
    return np.concatenate([np.asarray(table["pos"]) for table in tables])


def refused(path: Path, match: str, options: ReadOptions | None = None) -> None:
    with pytest.raises(SnapshotError, match=match) as caught:
        read_all(open_snapshot(path, options))
    assert path.parent.name in str(caught.value)


@pytest.fixture(scope="module")
def real(snapshots: Path) -> Path:
    return snapshots / REAL


# --- a real simulation ----------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1000, 1 << 20])
def test_real_slice_against_abacusutils(real, chunk):
    snapshot = open_snapshot(real / SLICE / "L0_pack9/slab001.L0.pack9.asdf")
    header = snapshot.header
    found = read_all(snapshot, chunk)
    assert found.dtype == np.float32
    assert found.tobytes() == by_abacusutils(header.files).tobytes()
    assert len(found) == header.n_particles == 64**3
    assert (header.box_size, header.redshift) == (32.0, 0.0)
    assert (header.Omega_m, header.h) == (0.315192, pytest.approx(0.6736))
    assert [path.name[4:].split(".")[:2] for path in header.files] == [
        ["000", "field"], ["000", "L0"], ["001", "field"], ["001", "L0"], ["002", "field"],
        ["002", "L0"],
    ]  # fmt: skip
    assert -16.0 <= found.min() < -15.99
    assert 15.99 < found.max() <= np.float32(16.000002)


@pytest.mark.parametrize(("letter", "number"), [("A", 7774), ("B", 18510)])
def test_real_subsamples_against_abacusutils(real, letter, number):
    snapshot = open_snapshot(real / HALOS / f"halo_rv_{letter}/halo_rv_{letter}_002.asdf")
    found = read_all(snapshot)
    assert found.tobytes() == by_abacusutils(snapshot.header.files).tobytes()
    assert len(found) == snapshot.header.n_particles == number
    assert snapshot.header.total_mass is None  # a part of it, which the density would contradict


def test_real_masses_are_the_mean_density(real):
    snapshot = open_snapshot(real / SLICE / "L0_pack9/slab001.L0.pack9.asdf")
    total = sum(float(m.sum()) for _, m in snapshot.iter_weighted())
    assert total == pytest.approx(snapshot.header.total_mass)
    assert total == pytest.approx(snapshot.header.selected_mass)
    expected = mean_matter_density(0.315192 - 0.00142) * 32.0**3  # without smooth neutrinos
    assert total == pytest.approx(expected, rel=1e-3)


def test_real_folders_are_three_snapshots(real):
    found = find_snapshots(real)
    counts = sorted(open_snapshot(files).header.n_particles for files in found)
    assert counts == [7774, 18510, 64**3]
    assert len(find_snapshots(real, "slices/z*/*_pack9/*.asdf")) == 1
    pids = real / SLICE / "L0_pack9_pid/slab001.L0.pack9.pid.asdf"
    assert sniff(pids) is None
    refused(pids, "expected a name like", ReadOptions(format="abacus"))


def test_real_slice_fills_a_cube(real):
    snapshot = open_snapshot(real / SLICE / "field_pack9/slab000.field.pack9.asdf")
    grid = deposit_snapshot(snapshot, 16, get_scheme("ngp"), "cell")
    positions = by_abacusutils(snapshot.header.files).astype(np.float64)
    cells = np.floor(positions / 2.0).astype(int) % 16
    expected = np.bincount(np.ravel_multi_index(cells.T, (16, 16, 16)), minlength=16**3)
    assert grid.sum() == 64**3
    assert (grid.ravel() == expected).all()


@pytest.mark.parametrize("name", ["L0_pack9/slab002.L0.pack9.asdf", "field_pack9"])
def test_real_slab_missing(real, tmp_path, name):
    for kind in ("L0_pack9", "field_pack9"):
        shutil.copytree(real / SLICE / kind, tmp_path / kind)
        (tmp_path / kind).chmod(0o755)
    if name.endswith("asdf"):
        (tmp_path / name).unlink()
        match = r"expected 6 slabs, found 5: L0_pack9 2 is missing"
    else:
        shutil.rmtree(tmp_path / name)
        match = r"expected 6 slabs, found 3: field_pack9 0, field_pack9 1, field_pack9 2 are miss"
    refused(tmp_path / "L0_pack9/slab000.L0.pack9.asdf", match)


# --- made ones ------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
@pytest.mark.parametrize("frame_bytes", [100, 1001, 4 << 20])
def test_slice(tmp_path, chunk, frame_bytes):
    positions = centred(300)
    paths = write_slices(tmp_path, positions, frame_bytes=frame_bytes)
    snapshot = open_snapshot(paths[3])
    assert snapshot.header.files == tuple(paths)
    found = read_all(snapshot, chunk)
    nearest = np.abs(found[:, None] - positions[None]).max(axis=-1).min(axis=0)
    assert nearest.max() < 1.01 * BOX / 15 / 2000  # half a step of pack9, rounded
    assert len(found) == 300
    assert found.tobytes() == read_all(snapshot, 50).tobytes()


def test_made_files_against_abacusutils(tmp_path):
    paths = write_slices(tmp_path, centred(500), frame_bytes=1000)
    snapshot = open_snapshot(paths[0])
    assert read_all(snapshot).tobytes() == by_abacusutils(snapshot.header.files).tobytes()


@pytest.mark.parametrize("box_size", [1185.0, 500.0, 7.3])
def test_every_pack9_number_against_abacusutils(box_size):
    """All 4096 numbers in all three places, in cells of boxes whose side is not exact."""
    module = pytest.importorskip("abacusnbody.data.pack9", reason="abacusutils is the oracle")
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 256, (200_000, 9)).astype(np.uint8)
    rows[rows[:, 0] == 255, 0] = 254
    cells = pack9(rng.uniform(-0.5, 0.5, (3000, 3)) * 100, 100.0, cpd=1701).view(np.uint8)
    cells = cells[cells[:, 0] == 255]
    rows[:: len(rows) // len(cells)][: len(cells)] = cells
    out = np.empty((len(rows), 3), np.float32)
    n = unpack_pack9(rows, box_size, no_cell(), out)
    expected, _ = module.unpack_pack9(rows.view(np.int8), box_size, 1.0)
    assert n == len(expected) > 190_000
    assert out[:n].tobytes() == expected.tobytes()


def test_subsample(tmp_path):
    positions = centred(500)
    paths = write_subsample(tmp_path, positions, "B")
    snapshot = open_snapshot(paths[0])
    found = read_all(snapshot)
    assert found.tobytes() == by_abacusutils(snapshot.header.files).tobytes()
    assert found.dtype == np.float32
    assert len(found) == 500
    nearest = np.abs(found[:, None] - positions[None]).max(axis=-1).min(axis=0)
    assert nearest.max() < 1.1 * BOX / 2e6 + 1e-6
    header = snapshot.header
    assert (header.total_mass, header.format) == (None, "abacus")
    assert sum(len(m) for _, m in snapshot.iter_weighted(CHUNK)) == 500


@pytest.mark.parametrize("value", [-(1 << 31), (1 << 31) - 1, 0, -1, 4095, 4096])
def test_every_sign_of_rvint(tmp_path, value):
    data = np.full((4, 3), value, np.int32)
    for kind in ("field", "halo"):
        facts = header_facts(400, BOX)
        write_asdf(tmp_path / f"{kind}_rv_A_000.asdf", "rvint", data, facts)
    found = read_all(open_snapshot(tmp_path / "field_rv_A_000.asdf"))
    expected = np.float32((value >> 12) * (BOX / 1e6))
    assert (found == expected).all()


def test_all_in_one_folder_and_plain_blocks(tmp_path):
    positions = centred(300)
    for kind, chosen in (("field", positions[::2]), ("L0", positions[1::2])):
        path = tmp_path / f"slab000.{kind}.pack9.asdf"
        write_asdf(path, "pack9", pack9(chosen, BOX), header_facts(300, BOX), compressed=False)
    assert len(read_all(open_snapshot(path))) == 300


def test_box_in_the_recipe_and_types(tmp_path):
    path = write_slices(tmp_path, centred(100), facts={"BoxSizeHMpc": None, "hMpc": 0})[0]
    refused(path, r"BoxSizeHMpc is None.*input\.box_size")
    options = ReadOptions(box_size=BOX)
    found = read_all(open_snapshot(path, options))
    other = write_slices(tmp_path / "b", centred(100), facts={"BoxSizeHMpc": None})[0]
    assert found.tobytes() == read_all(open_snapshot(other)).tobytes()
    refused(other, "no particles of the chosen types", ReadOptions(particle_types=(0,)))
    refused(other, "fractions of the box", ReadOptions(length_unit="kpc/h"))
    assert len(read_all(open_snapshot(other, ReadOptions(length_unit="box")))) == 100


# --- what is refused ------------------------------------------------------------------------


def test_sizes_of_the_listing(tmp_path):
    paths = write_slices(tmp_path, centred(100))
    with paths[2].open("ab") as stream:
        stream.write(b"x")
    refused(paths[0], r"slab001\.field\.pack9\.asdf: has \d+ bytes, expected \d+ by checksums")


def test_last_slab_missing(tmp_path):
    paths = write_slices(tmp_path / "a", centred(300))
    for path in paths[4:]:
        path.unlink()
    refused(paths[0], "expected 6 slabs, found 4: field_pack9 2, L0_pack9 2 are missing")
    paths = write_slices(tmp_path / "b", centred(3000), listing=False)
    for path in paths[4:]:
        path.unlink()
    refused(paths[0], r"hold \d+ particles, expected 3000|NP is 3000 particles, expected")


def test_two_names_of_one_slab(tmp_path):
    paths = write_slices(tmp_path, centred(100))
    shutil.copy(paths[0], paths[0].with_name("slab0000.field.pack9.asdf"))
    refused(paths[0], "are both slab 0")


def test_slabs_of_two_simulations(tmp_path):
    paths = write_slices(tmp_path / "a", centred(300), listing=False)
    other = write_slices(tmp_path / "b", centred(300), facts={"SimName": "other"})
    shutil.copy(other[2], paths[2])
    refused(paths[0], "its SimName is other, expected made")


FACTS = {
    "light cone": ({"OutputType": "LightCone"}, "do not fill their box"),
    "no redshift": ({"Redshift": None}, "no Redshift"),
    "redshift of text": ({"Redshift": "soon"}, "Redshift in its header is 'soon'"),
    "redshift of a list": ({"Redshift": "[1, 2]"}, "Redshift in its header is"),
    "infinite box": ({"BoxSizeHMpc": ".inf"}, "BoxSizeHMpc in its header"),
    "box of 1e300": ({"BoxSizeHMpc": "1e300"}, "BoxSizeHMpc is 1e"),
    "negative box": ({"BoxSizeHMpc": -1}, "BoxSizeHMpc is -1"),
    "many particles": ({"NP": 10**12}, r"NP is 1e\+12 particles, expected 1 to"),
    "no particles": ({"NP": 0}, "NP is 0 particles"),
    "fewer particles": ({"NP": 90}, "hold 100 particles, expected 90"),
    "mass slip": ({"ParticleMassHMsun": 1e3}, "times the mean matter density"),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_refused(tmp_path, name):
    facts, match = FACTS[name]
    refused(write_slices(tmp_path, centred(100), facts=facts)[0], match)


def test_no_mass(tmp_path):
    path = write_slices(tmp_path, centred(100), facts={"ParticleMassHMsun": None})[0]
    snapshot = open_snapshot(path)
    assert snapshot.header.total_mass is None
    with pytest.raises(SnapshotError, match=r"no ParticleMassHMsun.*grid\.weight: count"):
        next(snapshot.iter_weighted())
    with pytest.raises(ValueError, match="chunk_particles is 0"):
        next(snapshot.iter_positions(0))


@pytest.fixture
def one(tmp_path):
    """A subsample whose field file is to be damaged, and its bytes."""
    for kind in ("field", "halo"):
        path = tmp_path / f"{kind}_rv_A_000.asdf"
        write_asdf(path, "rvint", rvint(centred(200), BOX), header_facts(20000, BOX))
    path = tmp_path / "field_rv_A_000.asdf"
    return path, path.read_bytes()


def test_cut_at_many_offsets(one):
    path, whole = one
    end = whole.index(b"#ASDF BLOCK INDEX")
    for size in [*range(0, end, 13), end - 1]:
        path.write_bytes(whole[:size])
        refused(path, "field_rv_A_000", ReadOptions(format="abacus"))
    path.write_bytes(whole[:end])  # the index after the block is not needed
    assert len(read_all(open_snapshot(path))) == 400


def test_every_byte_of_the_data_is_in_the_checksum(one):
    path, whole = one
    start = whole.index(b"\xd3BLK") + 54
    end = whole.index(b"#ASDF BLOCK INDEX")
    for offset in range(start, end, 29):
        data = bytearray(whole)
        data[offset] ^= 4
        path.write_bytes(data)
        refused(path, "damaged|Blosc")


def test_no_checksum_recorded(one):
    path, whole = one
    start = whole.index(b"\xd3BLK") + 38
    path.write_bytes(whole[:start] + bytes(16) + whole[start + 16 :])
    assert len(read_all(open_snapshot(path))) == 400


def block_header(whole: bytes, **changes: object) -> bytes:
    """The file with other numbers in its block's header."""
    at = whole.index(b"\xd3BLK") + 4
    names = ("header_size", "flags", "kind", "allocated", "stored", "size", "checksum")
    values = dict(zip(names, struct.unpack_from(">HI4sQQQ16s", whole, at), strict=True))
    packed = struct.pack(">HI4sQQQ16s", *(values | changes).values())
    return whole[:at] + packed + whole[at + len(packed) :]


BLOCKS = {
    "stored too much": ({"stored": 1 << 60}, "truncated: its block has 1152921504606846976 bytes"),
    "size too much": ({"size": 1 << 60}, "hold 1152921504606846976, expected at most"),
    "size larger": ({"size": 2401}, "its data are 2400 bytes or more, expected 2401"),
    "size smaller": ({"size": 2399}, "at most 199 by the 2399 bytes|holds 2400 bytes"),
    "zlib": ({"kind": b"zlib"}, r"stored as b'zlib'"),
    "stream": ({"flags": 1}, r"flags 1"),
    "plain": ({"kind": bytes(4)}, "plain block of 2400 bytes takes"),
    "short header": ({"header_size": 47}, "has 47 bytes, expected 48"),
    "long header": ({"header_size": 65535}, "truncated"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_header_refused(one, name):
    path, whole = one
    changes, match = BLOCKS[name]
    path.write_bytes(block_header(whole, **changes))
    refused(path, match)


def test_frames_that_promise_too_much(one):
    path, whole = one
    start = whole.index(b"\xd3BLK") + 54
    for offset, value, match in (
        (0, struct.pack(">I", 1 << 31), "a Blosc frame takes 2147483648 bytes"),
        (8, struct.pack("<I", 1 << 31), "holds 2147483648 bytes in blocks"),
        (12, struct.pack("<I", 1 << 31), "in blocks of 2147483648"),
        (16, struct.pack("<I", 5), "says 5 bytes, expected"),
    ):
        at = start + offset
        path.write_bytes(whole[:at] + value + whole[at + 4 :])
        refused(path, match)


TREES = {
    b"shape: [200, 3]": {
        b"shape: [201, 3]": "at most 200 by the 2400 bytes",
        b"shape: [99999999999999999999999999, 3]": "at most 200",
        b"shape: [200, 4]": "expected int32 in rows of 3",
        b"shape: [-1, 3]": "at most 200",
        b"shape: {}": "at most 200",
        b"shape: []": "at most 200",
    },
    b"datatype: int32": {b"datatype: int64": "expected int32"},
    b"source: 0": {b"source: 1": "expected int32", b"source: other.asdf": "expected int32"},
    b"header:": {
        b"other:": "has no data and header",
        b"header: 1\nmore:": "has no data and header",
    },
    b"  rvint:": {b"  packedpid:": "columns packedpid", b"  a: 1\n  rvint:": "columns a, rvint"},
    b"  NP: 20000": {
        b"  NP: &a [1]\n  x: *a": "aliases",
        b"  NP: " + b"[" * 500 + b"]" * 500: "more than 32 levels",
        b"  NP: !!python/object/apply:os.system [x]": "",
        b"  NP: {": "cannot be read as YAML",
        b"  NP: \xff": "cannot be read as YAML",
    },
}


@pytest.mark.parametrize(("old", "new"), [(old, new) for old in TREES for new in TREES[old]])
def test_tree_refused(one, old, new):
    path, whole = one
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))
    if TREES[old][new]:
        refused(path, TREES[old][new])
    else:  # a tag makes nothing: the plain value is not used in a subsample, but must be the same
        refused(path, "its NP is")


def test_tree_without_end(one):
    path, _ = one
    path.write_bytes(b"#ASDF 1.0.0\n" + b"#" * 2_000_000)
    refused(path, "tree does not end within 1048576 bytes")


def test_rows_without_a_cell():
    out = np.empty((2, 3), np.float32)
    particle, cell = np.zeros((1, 9), np.uint8), pack9(np.zeros((1, 3)), 1.0)[:1].view(np.uint8)
    assert unpack_pack9(particle, 1.0, no_cell(), out) == NO_CELL
    assert unpack_pack9(np.concatenate([cell, particle]), 1.0, no_cell(), out) == 1
    for at, value in ((2, 48), (8, 255)):  # no cells a side; an index beyond them
        bad = cell.copy()
        bad[0, at] = value
        assert unpack_pack9(bad, 1.0, no_cell(), out) == BAD_CELL


def test_pack9_that_begins_with_a_particle(tmp_path):
    paths = write_slices(tmp_path, centred(100), listing=False)
    facts = header_facts(100, BOX)
    write_asdf(paths[0], "pack9", pack9(centred(50), BOX)[1:], facts)
    refused(paths[0], "a particle before any cell")


def test_cut_after_it_was_opened(tmp_path):
    paths = write_slices(tmp_path, centred(3000))
    snapshot = open_snapshot(paths[0])
    os.truncate(paths[0], 2000)
    with pytest.raises(SnapshotError, match=re.escape(f"{paths[0]}: truncated")):
        list(snapshot.iter_positions())
    paths[0].unlink()
    with pytest.raises(SnapshotError, match="cannot be read"):
        list(snapshot.iter_positions())


def test_memory_is_a_frame_not_a_slab(tmp_path):
    data = np.zeros((1_500_000, 3), np.int32)
    data[:] = np.random.default_rng(0).integers(0, 1 << 30, data.shape)
    path = tmp_path / "field_rv_A_000.asdf"
    write_asdf(path, "rvint", data, header_facts(10**7, BOX), frame_bytes=1 << 20)
    block = read_tree(path)[1]
    tracemalloc.start()
    size = sum(len(piece) for piece in iter_block(block))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == data.nbytes > 17e6
    assert peak < 6 << 20


def test_tree_is_as_written():
    text = tree("rvint", np.zeros((2, 3), np.int32), {"a": 1})
    assert text.endswith(b"header:\n  a: 1\n...\n")


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_bytes_give_snapshot_errors_only(tmp_path_factory, data):
    path, whole = fuzz_file(tmp_path_factory)
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    options = ReadOptions(format="abacus")
    tracemalloc.start()
    try:
        snapshot = open_snapshot(path, options)
        assert len(read_all(snapshot)) == snapshot.header.n_particles
    except SnapshotError as error:
        assert str(path.parent.parent) in str(error)  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


FUZZED: list[tuple[Path, bytes]] = []


def fuzz_file(factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    if not FUZZED:
        paths = write_slices(factory.mktemp("abacus"), centred(60), n_slabs=1, listing=False)
        FUZZED.append((paths[0], paths[0].read_bytes()))
        # compiled now: that is no allocation by a file
        read_all(open_snapshot(paths[0], ReadOptions(format="abacus")))
    return FUZZED[0]
