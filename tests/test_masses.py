"""Mass-weighted cubes: kernels against the oracle, readers' masses, whole builds, refusals."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.build import build, check_recipe
from pipeline.cluster import ClusterChoice
from pipeline.config import Recipe, load_recipe
from pipeline.deposit import UNIT, assign, get_scheme, scheme_names
from pipeline.deposit.masses import TOTAL_BITS, bad_masses, mass_unit, quantise
from pipeline.deposit.oracle import deposit_reference
from pipeline.errors import RecipeError, SnapshotError
from pipeline.field import ChannelStatistics
from pipeline.manifest import load
from pipeline.mass_field import fill_masses
from pipeline.readers import open_snapshot
from pipeline.samples import universe_cube
from pipeline.snapshot import ReadOptions, Snapshot, SnapshotHeader
from pipeline.verify import verify
from tests.ensembles_made import BOX_SIZE, all_digests, recipe_data, write_recipe
from tests.snapshots_made import gadget2_header, gadget2_records, write_gadget_hdf5

SCHEMES = scheme_names()
ALL = tuple(range(8))


def assigned(
    positions: np.ndarray,
    amounts: np.ndarray,
    scheme: str,
    n_grid: int = 8,
    origin: str = "cell",
    parts: int = 1,
) -> np.ndarray:
    """Grid of whole units, from so many chunks."""
    grid = np.empty((n_grid,) * 3, np.int64)
    chunks = zip(np.array_split(positions, parts), np.array_split(amounts, parts), strict=True)
    result = assign(chunks, grid, BOX_SIZE, get_scheme(scheme), origin=origin, weighted=True)
    finite = np.isfinite(positions).all(axis=1)
    assert result.not_finite == np.count_nonzero(~finite)
    assert result.total == sum(int(n) for n in grid.ravel()) == sum(int(n) for n in amounts[finite])
    return grid


def fill(snapshot: Snapshot, n_grid: int, scheme: str) -> tuple[np.ndarray, ChannelStatistics]:
    cube = np.empty((n_grid,) * 3, np.float32)
    return cube, fill_masses(snapshot, cube, get_scheme(scheme), "cell")


def particles(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, BOX_SIZE, (n, 3))


# ---------------------------------------------------------------- kernels and units


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("origin", ["cell", "node"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_agrees_with_the_oracle(scheme: str, origin: str, dtype: str) -> None:
    positions = particles(500).astype(dtype)
    masses = np.random.default_rng(1).exponential(3.0, 500)
    unit = mass_unit(float(masses.sum()), 500)
    grid = assigned(positions, quantise(masses, unit), scheme, 9, origin)
    expected = deposit_reference(positions, 9, BOX_SIZE, scheme, origin, masses=masses)
    # positions keep 25 bits of a cell's fraction
    np.testing.assert_allclose(grid * unit, expected, rtol=0, atol=masses.sum() * 2.0**-24)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equal_amounts_are_the_counts(scheme: str) -> None:
    """The same integers as without masses, to the last unit."""
    positions, chosen = particles(2000), get_scheme(scheme)
    counts = np.empty((8, 8, 8), np.int64)
    assign([positions], counts, BOX_SIZE, chosen)
    amounts = np.full(2000, chosen.unit)
    np.testing.assert_array_equal(assigned(positions, amounts, scheme), counts)


@given(
    seed=st.integers(0, 99),
    scheme=st.sampled_from(SCHEMES),
    parts=st.integers(1, 7),
    bits=st.sampled_from([0, 1, 4, 12, 13, 32, 49]),
)
@settings(deadline=None)
def test_mass_is_exact_for_any_order_and_chunks(
    seed: int, scheme: str, parts: int, bits: int
) -> None:
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-2 * BOX_SIZE, 2 * BOX_SIZE, (60, 3))
    amounts = rng.integers(0, 1 << bits, 60, endpoint=True)
    grid = assigned(positions, amounts, scheme, 5)
    assert grid.min() >= 0
    order = rng.permutation(60)
    again = assigned(positions[order], amounts[order], scheme, 5, parts=parts)
    np.testing.assert_array_equal(grid, again)


@given(seed=st.integers(0, 99), scheme=st.sampled_from(SCHEMES), n_grid=st.integers(4, 70))
@settings(deadline=None)
def test_momentum_is_exact(seed: int, scheme: str, n_grid: int) -> None:
    """Amounts of either sign: each particle's adds up, and one and its opposite cancel."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, BOX_SIZE, (200, 3))
    amounts = rng.integers(-(1 << 40), 1 << 40, 200)
    grid = assigned(positions, amounts, scheme, n_grid)
    np.testing.assert_array_equal(assigned(positions, -amounts, scheme, n_grid), -grid)
    both = assigned(np.tile(positions, (2, 1)), np.concatenate([amounts, -amounts]), scheme, n_grid)
    assert not both.any()
    expected = deposit_reference(positions, n_grid, BOX_SIZE, scheme, masses=amounts / 2.0**40)
    np.testing.assert_allclose(grid / 2.0**40, expected, rtol=0, atol=200 * 2.0**-24)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_massive_particle(scheme: str) -> None:
    """Nearly the most that one particle may have, beside a light one and ones without mass."""
    positions = particles(50, 3)
    amounts = np.zeros(50, np.int64)
    amounts[7], amounts[8] = (1 << 50) - 1, 1
    grid = assigned(positions, amounts, scheme)
    alone = deposit_reference(positions[7:8], 8, BOX_SIZE, scheme)
    np.testing.assert_allclose(grid / 2.0**50, alone, atol=1e-7)


