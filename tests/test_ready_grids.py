"""Grids that are ready: each format through check, build and verify, and refused when damaged."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.build import build, check_recipe, plan_recipe
from pipeline.cluster import ClusterChoice
from pipeline.config import load_recipe
from pipeline.errors import InputError, RecipeError, SnapshotError
from pipeline.inspect import describe
from pipeline.readers import open_snapshot, ready, sniff
from pipeline.ready_field import fill_ready
from pipeline.samples import universe_cube
from pipeline.snapshot import GridSnapshot, ReadOptions
from pipeline.verify import verify
from tests.conftest import Run
from tests.ensembles_made import all_digests, write_recipe
from tests.grids_made import (
    PHYSICAL,
    counts,
    overdensity,
    write_cosmoflow_hdf5,
    write_nyx_grid,
    write_quijote_grid,
)
from tests.snapshots_made import write_gadget_hdf5

QUIJOTE_BOX = ReadOptions(box_size=1000.0)
GAS = ReadOptions(particle_types=(0,))


def read(snapshot: GridSnapshot) -> np.ndarray:
    """All blocks put together, each cell written once."""
    n = snapshot.header.grid.n_grid
    grid, times = np.full((n, n, n), np.nan), np.zeros((n, n, n), int)
    for place, block in snapshot.iter_blocks():
        grid[place] = block
        times[place] += 1
    assert (times == 1).all()
    return grid


def filled(snapshot: GridSnapshot, dtype: str = "f4") -> np.ndarray:
    n = snapshot.header.grid.n_grid
    channel = np.empty((n, n, n, 2), dtype)[..., 1]
    fill_ready(snapshot, channel)
    return channel


# ---------------------------------------------------------------- MLPerf CosmoFlow


@pytest.fixture
def cosmoflow(tmp_path: Path) -> Path:
    """Ten universes, parameters in the files only."""
    rng = np.random.default_rng(3)
    for number in range(10):
        values = dict(zip(PHYSICAL, rng.uniform((0.2, 0.7, 0.9, 60), (0.4, 0.9, 1, 80))))  # noqa: B905
        path = tmp_path / f"job/univ_ics_2019-03_a{100 + number}.hdf5"
        write_cosmoflow_hdf5(path, counts(8, 4, number), parameters=values)
    return tmp_path


def cosmoflow_recipe(root: Path, **changes: object) -> Path:
    data: dict = {
        "input": {"universes": "job/*.hdf5", "parameters": "header"},
        "grid": {"n_grid": 8, "scheme": "ready", "redshifts": [0.0, 0.5, 1.5, 3.0]},
        "targets": {"Omega_m": [0.2, 0.4], "n_s": [0.9, 1.0], "H_0": [60.0, 80.0]},
    }
    return write_recipe(root, **data | changes)


@pytest.mark.parametrize("dtype", ["auto", "int16"])
@pytest.mark.parametrize("format", ["zarr", "tfrecord"])
def test_cosmoflow_universes(
    cosmoflow: Path, cluster: ClusterChoice, dtype: str, format: str
) -> None:
    dtype = "float32" if (dtype, format) == ("auto", "tfrecord") else dtype
    recipe = cosmoflow_recipe(cosmoflow, output__dtype=dtype, output__format=format)
    result = build(recipe, cluster)
    checked = verify(result.output)
    assert checked.passed, checked.faults
    layout = result.manifest.layout
    assert (layout.quantity, layout.scheme) == ("counts", "ready")
    assert layout.dtype == ("int16" if dtype == "int16" else "float32")
    assert len(result.manifest.universes) == 10
    for universe in result.manifest.universes:
        (name,) = {f for s in universe.snapshots for f in s.files}
        with h5py.File(cosmoflow / name) as file:
            full = file["full"][...]
            physical = dict(zip(PHYSICAL, file["physPar"][...].tolist(), strict=True))
        np.testing.assert_array_equal(
            universe_cube(result.output, result.manifest, universe.id), full
        )
        assert universe.parameters == {
            "Omega_m": physical["Omega_m"],
            "sigma_8": physical["sigma_8"],
            "n_s": physical["N_spec"],
            "H_0": physical["H_0"],
            "h": physical["H_0"] / 100,
        }
        for record in universe.snapshots:
            cells = full[..., record.channel].astype("f8")
            assert record.box_size == int(512 * physical["H_0"] / 70)
            assert record.n_particles == record.mass == 512
            assert record.maximum == cells.max()
            assert record.variance == pytest.approx(cells.var() / cells.mean() ** 2)


def test_cosmoflow_with_a_table_and_other_redshifts(
    cosmoflow: Path, cluster: ClusterChoice
) -> None:
    """The table has the word; channels follow the recipe, not the file."""
    rows = [f"univ_ics_2019-03_a{100 + i},0.3{i},0.8{i}" for i in range(10)]
    (cosmoflow / "table.csv").write_text("id,sigma_8,tau\n" + "\n".join(rows))
    recipe = cosmoflow_recipe(
        cosmoflow,
        input={"universes": "job/*.hdf5", "parameters": "table.csv"},
        grid__redshifts=[3.0, 0.0],
        targets={"sigma_8": [0.3, 0.4], "tau": [0.8, 0.9]},
    )
    result = build(recipe, cluster)
    assert verify(result.output).passed
    assert len(result.manifest.universes) == 10
    for universe in result.manifest.universes:
        assert set(universe.parameters) == {"sigma_8", "tau"}
        with h5py.File(cosmoflow / universe.snapshots[0].files[0]) as file:
            expected = file["full"][...][..., [3, 0]]
        cube = universe_cube(result.output, result.manifest, universe.id)
        np.testing.assert_array_equal(cube, expected)


def test_same_bytes_for_any_workers(cosmoflow: Path, cluster: ClusterChoice) -> None:
    digests = []
    for number, choice in enumerate([cluster, ClusterChoice(workers=1)]):
        recipe = cosmoflow_recipe(cosmoflow, output__path=f"out{number}")
        output = build(recipe, choice).output
        digests.append({k: v for k, v in all_digests(output).items() if k != "recipe.yaml"})
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (3, 5, 8, 4)}, {"chunks": (8, 8, 8, 1), "compression": "gzip"}],
)
@pytest.mark.parametrize("block_bytes", [1, 200, 1 << 20])
def test_cosmoflow_blocks_cover_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, block_bytes: int
) -> None:
    monkeypatch.setattr(ready, "BLOCK_BYTES", block_bytes)
    full = counts(8, 4)
    path = write_cosmoflow_hdf5(tmp_path / "u.hdf5", full, **options)
    epochs = open_snapshot(path).epochs()
    assert [e.header.redshift for e in epochs] == [0.0, 0.5, 1.5, 3.0]
    for channel, epoch in enumerate(epochs):
        np.testing.assert_array_equal(read(epoch), full[..., channel])
        np.testing.assert_array_equal(filled(epoch, "i2"), full[..., channel])


def test_inspect_shows_all_redshifts_of_a_file(tmp_path: Path) -> None:
    facts = describe(write_cosmoflow_hdf5(tmp_path / "u.hdf5", counts()))
    assert facts["redshifts of the file"] == [0.0, 0.5, 1.5, 3.0]
    assert facts["parameters"]["sigma_8"] == 0.83
    assert (facts["cells hold"], facts["n_grid"], facts["box size [Mpc/h]"]) == ("counts", 8, 526)


def test_particles_that_were_lost(tmp_path: Path) -> None:
    full = counts()
    full[1, 2, 3, 2] += 1
    snapshot = open_snapshot(write_cosmoflow_hdf5(tmp_path / "u.hdf5", full))
    with pytest.raises(SnapshotError, match=r"u\.hdf5: its redshifts hold \[512, 512, 513, 512\]"):
        filled(snapshot)


def test_counts_that_overflowed(tmp_path: Path) -> None:
    full = counts()
    full[1, 2, 3, 0] = -32768
    snapshot = open_snapshot(write_cosmoflow_hdf5(tmp_path / "u.hdf5", full))
    with pytest.raises(SnapshotError, match=r"u\.hdf5: 1 of the cells .* negative .*-32768"):
        filled(snapshot)
    full = np.full((4, 4, 4, 1), 300, "u4")
    path = write_cosmoflow_hdf5(tmp_path / "v.hdf5", full, redshifts=[0.0])
    with h5py.File(path, "r+") as file:
        file["full"][0, 0, 0, 0] = 40_000
    with pytest.raises(SnapshotError, match=r"40000 particles, more than int16"):
        filled(open_snapshot(path), "i2")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"redshifts": [0.0, 0.5]}, "4 channels and there are 2 redshifts"),
        ({"redshifts": [0.0, 0.5, np.nan, 3.0]}, "redshifts is .*nan.*, expected finite"),
        ({"physPar": [0.3, 0.8]}, "namePar names .* physPar has 2 values"),
        ({"physPar": [0.3, np.inf, 1.0, 70.0]}, "physPar is .*inf"),
        ({"physPar": [30.0, 0.8, 1.0, 70.0]}, "Omega_m is 30, expected 0.001 to 10"),
        ({"physPar": np.zeros((2, 2))}, "has no list physPar"),
        ({"physPar": np.zeros(1000)}, "has 1000 values"),
        ({"namePar": np.zeros(4)}, "namePar is float64, expected names"),
        ({"full": np.zeros((4, 4, 5, 4), "i2")}, r"the shape \(4, 4, 5, 4\), expected \(n, n, n"),
        ({"full": np.zeros((4, 4, 4), "i2")}, "expected .n, n, n, channels"),
        ({"full": np.zeros((4, 4, 4, 4), "f4")}, "float32, expected integers"),
    ],
)
def test_cosmoflow_files_that_are_damaged(tmp_path: Path, damage: dict, expected: str) -> None:
    path = write_cosmoflow_hdf5(tmp_path / "u.hdf5", counts())
    with h5py.File(path, "r+") as file:
        for name, values in damage.items():
            del file[name]
            file[name] = values
    with pytest.raises(SnapshotError, match=rf"u\.hdf5: .*{expected}"):
        open_snapshot(path)


def test_cosmoflow_links_and_cuts(tmp_path: Path) -> None:
    whole = write_cosmoflow_hdf5(tmp_path / "whole.hdf5", counts(16))
    linked = write_cosmoflow_hdf5(tmp_path / "linked.hdf5", counts(8))
    with h5py.File(linked, "r+") as file:
        del file["full"]
        file["full"] = h5py.ExternalLink("whole.hdf5", "/full")
    with pytest.raises(SnapshotError, match="an external link to whole"):
        open_snapshot(linked)
    size, refused = whole.stat().st_size, 0
    cut = tmp_path / "cut.hdf5"
    for length in range(0, size, size // 23):
        cut.write_bytes(whole.read_bytes()[:length])
        with pytest.raises(SnapshotError, match=r"cut\.hdf5"):
            filled(open_snapshot(cut))
        refused += 1
    assert refused > 20


def test_box_sizes_of_cosmoflow(tmp_path: Path) -> None:
    path = write_cosmoflow_hdf5(tmp_path / "u.hdf5", counts())
    assert open_snapshot(path).header.box_size == int(512 * 72 / 70)
    with pytest.raises(SnapshotError, match=r"records box_size = 526 Mpc/h.*says input\.box_size"):
        open_snapshot(path, ReadOptions(box_size=512.0))
    nameless = {"Omega_m": 0.3}
    path = write_cosmoflow_hdf5(tmp_path / "v.hdf5", counts(), parameters=nameless)
    with pytest.raises(SnapshotError, match=r"give input\.box_size"):
        open_snapshot(path)
    assert open_snapshot(path, ReadOptions(box_size=512.0)).header.box_size == 512
    with pytest.raises(SnapshotError, match=r"length_unit is kpc/h.*drop it"):
        open_snapshot(path, ReadOptions(box_size=512.0, length_unit="kpc/h"))
    with pytest.raises(SnapshotError, match="holds the matter in one grid"):
        open_snapshot(path, ReadOptions(box_size=512.0, particle_types=(4,)))


# ---------------------------------------------------------------- Quijote


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_quijote_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int, dtype: str, order: str
) -> None:
    """Overdensities and densities, told apart by their mean; both become densities."""
    monkeypatch.setattr("pipeline.readers.quijote_grid.BLOCK_BYTES", 12 * 12 * 4 * 5)
    delta = overdensity(12, dtype="f8")
    stored = np.asarray(delta + shift, dtype=dtype, order=order)
    path = write_quijote_grid(tmp_path, stored, "PCS", "0.5")
    snapshot = open_snapshot(path, QUIJOTE_BOX)
    header = snapshot.header
    assert (header.redshift, header.box_size, header.n_particles) == (0.5, 1000.0, 0)
    assert (header.grid.n_grid, header.grid.scheme, header.grid.quantity) == (12, "pcs", "density")
    native = stored.astype(stored.dtype.newbyteorder("="))
    np.testing.assert_array_equal(read(snapshot), native + native.dtype.type(1 - shift))
    assert filled(snapshot).mean() == pytest.approx(1, abs=1e-6)


def test_quijote_through_the_build(tmp_path: Path, cluster: ClusterChoice) -> None:
    rows = ["id,Omega_m"]
    for number in range(10):
        for channel, redshift in enumerate(("0", "0.5")):
            folder = tmp_path / f"latin_hypercube/{number}"
            write_quijote_grid(folder, overdensity(8, 2 * number + channel), "CIC", redshift)
        rows.append(f"{number},{0.1 + number / 25}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    recipe = write_recipe(
        tmp_path,
        input={"universes": "latin_hypercube/*/", "parameters": "table.csv", "box_size": 1000.0},
        grid={"n_grid": 8, "scheme": "ready", "redshifts": [0.5, 0.0]},
        targets={"Omega_m": [0.1, 0.5]},
    )
    result = build(recipe, cluster)
    checked = verify(result.output)
    assert checked.passed, checked.faults
    assert result.manifest.layout.quantity == "density"
    for universe in result.manifest.universes:
        cube = universe_cube(result.output, result.manifest, universe.id)
        for record, redshift in zip(universe.snapshots, ("0.5", "0"), strict=True):
            name = f"latin_hypercube/{universe.id}/df_m_8_CIC_z={redshift}.npy"
            assert record.files == [name]
            expected = np.load(tmp_path / name, allow_pickle=False) + np.float32(1)
            np.testing.assert_array_equal(cube[..., record.channel], expected)
            assert (record.n_particles, record.scheme) == (0, "cic")
            assert record.mass == pytest.approx(512, abs=1e-3)
            assert abs(record.mass_deviation) < 1e-6
    data = xr.open_zarr(result.output / "train.zarr")
    assert data["density"].attrs["units"] == "mean densities"
    assert describe(result.output)["cells hold"] == "density"
    seen = describe(tmp_path / name, QUIJOTE_BOX)
    assert (seen["kind"], seen["n_grid"], seen["mass assignment"]) == ("ready grid", 8, "cic")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.full((4, 4, 4), 0.5, "f4"), r"the mean of its cells is 0\.5, expected 0 for an over"),
        (np.where(np.arange(64).reshape(4, 4, 4) < 2, np.nan, 0.0), "2 of 64 cells are NaN"),
        (np.where(np.arange(64).reshape(4, 4, 4) < 32, 1.5, -1.5), "32 of the cells.*negative"),
    ],
)
def test_quijote_contents_that_are_wrong(tmp_path: Path, values: np.ndarray, expected: str) -> None:
    snapshot = open_snapshot(write_quijote_grid(tmp_path, values), QUIJOTE_BOX)
    with pytest.raises(SnapshotError, match=rf"df_m_4_CIC_z=0\.npy: .*{expected}"):
        filled(snapshot)


def test_quijote_files_that_are_not_trusted(tmp_path: Path) -> None:
    """Fault row 24: pickles are refused and never loaded."""

    class Bomb:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    path = write_quijote_grid(tmp_path, np.zeros((2, 2, 2), "f4"))
    objects = np.empty((2, 2, 2), object)
    objects[:] = Bomb()
    with path.open("wb") as file:
        np.lib.format.write_array(file, objects, allow_pickle=True)
    with pytest.raises(SnapshotError, match="holds pickled objects, expected float32"):
        open_snapshot(path, QUIJOTE_BOX)
    path.write_bytes(pickle.dumps(Bomb()))
    assert sniff(path) is None
    with pytest.raises(SnapshotError, match="expected the header of a NumPy array"):
        open_snapshot(path, ReadOptions(format="quijote_grid", box_size=1.0))
    assert not (tmp_path / "exploded").exists()
    np.save(path, np.zeros((2, 2, 2), "i4"))
    with pytest.raises(SnapshotError, match="numbers of type <i4"):
        open_snapshot(path, QUIJOTE_BOX)
    np.save(path, np.zeros((2, 2, 3), "f4"))
    with pytest.raises(SnapshotError, match=r"the shape \(2, 2, 3\), expected \(2, 2, 2\) by its"):
        open_snapshot(path, QUIJOTE_BOX)
    np.save(path, np.zeros(4, [("a", "f4")]))
    with pytest.raises(SnapshotError, match="expected that of a plain NumPy array"):
        open_snapshot(path, QUIJOTE_BOX)
    np.save(path, np.zeros((2, 2, 2), "f4"))
    with pytest.raises(SnapshotError, match=r"box size is 0\.0.*give input\.box_size"):
        open_snapshot(path)
    other = path.rename(tmp_path / "field.npy")
    with pytest.raises(SnapshotError, match=r"expected a name like df_m_128_CIC_z=0\.npy"):
        open_snapshot(other, ReadOptions(format="quijote_grid", box_size=1.0))


@given(data=st.data())
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_headers_of_numpy_files_are_fuzzed(tmp_path: Path, data: st.DataObject) -> None:
    """Any changed bytes of the first 128, any length: a proper read or a SnapshotError."""
    path = write_quijote_grid(tmp_path, overdensity(4))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), 100, 131, len(raw) - 1, 12, 0]))])
    options = ReadOptions(format="quijote_grid", box_size=1000.0)
    message = str(path)
    try:
        shape = read(open_snapshot(path, options)).shape
    except SnapshotError as error:
        shape, message = (4, 4, 4), str(error)
    assert shape == (4, 4, 4)
    assert str(path) in message


# ---------------------------------------------------------------- Nyx


def test_nyx_grids(tmp_path: Path) -> None:
    density = overdensity(8) + 1
    path = write_nyx_grid(tmp_path / "z42.h5", density)
    snapshot = open_snapshot(path)
    header = snapshot.header
    assert (header.box_size, header.redshift, header.Omega_m, header.h) == (10, 4.2, 0.3, 0.685)
    assert dict(header.parameters)["Omega_b"] == 0.047
    np.testing.assert_array_equal(filled(snapshot), density)
    np.testing.assert_array_equal(filled(open_snapshot(path, GAS)), 0.5 + density / 2)
    with pytest.raises(SnapshotError, match="choose gas or dark_matter"):
        open_snapshot(path, ReadOptions(particle_types=tuple(range(8))))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: f["domain"].attrs.__setitem__("shape", [8, 8, 4]), r"\[8, 8, 4\], expected thr"),
        (lambda f: f["domain"].attrs.__setitem__("shape", [16] * 3), r"\(8, 8, 8\), expected \(16"),
        (lambda f: f["domain"].attrs.__setitem__("size", [10.0, 10.0, 5.0]), "expected one number"),
        (lambda f: f["domain"].attrs.__setitem__("size", -1.0), r"box size is -1\.0"),
        (lambda f: f["universe"].attrs.__setitem__("hubble", 68.5), "h is 68.5, expected 0.01 to"),
        (lambda f: f["universe"].attrs.__delitem__("redshift"), r"no redshift; give input\.redsh"),
        (lambda f: f["native_fields"].__delitem__("dark_matter_density"), "no native_fields/dark_"),
        (
            lambda f: f["native_fields/dark_matter_density"].attrs.__setitem__("units", "g/cm^3"),
            "is in 'g/cm.3', expected '.mean.'",
        ),
    ],
)
def test_nyx_files_that_are_damaged(tmp_path: Path, change: object, expected: str) -> None:
    path = write_nyx_grid(tmp_path / "z.h5", overdensity(8) + 1)
    with h5py.File(path, "r+") as file:
        change(file)  # type: ignore[operator]
    with pytest.raises(SnapshotError, match=rf"z\.h5: .*{expected}"):
        open_snapshot(path)


def test_a_density_in_other_units(tmp_path: Path) -> None:
    path = write_nyx_grid(tmp_path / "z.h5", 3e10 * (overdensity(8) + 1), units=None)
    with pytest.raises(SnapshotError, match=r"mean of the density is 3e\+10, expected 1 within 0"):
        filled(open_snapshot(path))


def test_the_real_nyx_grid(snapshots: Path, cluster: ClusterChoice, tmp_path: Path) -> None:
    real = snapshots / "nyx_hdf5_vizaly/z255_32.h5"
    with h5py.File(real) as file:
        expected = file["native_fields/dark_matter_density"][...]
    recipe = write_recipe(
        tmp_path,
        input={"universes": [str(real.parent)], "parameters": "header"},
        grid={"n_grid": 32, "scheme": "ready", "redshifts": [4.2]},
        split__fractions={"train": 1.0},
        targets={"Omega_m": [0.1, 0.5], "Omega_b": [0.03, 0.07]},
    )
    result = build(recipe, cluster)
    assert verify(result.output).passed
    (universe,) = result.manifest.universes
    cube = universe_cube(result.output, result.manifest, universe.id)
    np.testing.assert_array_equal(cube[..., 0], expected)
    assert universe.parameters["Omega_b"] == 0.047
    (record,) = universe.snapshots
    assert record.mass == pytest.approx(expected.sum(dtype="f8"), rel=1e-12)
    assert record.mass_deviation == pytest.approx(expected.mean(dtype="f8") - 1)


# ---------------------------------------------------------------- recipes


def refusals(recipe: Path, cluster: ClusterChoice) -> str:
    good, refused = check_recipe(recipe, cluster)
    assert not good
    return "\n".join(r.reason for r in refused)


def test_grids_and_particles_are_not_confused(
    cosmoflow: Path, ensemble: Path, cluster: ClusterChoice
) -> None:
    ngp = cosmoflow_recipe(cosmoflow, grid__scheme="ngp")
    assert "holds a grid, but grid.scheme is ngp; set grid.scheme: ready" in refusals(ngp, cluster)
    particles = write_recipe(ensemble, grid__scheme="ready")
    assert "holds particles, but grid.scheme is ready" in refusals(particles, cluster)
    other = cosmoflow_recipe(cosmoflow, grid__n_grid=16)
    assert "8 cells a side, grid.n_grid is 16; set grid.n_grid: 8" in refusals(other, cluster)
    missing = cosmoflow_recipe(cosmoflow, grid__redshifts=[0.0, 1.0])
    assert "no snapshot at redshift 1 (has 0, 0.5, 1.5, 3)" in refusals(missing, cluster)
    path = next((cosmoflow / "job").iterdir())
    with pytest.raises(SnapshotError, match=r"holds a grid of cosmoflow_hdf5, expected particles"):
        next(iter(open_snapshot(path).iter_positions()))


def test_densities_and_counts_are_not_mixed(tmp_path: Path, cluster: ClusterChoice) -> None:
    write_cosmoflow_hdf5(tmp_path / "sims/a/u.hdf5", counts(8, 1), redshifts=[0.0])
    write_nyx_grid(tmp_path / "sims/b/z.h5", overdensity(8) + 1, redshift=0.0)
    recipe = write_recipe(
        tmp_path,
        input={"universes": "sims/*/", "parameters": "header"},
        grid={"n_grid": 8, "scheme": "ready", "redshifts": [0.0]},
        split__fractions={"train": 1.0},
        targets={"Omega_m": [0.1, 0.5]},
    )
    with pytest.raises(InputError, match=r"u\.hdf5 counts and .*z\.h5 density; make a data set of"):
        plan_recipe(recipe, cluster)
    integers = write_recipe(
        tmp_path,
        "integers.yaml",
        input={"universes": ["sims/b"], "parameters": "header"},
        grid={"n_grid": 8, "scheme": "ready", "redshifts": [0.0]},
        split__fractions={"train": 1.0},
        targets={"Omega_m": [0.1, 0.5]},
        output__dtype="uint16",
    )
    assert "densities, which output.dtype uint16 cannot; set output" in refusals(integers, cluster)


def test_a_first_recipe_for_grids(tmp_path: Path, prep: Run) -> None:
    write_nyx_grid(tmp_path / "sims/a/z.h5", overdensity(12) + 1)
    (tmp_path / "sims/table.csv").write_text("id,Omega_m\na,0.3\nb,0.4\n")
    made = prep("init", tmp_path / "sims", "-o", tmp_path / "r.yaml")
    assert made.returncode == 0, made.stderr
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.grid.scheme, recipe.grid.n_grid) == ("ready", 12)
    assert recipe.grid.redshifts == (4.2,)


def test_tfrecords_of_grids_need_a_type(tmp_path: Path) -> None:
    recipe = cosmoflow_recipe(tmp_path, output__format="tfrecord")
    with pytest.raises(RecipeError, match=r"say output\.dtype: int16 if the ready grids are count"):
        load_recipe(recipe)


def test_other_files_are_not_taken_for_grids(tmp_path: Path) -> None:
    (gadget,) = write_gadget_hdf5(tmp_path / "s.hdf5", np.full((9, 3), 5.0))
    assert sniff(gadget).name == "gadget_hdf5"
    assert sniff(write_cosmoflow_hdf5(tmp_path / "u.hdf5", counts())).name == "cosmoflow_hdf5"
    assert sniff(write_nyx_grid(tmp_path / "z.h5", overdensity(8) + 1)).name == "nyx_grid"
    assert sniff(write_quijote_grid(tmp_path, overdensity(8), "")).name == "quijote_grid"
    np.save(tmp_path / "df_x.npy", overdensity(8))
    found = sniff(tmp_path / "df_x.npy")
    assert found is None or found.name != "quijote_grid"
