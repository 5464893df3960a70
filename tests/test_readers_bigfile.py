"""bigfile snapshots of MP-Gadget and FastPM, against its own library and all that can be wrong."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SnapshotError
from pipeline.readers import open_snapshot, sniff
from pipeline.readers.bigfile_block import iter_rows, read_attributes, read_block
from pipeline.readers.discover import find_snapshots
from pipeline.readers.fingerprint import fingerprint
from pipeline.snapshot import ReadOptions, Snapshot
from pipeline.units import mean_matter_density
from tests.bigfile_made import (
    attribute_line,
    block_header,
    write_attributes,
    write_block,
    write_fastpm,
    write_mp_gadget,
)
from tests.snapshots_made import random_positions

CHUNK = 170


def read_all(snapshot: Snapshot, chunk_particles: int = CHUNK) -> np.ndarray:
    return np.concatenate([c.copy() for c in snapshot.iter_positions(chunk_particles)])


def read_masses(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    chunks = [(p.copy(), m.copy()) for p, m in snapshot.iter_weighted(CHUNK)]
    return np.concatenate([p for p, _ in chunks]), np.concatenate([m for _, m in chunks])


def refused(path: Path, match: str, options: ReadOptions | None = None) -> None:
    with pytest.raises(SnapshotError, match=match) as caught:
        snapshot = open_snapshot(path, options)
        read_all(snapshot)
        list(snapshot.iter_weighted(CHUNK))
    assert path.parent.parent.name in str(caught.value)


@pytest.fixture
def library():
    return pytest.importorskip("bigfile", reason="the library bigfile needs a compiler to install")


# --- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8", ">f4", "=f4"])
@pytest.mark.parametrize("n_files", [1, 3])
@pytest.mark.parametrize("chunk", [1, 170, 10_000])
def test_positions_to_the_last_bit(tmp_path, dtype, n_files, chunk):
    positions = random_positions(500)
    path = write_mp_gadget(tmp_path / "PART_000", positions, dtype=dtype, n_files=n_files)
    snapshot = open_snapshot(path)
    native = np.dtype(dtype).newbyteorder("=")
    expected = (positions / 1e-3).astype(native) * native.type(1e-3)
    found = read_all(snapshot, chunk)
    assert found.dtype == native
    assert found.tobytes() == expected.tobytes()
    header = snapshot.header
    assert (header.format, header.length_unit, header.n_particles) == ("bigfile", "kpc/h", 500)
    assert (header.Omega_m, header.h) == (0.3, 0.7)
    assert header.box_size == pytest.approx(100.0, rel=1e-5)


@pytest.mark.parametrize("masses", ["particles", "table"])
def test_masses(tmp_path, masses):
    by_type = {t: random_positions(100 + t, seed=t) for t in (0, 1, 5)}
    path = write_mp_gadget(tmp_path / "PART_000", by_type, masses=masses, n_files=2)
    snapshot = open_snapshot(path, ReadOptions(particle_types=(1, 5)))
    total = mean_matter_density(0.3) * 1e6
    found, weights = read_masses(snapshot)
    assert found.tobytes() == read_all(snapshot).tobytes()
    assert weights.dtype == np.float64
    assert weights == pytest.approx(np.full(206, total / 306), rel=1e-6)
    assert snapshot.header.total_mass == pytest.approx(total, rel=1e-6)
    assert snapshot.header.selected_mass == pytest.approx(total * 206 / 306, rel=1e-6)


def test_fastpm_is_in_mpc_per_h(tmp_path):
    positions = random_positions(1000)
    snapshot = open_snapshot(write_fastpm(tmp_path / "fastpm_1.0000", positions, redshift=1.0))
    assert read_all(snapshot).tobytes() == positions.astype("f4").tobytes()
    header = snapshot.header
    assert (header.length_unit, header.box_size, header.Omega_m) == ("Mpc/h", 100.0, 0.3)
    assert header.redshift == pytest.approx(1.0)
    assert header.total_mass == pytest.approx(mean_matter_density(0.3) * 1e6)
    assert read_masses(snapshot)[1].sum() == pytest.approx(header.total_mass)


def test_no_masses(tmp_path):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions(), masses="none")
    snapshot = open_snapshot(path)
    assert len(read_all(snapshot)) == 1000
    assert (snapshot.header.total_mass, snapshot.header.selected_mass) == (None, None)
    with pytest.raises(SnapshotError, match=r"no Mass .*grid\.weight: count"):
        list(snapshot.iter_weighted())


def test_unit_slip_is_found(tmp_path):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions(), density=1e-9)
    refused(path, "times the mean matter density")


# --- folders as snapshots -------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["**/*", "PART_*", "PART_*/Header/attr-v2"])
def test_folders_are_found(tmp_path, pattern):
    paths = [
        write_mp_gadget(tmp_path / f"PART_{i:03}", random_positions(100, seed=i), redshift=i)
        for i in range(2)
    ]
    (tmp_path / "PIG_000" / "Header").mkdir(parents=True)
    (tmp_path / "parameters.txt").write_text("no snapshot")
    found = find_snapshots(tmp_path, pattern)
    assert [files[0] for files in found] == paths
    for i, files in enumerate(found):
        root = tmp_path / f"PART_{i:03}"
        assert set(files) == {
            root / "Header/attr-v2",
            *(root / "1/Position").iterdir(),
            *(root / "1/Mass").iterdir(),
        }
        header = open_snapshot(files).header
        assert (header.redshift, header.files) == (pytest.approx(i), files)
        assert open_snapshot(root).header.files == files
    assert fingerprint(found[0]) != fingerprint(found[1])


def test_groups_are_no_snapshot(tmp_path):
    path = write_mp_gadget(
        tmp_path / "PIG_000", random_positions(), attributes={"NumFOFGroupsTotal": np.uint64(3)}
    )
    assert sniff(path) is None
    assert find_snapshots(tmp_path) == []


def test_other_attributes_are_no_snapshot(tmp_path):
    path = write_attributes(tmp_path / "PART_000", {"BoxSize": 1.0})
    assert sniff(path) is None
    write_block(tmp_path / "PART_000/1/Position", np.zeros((2, 3)))
    assert sniff(path).name == "bigfile"
    assert sniff(tmp_path / "PART_000/1/Position/header") is None
    refused(tmp_path / "PART_000/1/Position/header", "attr-v2", ReadOptions(format="bigfile"))


def test_files_that_are_not_all(tmp_path):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions())
    files = find_snapshots(tmp_path)[0]
    with pytest.raises(SnapshotError, match=r"1 of its files are not among those given"):
        open_snapshot(files[:-1])
    assert open_snapshot([path]).header.files == files


def test_block_that_is_linked_from_outside(tmp_path):
    write_mp_gadget(tmp_path / "elsewhere" / "PART_000", random_positions())
    write_mp_gadget(tmp_path / "here" / "PART_000", random_positions())
    position = tmp_path / "here/PART_000/1/Position/000000"
    position.unlink()
    position.symlink_to(tmp_path / "elsewhere/PART_000/1/Position/000000")
    with pytest.raises(SnapshotError, match="outside of"):
        find_snapshots(tmp_path / "here")


# --- against the library --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_reads_what_the_library_writes(tmp_path, library, dtype):
    positions = random_positions(1000)
    stored = (positions * 1000).astype(dtype)
    masses = np.random.default_rng(1).uniform(0.5, 1.5, 1000).astype("f4")
    masses *= np.float32(mean_matter_density(0.3) * 1e6) / masses.sum(dtype="f8").astype("f4")
    with library.File(str(tmp_path / "PART_000"), create=True) as file:
        with file.create("Header") as block:
            block.attrs["BoxSize"] = 1e5
            block.attrs["Time"] = 0.5
            block.attrs["TotNumPart"] = np.array([0, 1000, 0, 0, 0, 0], "u8")
            block.attrs["MassTable"] = np.zeros(6)
            block.attrs["Omega0"] = 0.3
            block.attrs["HubbleParam"] = 0.7
            block.attrs["UnitLength_in_cm"] = 3.085678e21
            block.attrs["UnitMass_in_g"] = 1.989e43
            block.attrs["CodeVersion"] = "5.0 made"
        file.create_from_array("1/Position", stored, Nfile=3)
        file.create_from_array("1/Mass", masses, Nfile=2)
    snapshot = open_snapshot(tmp_path / "PART_000")
    found, weights = read_masses(snapshot)
    assert found.tobytes() == (stored * np.dtype(dtype).type(1e-3)).tobytes()
    assert weights.tobytes() == masses.astype("f8").tobytes()
    assert snapshot.header.redshift == pytest.approx(1.0)
    header = (tmp_path / "PART_000/1/Position/header").read_text()
    sums = [sum((tmp_path / f"PART_000/1/Position/00000{i}").read_bytes()) for i in range(3)]
    assert [int(line.split(":")[2]) for line in header.splitlines()[3:]] == sums


def test_the_library_reads_what_is_made(tmp_path, library):
    positions = random_positions(500)
    path = write_mp_gadget(tmp_path / "PART_000", positions, n_files=3)
    file = library.File(str(tmp_path / "PART_000"))
    theirs = file["1/Position"][:]
    block = read_block(tmp_path / "PART_000/1/Position")
    ours = np.concatenate([rows.copy() for rows in iter_rows(block, 77)])
    assert ours.tobytes() == theirs.tobytes()
    attributes = file["Header"].attrs
    for name, values in read_attributes(path).items():
        assert values.tolist() == np.atleast_1d(attributes[name]).tolist(), name
    assert "CodeVersion" not in read_attributes(path)  # texts are of no use here


# --- what is refused ------------------------------------------------------------------------


POSITION = "1/Position"


@pytest.mark.parametrize("part", ["1/Position/000001", "1/Position/000000", "1/Mass/000002"])
def test_missing_file(tmp_path, part):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions(), n_files=2)
    (tmp_path / "PART_000" / part).unlink()
    refused(path, rf"{part}: cannot be read .*expected \d+ rows.*copy the missing file")


def test_missing_block(tmp_path):
    path = write_mp_gadget(tmp_path / "PART_000", {0: random_positions(), 1: random_positions()})
    (tmp_path / "PART_000/1/Position/header").unlink()
    refused(path, r"has no block 1/Position, expected 1000 positions")


@pytest.mark.parametrize("part", ["1/Position/000000", "1/Mass/000001"])
def test_cut_at_every_size(tmp_path, part):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions(20), n_files=2)
    target = tmp_path / "PART_000" / part
    whole = target.read_bytes()
    assert whole
    for size in range(len(whole)):
        target.write_bytes(whole[:size])
        refused(path, rf"{part}: has {size} bytes, expected {len(whole)}")
    target.write_bytes(whole + b"\0")
    refused(path, "truncated or damaged")


def test_headers_cut_at_every_size(tmp_path):
    positions = random_positions(20)
    path = write_mp_gadget(tmp_path / "PART_000", positions, n_files=2)
    whole = path.read_bytes()
    enough = whole.index(b"UsePeculiarVelocity")  # the rest repeats it or is inferred from it
    n_refused = 0
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            found = read_all(open_snapshot(path, ReadOptions(format="bigfile")))
            np.testing.assert_allclose(found, positions, rtol=1e-6)
        except SnapshotError as error:
            assert "PART_000" in str(error)  # noqa: PT017
            n_refused += 1
    assert n_refused > enough
    path.write_bytes(whole)
    header = tmp_path / "PART_000/1/Position/header"
    text = header.read_bytes()
    for size in range(len(text) - 1):
        header.write_bytes(text[:size])
        refused(path, "PART_000/1/Position")


def test_one_byte_of_data_changed(tmp_path):
    """The library does not look at its checksums; every byte is in one."""
    path = write_mp_gadget(tmp_path / "PART_000", random_positions(10), n_files=2)
    for name in ("1/Position/000001", "1/Mass/000000"):
        target = tmp_path / "PART_000" / name
        whole = target.read_bytes()
        for offset in range(len(whole)):
            data = bytearray(whole)
            data[offset] ^= 0x10
            target.write_bytes(data)
            with pytest.raises(SnapshotError, match=r"sum of its bytes is|density|box"):
                list(open_snapshot(path).iter_weighted(3))
        target.write_bytes(whole)
    assert len(read_all(open_snapshot(path))) == 10


def test_no_checksum_recorded(tmp_path):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions(50))
    header = tmp_path / "PART_000/1/Position/header"
    header.write_text(block_header("<f8", 3, [50], [0]))
    assert len(read_all(open_snapshot(path))) == 50


BLOCK_HEADERS = {
    "": "expected DTYPE",
    "DTYPE: <f8\nNMEMB: 3\n": "expected DTYPE",
    "DTYPE: O\nNMEMB: 3\nNFILE: 0\n": "expected DTYPE",
    "DTYPE: <c8\nNMEMB: 3\nNFILE: 0\n": "expected DTYPE",
    "DTYPE: <f8\nNMEMB: -3\nNFILE: 0\n": "expected DTYPE",
    "DTYPE: <f8\nNMEMB: 3\nNFILE: 0\n": "0 rows of 3, expected 20",
    "DTYPE: <f8\nNMEMB: 3\nNFILE: 999999999\n": "NFILE is 999999999, but 0 files are listed",
    "DTYPE: <f8\nNMEMB: 3\nNFILE: 1\n000001: 20 : 0 : 0\n": "is not of file 000000",
    "DTYPE: <f8\nNMEMB: 3\nNFILE: 1\n../../x: 20 : 0 : 0\n": "is not of file 000000",
    "DTYPE: <f8\nNMEMB: 3\nNFILE: 1\n000000: 20 : 7 : 8\n": "7 and 8, which do not agree",
    "DTYPE: <f8\nNMEMB: 3\nNFILE: 1\n000000: 99999999999999999 : 0 : 0\n": "480 bytes, expected 23",
    "DTYPE: <f8\nNMEMB: 999999999\nNFILE: 1\n000000: 20 : 0 : 0\n": "480 bytes, expected 15",
    "DTYPE: <f8\nNMEMB: 1\nNFILE: 1\n000000: 60 : 0 : 0\n": "60 rows of 1, expected 20",
    "DTYPE: <i8\nNMEMB: 3\nNFILE: 1\n000000: 20 : 0 : 0\n": "is int64, expected float32",
    "DTYPE: <f2\nNMEMB: 12\nNFILE: 1\n000000: 20 : 0 : 0\n": "20 rows of 12, expected 20",
}


@pytest.mark.parametrize("text", BLOCK_HEADERS)
def test_block_header_refused(tmp_path, text):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions(20))
    (tmp_path / "PART_000/1/Position/header").write_text(text)
    refused(path, BLOCK_HEADERS[text])


ATTRIBUTES = {
    "no box": ({"BoxSize": None}, r"box size is 0.*input\.box_size"),
    "negative box": ({"BoxSize": -1.0}, "box size is -1"),
    "two boxes": ({"BoxSize": np.array([1.0, 2.0])}, r"BoxSize is \[1.0, 2.0\]"),
    "no time": ({"Time": None}, r"no redshift.*input\.redshift"),
    "mad time": ({"Time": 7.0}, r"no redshift.*input\.redshift"),
    "more particles": (
        {"TotNumPart": np.array([0, 1 << 62, 0, 0, 0, 0], "u8")},
        "1000 rows of 3, expected 4611686018427387904|1000 rows of 1, expected",
    ),
    "negative": ({"TotNumPart": np.array([0, -1, 0, 0, 0, 0])}, "expected 6 whole numbers"),
    "five types": ({"TotNumPart": np.arange(5)}, r"TotNumPart is \[0, 1, 2, 3, 4\], expected 6"),
    "fractions": ({"TotNumPart": np.zeros(6)}, "expected 6 whole numbers"),
    "no particles": ({"TotNumPart": np.zeros(6, "u8")}, "no particles of the chosen types"),
    "unit": ({"UnitLength_in_cm": -1.0}, "unit of length is -1 cm"),
    "mass unit": ({"UnitMass_in_g": np.inf}, "UnitMass_in_g is inf"),
    "h": ({"HubbleParam": 70.0}, "h is 70"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_refused(tmp_path, name):
    attributes, match = ATTRIBUTES[name]
    path = write_mp_gadget(tmp_path / "PART_000", random_positions(), attributes=attributes)
    refused(path, match)


@pytest.mark.parametrize(
    "line",
    [
        "BoxSize\n",
        "BoxSize <f8 1\n",
        "BoxSize <f8 one 00\n",
        "BoxSize <f8 1 00000000000059\n",
        "BoxSize <f8 99999999999 0000000000005940\n",
        "BoxSize <f8 -1 0000000000005940\n",
        "BoxSize <f8 1 xx00000000005940\n",
    ],
)
def test_attribute_lines_refused(tmp_path, line):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions(), attributes={"BoxSize": None})
    path.write_text(path.read_text() + line)
    refused(path, r"has the line 'BoxSize.*attribute|has the line 'BoxSize")


def test_attributes_of_other_kinds_are_passed_over(tmp_path):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions())
    extra = attribute_line("Text", "a\nb") + "Flag <b1 1 01 #HUMANE [ True ]\n\n"
    path.write_text(path.read_text() + extra)
    assert len(read_all(open_snapshot(path))) == 1000


def test_cut_and_gone_after_it_was_opened(tmp_path):
    path = write_mp_gadget(tmp_path / "PART_000", random_positions())
    snapshot = open_snapshot(path)
    data = tmp_path / "PART_000/1/Position/000000"
    os.truncate(data, 5000)
    with pytest.raises(SnapshotError, match="truncated while it was read"):
        list(snapshot.iter_positions())
    data.unlink()
    with pytest.raises(SnapshotError, match="cannot be read"):
        list(snapshot.iter_positions())


def test_no_chunk(tmp_path):
    snapshot = open_snapshot(write_mp_gadget(tmp_path / "PART_000", random_positions()))
    for read in (snapshot.iter_positions, snapshot.iter_weighted):
        with pytest.raises(ValueError, match="chunk_particles is 0"):
            next(read(0))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_headers_give_snapshot_errors_only(tmp_path_factory, data):
    root = fuzz_root(tmp_path_factory)
    damaged = root / data.draw(st.sampled_from(sorted(FUZZED)))
    content = bytearray(FUZZED[str(damaged.relative_to(root))])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged.write_bytes(content)
    tracemalloc.start()
    try:
        snapshot = open_snapshot(root / "Header/attr-v2", ReadOptions(format="bigfile"))
        assert len(read_all(snapshot)) == snapshot.header.n_particles
    except SnapshotError as error:
        assert str(root) in str(error)  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        damaged.write_bytes(FUZZED[str(damaged.relative_to(root))])
    assert peak < 4 << 20


FUZZED: dict[str, bytes] = {}
ROOTS: list[Path] = []


def fuzz_root(factory: pytest.TempPathFactory) -> Path:
    if not ROOTS:
        root = factory.mktemp("bigfile") / "PART_000"
        write_mp_gadget(root, random_positions(40), n_files=2)
        for name in ("Header/attr-v2", "1/Position/header", "1/Mass/header", "1/Position/000001"):
            FUZZED[name] = (root / name).read_bytes()
        ROOTS.append(root)
        # compiled now: that is no allocation by a file
        read_all(open_snapshot(root / "Header/attr-v2", ReadOptions(format="bigfile")))
    return ROOTS[0]