@given(
    masses=st.lists(st.floats(0, 1e12), min_size=1, max_size=40).filter(lambda m: sum(m) > 1e-6),
)
def test_masses_become_integers_that_fit(masses: list[float]) -> None:
    numbers = np.array(masses)
    total = float(numbers.sum())
    unit = mass_unit(total, len(masses))
    assert np.log2(unit) == round(np.log2(unit)), "a power of two"
    assert 2.0**-29 < unit / (total / len(masses)) <= 2.0**-28
    amounts = quantise(numbers, unit)
    assert np.abs(amounts * unit - numbers).max() <= unit / 2
    assert int(amounts.sum()) < 1 << TOTAL_BITS


@pytest.mark.parametrize("n", [1, 2**28 - 1, 2**28, 2**31, 2**32, 2**33, 2**40])
def test_the_unit_leaves_room_for_any_number_of_particles(n: int) -> None:
    for mean in (1.0, 1.999, 1e-7, 3e9):
        unit = mass_unit(mean * n, n)
        assert mean * n / unit + n / 2 < 2.0**TOTAL_BITS
        assert unit <= mean * 2.0 ** -min(28, 60 - n.bit_length())


@pytest.mark.parametrize("total", [0.0, -1.0, np.nan, np.inf])
def test_no_unit_without_mass(total: float) -> None:
    with pytest.raises(ValueError, match="mean mass of a particle"):
        mass_unit(total, 10)


def test_bad_masses_and_too_many() -> None:
    found = bad_masses(np.array([0.0, -0.0, 1.0, -1e-300, np.nan, np.inf, -np.inf]))
    np.testing.assert_array_equal(found, [False, False, False, True, True, True, True])
    with pytest.raises(ValueError, match="more than was expected"):
        quantise(np.full(1 << 14, 2.0**49), 1.0)
    with pytest.raises(ValueError, match="too heavy beside the others"):
        quantise(np.array([1.0, 2.0**50]), 1.0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_positions_that_are_not_finite_are_counted(scheme: str) -> None:
    positions = particles(10)
    positions[3, 1] = positions[7, 0] = np.nan
    grid = assigned(positions, np.arange(10) * UNIT, scheme)
    assert int(grid.sum()) == (45 - 3 - 7) * UNIT


# ---------------------------------------------------------------- one snapshot


class Made(Snapshot):
    """Particles in memory."""

    def __init__(
        self, positions: np.ndarray, masses: np.ndarray, selected_mass: float | None = None
    ) -> None:
        header = SnapshotHeader(
            (Path("made"),), "made", BOX_SIZE, 0.0, len(positions), "Mpc/h",
            selected_mass=selected_mass,
        )  # fmt: skip
        super().__init__(header)
        self.positions, self.masses, self.passes = positions, masses, 0

    def iter_positions(self, chunk_particles: int = 100) -> Iterator[np.ndarray]:
        for begin in range(0, len(self.positions), chunk_particles):
            yield self.positions[begin : begin + chunk_particles]

    def iter_weighted(self, chunk_particles: int = 100) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.passes += 1
        for begin in range(0, len(self.positions), chunk_particles):
            rows = slice(begin, begin + chunk_particles)
            yield self.positions[rows], self.masses[rows]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("known", [True, False])
def test_a_cube_has_the_mean_of_the_counts(scheme: str, known: bool) -> None:
    positions, masses = particles(700), np.random.default_rng(2).lognormal(0, 2, 700)
    masses[::5] = 0
    snapshot = Made(positions, masses, float(masses.sum()) if known else None)
    cube, statistics = fill(snapshot, 8, scheme)
    assert snapshot.passes == (1 if known else 2)
    assert cube.sum(dtype=np.float64) == pytest.approx(700, rel=1e-7)
    expected = deposit_reference(positions, 8, BOX_SIZE, scheme, masses=masses / masses.mean())
    np.testing.assert_allclose(cube, expected, rtol=2e-7, atol=1e-5)
    assert statistics.mass == statistics.n_particles == 700
    assert abs(statistics.mass_deviation) < 1e-9
    assert statistics.particle_mass == pytest.approx(float(masses.sum()))
    assert statistics.maximum == pytest.approx(expected.max())
    assert statistics.variance == pytest.approx((expected / expected.mean()).var())


@pytest.mark.parametrize("known", [True, False])
def test_masses_that_are_wrong_are_counted(known: bool) -> None:
    masses = np.ones(500)
    masses[[3, 301]] = np.nan
    masses[77] = -1e-9
    snapshot = Made(particles(500), masses, 500.0 if known else None)
    with pytest.raises(SnapshotError, match=r"made: 3 of 500 masses are NaN, infinite or negative"):
        fill(snapshot, 4, "cic")


def test_no_mass_at_all() -> None:
    snapshot = Made(particles(9), np.zeros(9))
    with pytest.raises(SnapshotError, match=r"made: the mean mass of a particle is 0.*weight: cou"):
        fill(snapshot, 4, "ngp")


@pytest.mark.parametrize("factor", [0.999, 1 + 1e-7, 3.0, 1e30])
def test_another_mass_than_the_headers(factor: float) -> None:
    snapshot = Made(particles(300), np.full(300, factor), 300.0)
    with pytest.raises(SnapshotError, match=r"made: particles of .* were read, expected 300"):
        fill(snapshot, 4, "tsc")


def test_a_format_without_masses() -> None:
    header = Made(particles(3), np.ones(3)).header

    class Massless(Made):
        iter_weighted = Snapshot.iter_weighted

    assert header.n_particles == 3
    with pytest.raises(SnapshotError, match=r"format made gives no masses; set grid\.weight: coun"):
        fill(Massless(particles(3), np.ones(3)), 4, "ngp")


# ---------------------------------------------------------------- readers


def read_weighted(
    path: Path, types: tuple[int, ...], chunk: int = 97
) -> tuple[np.ndarray, np.ndarray, SnapshotHeader]:
    snapshot = open_snapshot(path, ReadOptions(particle_types=types))
    pieces = [(p.copy(), m.copy()) for p, m in snapshot.iter_weighted(chunk)]
    positions, masses = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    plain = np.concatenate([p.copy() for p in snapshot.iter_positions(chunk)])
    np.testing.assert_array_equal(positions, plain)
    assert masses.dtype == np.float64
    return positions, masses, snapshot.header


def weigh(path: Path, seed: int, particle_type: int = 1) -> np.ndarray:
    """Give the particles of a Gadget HDF5 file masses of their own, with the same sum."""
    with h5py.File(path, "r+") as file:
        table = file["Header"].attrs["MassTable"]
        group, each = file[f"PartType{particle_type}"], table[particle_type]
        masses = np.random.default_rng(seed).exponential(1.0, len(group["Coordinates"]))
        masses *= each * len(masses) / masses.sum()
        group["Masses"] = masses.astype("f4")
        table[particle_type] = 0
        file["Header"].attrs["MassTable"] = table
        return group["Masses"][...].astype("f8")


@pytest.mark.parametrize("n_files", [1, 3])
def test_hdf5_masses_of_table_and_particles(tmp_path: Path, n_files: int) -> None:
    by_type = {0: particles(300, 1), 1: particles(400, 2), 4: particles(50, 3)}
    parts = write_gadget_hdf5(tmp_path / "s.hdf5", by_type, n_types=6, n_files=n_files)
    with h5py.File(parts[0]) as file:
        each = float(file["Header"].attrs["MassTable"][1])
    own = {t: [weigh(part, 7 * t + i, t) for i, part in enumerate(parts)] for t in (0, 4)}
    for types in ((0,), (1,), (4,), (0, 4), ALL):
        _, masses, header = read_weighted(parts[0], types)
        expected = []
        for number, part in enumerate(parts):
            with h5py.File(part) as file:
                n_dark = len(file["PartType1/Coordinates"])
            pieces = {0: own[0][number], 1: np.full(n_dark, each), 4: own[4][number]}
            expected += [pieces[t] for t in (0, 1, 4) if t in types]
        np.testing.assert_array_equal(masses, np.concatenate(expected))
        assert header.selected_mass == pytest.approx(masses.sum(), rel=1e-12)
        if types == ALL:
            assert header.selected_mass == header.total_mass
            assert header.n_particles == 750


def test_hdf5_masses_in_units_without_h(tmp_path: Path) -> None:
    """Lengths in kpc and masses in 1e10 Msun: both lack the h, and both get it."""
    (path,) = write_gadget_hdf5(
        tmp_path / "s.hdf5", particles(200), h=0.6, length_unit="kpc", units_in="none"
    )
    with h5py.File(path, "r+") as file:
        file["Header"].attrs["MassTable"] = file["Header"].attrs["MassTable"] / 0.6
    _, masses, header = read_weighted(path, (1,))
    assert header.total_mass == pytest.approx(0.3 * 27.75366 * BOX_SIZE**3)
    assert masses.sum() == pytest.approx(header.total_mass)
    assert header.selected_mass == pytest.approx(masses.sum())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_hdf5_masses_that_are_wrong(tmp_path: Path, bad: float) -> None:
    (path,) = write_gadget_hdf5(tmp_path / "s.hdf5", particles(200))
    weigh(path, 1)
    with h5py.File(path, "r+") as file:
        file["PartType1/Masses"][[4, 9]] = bad
    with pytest.raises(
        SnapshotError, match=r"s\.hdf5: 2 of 200 masses in PartType1/Masses are NaN"
    ):
        open_snapshot(path)


def test_hdf5_without_masses(tmp_path: Path) -> None:
    (path,) = write_gadget_hdf5(tmp_path / "s.hdf5", particles(200), masses="none")
    snapshot = open_snapshot(path)
    assert (snapshot.header.selected_mass, snapshot.header.n_particles) == (None, 200)
    with pytest.raises(SnapshotError, match=r"no PartType1/Masses and MassTable is 0.*200 particl"):
        next(snapshot.iter_weighted())


def write_binary_with_masses(
    path: Path, by_type: dict[int, np.ndarray], masses: dict[int, np.ndarray], **kinds: object
) -> None:
    """Gadget-2 binary; types in ``masses`` have their own, the others one each."""
    order, dtype = kinds.get("byte_order", "<"), kinds.get("dtype", "f4")
    counts = [len(by_type.get(t, ())) for t in range(6)]
    table = [3.0 + t if counts[t] and t not in masses else 0.0 for t in range(6)]
    header = gadget2_header(
        counts=counts, masses=table, redshift=0.0, totals=counts, num_files=1,
        cosmology=(BOX_SIZE * 1e3, 0.0, 0.7, 0.7), byte_order=order,
    )  # fmt: skip
    stored = np.concatenate([by_type[t] * 1e3 for t in sorted(by_type)]).astype(f"{order}{dtype}")
    own = np.concatenate([masses[t] for t in sorted(masses)]).astype(f"{order}{dtype}")
    blocks = {"HEAD": header, "POS ": stored.tobytes(), "VEL ": bytes(stored.nbytes)}
    blocks |= {"ID  ": bytes(4 * len(stored)), "MASS": own.tobytes(), "U   ": bytes(400)}
    path.write_bytes(gadget2_records(blocks, kinds.get("snap_format", 1), order))


@pytest.mark.parametrize("snap_format", [1, 2])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_binary_masses(tmp_path: Path, snap_format: int, byte_order: str, dtype: str) -> None:
    by_type = {0: particles(100, 1), 1: particles(200, 2), 4: particles(30, 3)}
    own = {t: np.random.default_rng(t).exponential(2.0, len(by_type[t])) for t in (0, 4)}
    write_binary_with_masses(
        tmp_path / "s", by_type, own, snap_format=snap_format, byte_order=byte_order, dtype=dtype
    )
    stored = {t: m.astype(dtype).astype("f8") for t, m in own.items()} | {1: np.full(200, 4.0)}
    for types in ((0,), (1,), (4,), ALL):
        options = ReadOptions(particle_types=types, length_unit="kpc/h")
        snapshot = open_snapshot(tmp_path / "s", options)
        found = np.concatenate([m for _, m in snapshot.iter_weighted(37)])
        expected = np.concatenate([stored[t] for t in (0, 1, 4) if t in types])
        np.testing.assert_array_equal(found, expected)
        assert snapshot.header.selected_mass == (800.0 if types == (1,) else None)


def test_binary_with_a_block_of_masses_that_does_not_fit(tmp_path: Path) -> None:
    by_type = {0: particles(100, 1), 1: particles(200, 2)}
    write_binary_with_masses(tmp_path / "s", by_type, {0: np.ones(90)})
    gas = ReadOptions(particle_types=(0,), length_unit="kpc/h")
    snapshot = open_snapshot(tmp_path / "s", gas)
    assert sum(len(p) for p in snapshot.iter_positions()) == 100
    with pytest.raises(SnapshotError, match=r"\(MASS\) takes 360 bytes, expected 400 .* 100 parti"):
        next(snapshot.iter_weighted())


def test_binary_cut_in_the_masses_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_binary_with_masses(path, {0: particles(100)}, {0: np.ones(100)})
    snapshot = open_snapshot(path, ReadOptions(particle_types=(0,), length_unit="kpc/h"))
    os.truncate(path, 264 + 2 * 1208 + 408 + 4 + 100)
    with pytest.raises(SnapshotError, match="truncated"):
        list(snapshot.iter_weighted(10))


# ---------------------------------------------------------------- whole builds


@pytest.fixture
def weighted(ensemble: Path) -> Path:
    for number, path in enumerate(sorted(ensemble.glob("sims/*/*.hdf5"))):
        weigh(path, number)
    return ensemble


@pytest.mark.parametrize("scheme", ["ngp", "tsc"])
def test_every_cube_is_the_oracles(weighted: Path, cluster: ClusterChoice, scheme: str) -> None:
    recipe = write_recipe(weighted, grid__scheme=scheme, grid__weight="mass")
    result = build(recipe, cluster)
    assert result.manifest.layout.quantity == "mass"
    assert result.manifest.layout.dtype == "float32"
    compared = 0
    for universe in result.manifest.universes:
        cube = universe_cube(result.output, result.manifest, universe.id)
        for record in universe.snapshots:
            with h5py.File(weighted / record.files[0]) as file:
                positions = file["PartType1/Coordinates"][...] * np.float32(1e-3)
                masses = file["PartType1/Masses"][...].astype("f8")
            expected = deposit_reference(
                positions, 8, BOX_SIZE, scheme, masses=masses / masses.mean()
            )
            np.testing.assert_allclose(cube[..., record.channel], expected, rtol=3e-7, atol=1e-5)
            assert record.particle_mass == pytest.approx(masses.sum(), rel=1e-12)
            assert (record.mass, record.n_particles) == (512.0, 512)
            compared += 1
    assert compared == 20
    checked = verify(result.output)
    assert checked.passed, checked.faults
    data = xr.open_zarr(result.output / "train.zarr")
    assert data["density"].attrs["units"] == "mean particle masses per cell"


def test_same_bytes_for_any_workers(weighted: Path, cluster: ClusterChoice) -> None:
    digests = []
    for number, choice in enumerate([cluster, ClusterChoice(workers=1)]):
        path = write_recipe(
            weighted, f"r{number}.yaml", output__path=f"out{number}", grid__weight="mass",
            grid__scheme="cic",
        )  # fmt: skip
        output = build(path, choice).output
        digests.append({k: v for k, v in all_digests(output).items() if k != "recipe.yaml"})
    assert digests[0] == digests[1]


def test_gas_stars_and_all(tmp_path: Path, cluster: ClusterChoice) -> None:
    rows = ["id,Omega_m"]
    for number in range(3):
        rng = np.random.default_rng(number)
        by_type = {t: rng.uniform(0, BOX_SIZE, (n, 3)) for t, n in ((0, 90), (1, 200), (4, 30))}
        path = tmp_path / "sims" / f"u{number}" / "snap.hdf5"
        write_gadget_hdf5(path, by_type, n_types=6)
        for t in (0, 4):
            weigh(path, 10 * number + t, t)
        rows.append(f"u{number},0.3")
    (tmp_path / "cosmology.csv").write_text("\n".join(rows))
    shares = {}
    for word, types in (("stars", (4,)), ("all", (0, 1, 4)), (["gas", 1], (0, 1))):
        recipe = write_recipe(
            tmp_path, output__path="-".join(map(str, types)), input__particle_types=word,
            grid__redshifts=[0.0], grid__weight="mass", split__fractions={"train": 1.0},
            targets={"Omega_m": [0.1, 0.5]},
        )  # fmt: skip
        result = build(recipe, cluster)
        assert verify(result.output).passed
        shares[types] = [u.snapshots[0].particle_mass for u in result.manifest.universes]
        cube = universe_cube(result.output, result.manifest, "u1")[..., 0]
        positions, masses = [], []
        with h5py.File(tmp_path / "sims/u1/snap.hdf5") as file:
            for t in types:
                group, each = file[f"PartType{t}"], file["Header"].attrs["MassTable"][t]
                positions.append(group["Coordinates"][...] * np.float32(1e-3))
                n = len(positions[-1])
                masses.append(group["Masses"][...] if each == 0 else np.full(n, each))
        weights = np.concatenate(masses).astype("f8")
        expected = deposit_reference(
            np.concatenate(positions), 8, BOX_SIZE, "ngp", masses=weights / weights.mean()
        )
        np.testing.assert_allclose(cube, expected, rtol=3e-7, atol=1e-6)
    assert all(
        0 < a < b < c
        for a, b, c in zip(*[shares[t] for t in [(4,), (0, 1), (0, 1, 4)]], strict=True)
    )
    expected_mass = 0.3 * 27.75366 * BOX_SIZE**3
    np.testing.assert_allclose(shares[(0, 1, 4)], expected_mass, rtol=1e-6)


def test_check_refuses_what_has_no_masses(ensemble: Path, cluster: ClusterChoice) -> None:
    with h5py.File(ensemble / "sims/u004/snap_1.hdf5", "r+") as file:
        file["Header"].attrs["MassTable"] = np.zeros(2)
    recipe = write_recipe(ensemble, grid__weight="mass")
    good, refused = check_recipe(recipe, cluster)
    assert [r.id for r in refused] == ["u004"]
    assert "no PartType1/Masses" in refused[0].reason
    assert len(good) == 9


def test_verify_finds_another_mass(weighted: Path, cluster: ClusterChoice) -> None:
    from tests.test_verify import rewritten

    output = build(write_recipe(weighted, grid__weight="mass"), cluster).output

    def heavier(body: dict) -> None:
        body["universes"][2]["snapshots"][0]["mass"] += 0.01

    rewritten(output, heavier)
    fault, _ = verify(output).faults  # the ledger knows better, too
    assert "mean particle masses, expected 512.01" in fault
    assert load(output).universes[2].id in fault


# ---------------------------------------------------------------- recipes


def recipe_of(**changes: object) -> Recipe:
    return Recipe.model_validate(recipe_data(**changes))


def test_types_and_stored_type_of_recipes() -> None:
    assert recipe_of(grid__weight="mass").dtype == "float32"
    assert recipe_of().dtype == "uint16"
    assert recipe_of(input__particle_types="all").input.particle_types == ALL
    assert recipe_of(input__particle_types=["all"]).input.particle_types == ALL
    assert recipe_of(input__particle_types="stars").input.particle_types == (4,)
    assert recipe_of(input__particle_types=["gas", 1]).input.particle_types == (0, 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"output__dtype": "uint16"}, "cannot hold the fractional masses of ngp with weight: mass"),
        ({"output__format": "tfrecord"}, "use grid.weight: count, or say output.dtype: float32"),
        ({"grid__scheme": "ready"}, "weight and origin serve for nothing"),
        ({"grid__weight": "masses"}, "did you mean 'mass'"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path: Path, changes: dict, expected: str) -> None:
    path = write_recipe(tmp_path, **{"grid__weight": "mass"} | changes)
    with pytest.raises(RecipeError, match=expected):
        load_recipe(path)


# ---------------------------------------------------------------- real files


@pytest.fixture(scope="module")
def real(snapshots: Path) -> Path:
    return snapshots


def test_real_gas_and_dark_matter(real: Path) -> None:
    path = real / "gadget4_lcdm_gas/snapshot_004.hdf5"
    with h5py.File(path) as file:
        table = file["Header"].attrs["MassTable"]
        groups = {t: file[f"PartType{t}"] for t in (0, 1)}
        expected = np.concatenate(
            [
                g["Masses"][...].astype("f8") if "Masses" in g else np.full(32768, table[t])
                for t, g in groups.items()
            ]
        )
    _, masses, header = read_weighted(path, ALL, 5000)
    np.testing.assert_array_equal(masses, expected)
    assert header.selected_mass == pytest.approx(0.3 * 27.75366 * 50.0**3, rel=1e-2)
    snapshot = open_snapshot(path, ReadOptions(particle_types=ALL))
    _, statistics = fill(snapshot, 16, "pcs")
    assert abs(statistics.mass_deviation) < 1e-9


def test_real_binary_gas(real: Path) -> None:
    path = real / "gadget2_lcdm_gas_ics/lcdm_gas_bigendian.dat"
    table = np.frombuffer(path.read_bytes()[28:76], ">f8")
    options = ReadOptions(box_size=50.0, length_unit="kpc/h", particle_types=(0, 1))
    snapshot = open_snapshot(path, options)
    found = np.concatenate([m for _, m in snapshot.iter_weighted(5000)])
    np.testing.assert_array_equal(found, np.repeat(table[:2], 32768))
    assert snapshot.header.selected_mass == pytest.approx(found.sum())
