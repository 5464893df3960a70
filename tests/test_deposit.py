"""Mass assignment against a float64 oracle, conservation, symmetry, edges."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.deposit import Assigned, assign, get_scheme, scheme_names
from pipeline.deposit.oracle import deposit_reference

SCHEMES = scheme_names()
BOX_SIZE = 100.0


def whole(
    chunks: Iterable[np.ndarray],
    n_grid: int,
    scheme: str,
    origin: str = "cell",
    box: float = BOX_SIZE,
    **how: int,
) -> tuple[np.ndarray, Assigned]:
    """Grid of whole units, int64, and what was deposited."""
    grid = np.full((n_grid,) * 3, -7)
    result = assign(chunks, grid, box, get_scheme(scheme), origin=origin, **how)
    return grid, result


def assigned(
    positions: np.ndarray, n_grid: int, scheme: str, origin: str = "cell", box: float = BOX_SIZE
) -> np.ndarray:
    """Particles a cell, float64, and every particle there."""
    grid, result = whole([positions], n_grid, scheme, origin, box)
    unit = get_scheme(scheme).unit
    assert result.not_finite == 0
    assert result.n_particles == len(positions)
    assert int(grid.sum()) == result.total == len(positions) * unit
    assert int(grid.max()) == result.largest
    assert result.second == pytest.approx(float(np.square(grid / unit).sum()), rel=1e-12)
    return grid / unit


def particles(n: int = 500, seed: int = 0, dtype: str = "f4") -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, BOX_SIZE, (n, 3)).astype(dtype)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("origin", ["cell", "node"])
@pytest.mark.parametrize("n_grid", [4, 5, 16])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_agrees_with_the_oracle(scheme: str, origin: str, n_grid: int, dtype: str) -> None:
    positions = particles(dtype=dtype)
    expected = deposit_reference(positions, n_grid, BOX_SIZE, scheme, origin)
    found = assigned(positions, n_grid, scheme, origin)
    # positions keep 25 bits of a cell's fraction, cut off; windows' slopes are 1 at most
    np.testing.assert_allclose(found, expected, rtol=0, atol=len(positions) * 2.0**-24)
    assert np.sqrt(np.mean((found - expected) ** 2)) <= 1e-7 * np.sqrt(np.mean(expected**2))


def test_ngp_is_the_histogram() -> None:
    positions = particles(5000, dtype="f8")
    edges = np.linspace(0, BOX_SIZE, 17)
    expected, _ = np.histogramdd(positions, bins=(edges,) * 3)
    np.testing.assert_array_equal(assigned(positions, 16, "ngp"), expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_particle_is_its_window(scheme: str) -> None:
    """A particle on a grid point gives the window's values at whole cells."""
    grid = assigned(np.array([[50.0, 50.0, 50.0]]), 10, scheme, "node")
    expected = {"ngp": [0, 1, 0], "cic": [0, 1, 0], "tsc": [1 / 8, 3 / 4, 1 / 8]}
    line = expected.get(scheme, [1 / 6, 2 / 3, 1 / 6])
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        np.testing.assert_allclose(grid.sum(axis=others)[4:7], line, atol=1e-8)


@given(
    positions=hnp.arrays(
        np.float64, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(-1e4, 1e4)
    ),
    n_grid=st.integers(4, 9),
    scheme=st.sampled_from(SCHEMES),
    origin=st.sampled_from(["cell", "node"]),
)
@settings(deadline=None)
def test_mass_is_conserved_for_any_finite_position(
    positions: np.ndarray, n_grid: int, scheme: str, origin: str
) -> None:
    assert assigned(positions, n_grid, scheme, origin).min() >= 0


@given(
    shift=st.tuples(*[st.integers(-20, 20)] * 3),
    scheme=st.sampled_from(SCHEMES),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_moving_by_whole_cells_moves_the_grid(
    shift: tuple[int, int, int], scheme: str, seed: int
) -> None:
    # box of n_grid: moves by whole cells, several periods too, are exact in float64
    positions = np.random.default_rng(seed).integers(0, 8 << 10, (50, 3)) / 1024
    still = assigned(positions, 8, scheme, box=8.0)
    moved = assigned(positions + np.array(shift), 8, scheme, box=8.0)
    np.testing.assert_array_equal(moved, np.roll(still, shift, axis=(0, 1, 2)))


@given(
    seed=st.integers(0, 99),
    scheme=st.sampled_from(SCHEMES),
    parts=st.integers(1, 7),
    threads=st.integers(1, 3),
    n_grid=st.integers(4, 80),
    bins=st.sampled_from([1, 1 << 20]),
)
@settings(deadline=None)
def test_same_bits_for_any_order_chunks_threads_and_memory(
    seed: int, scheme: str, parts: int, threads: int, n_grid: int, bins: int
) -> None:
    rng = np.random.default_rng(seed)
    middle = rng.uniform(0, BOX_SIZE, 3)
    # a crowd that fills pages and bins of one tile, and some everywhere
    positions = np.concatenate([rng.normal(middle, 2, (3000, 3)), particles(500, seed)])
    expected, once = whole([positions], n_grid, scheme)
    shuffled = np.array_split(rng.permutation(positions), parts)
    found, again = whole(shuffled, n_grid, scheme, threads=threads, bin_bytes=bins)
    np.testing.assert_array_equal(found, expected)
    assert again == once


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n_grid", [31, 33, 64, 65, 70, 100])
def test_agrees_with_the_oracle_over_faces_of_tiles(scheme: str, n_grid: int) -> None:
    """Tiles of equal and unequal widths, and every cell at a face of one."""
    box = float(n_grid)
    near = np.random.default_rng(n_grid).integers(0, n_grid, (4000, 3))
    positions = near + np.random.default_rng(1).uniform(-1, 1, (4000, 3))
    found = assigned(positions, n_grid, scheme, box=box)
    expected = deposit_reference(positions, n_grid, box, scheme)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u4", "i8"])
def test_any_type_and_layout_of_grid(scheme: str, dtype: str) -> None:
    """A channel of a cube is strided; floats get particles, integers whole units."""
    if scheme != "ngp" and dtype in ("i4", "u4"):
        pytest.skip("units of a cloud need 64 bits")
    positions = particles(3000)
    expected, _ = whole([positions], 37, scheme)
    cube = np.full((37, 37, 37, 3), 9, dtype)
    assign([positions], cube[..., 1], BOX_SIZE, get_scheme(scheme))
    unit = get_scheme(scheme).unit if dtype[0] == "f" else 1
    np.testing.assert_array_equal(cube[..., 1], (expected / unit).astype(dtype))
    assert (cube[..., [0, 2]] == 9).all()
    plain = np.empty((37, 37, 37), dtype)
    assign([positions], plain, BOX_SIZE, get_scheme(scheme))
    np.testing.assert_array_equal(plain, cube[..., 1])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_particles_in_order_have_the_bits_of_sorted_ones(scheme: str) -> None:
    """One thread does not sort particles that follow each other in space."""
    rng = np.random.default_rng(5)
    lattice = np.stack(np.meshgrid(*[np.arange(64) * BOX_SIZE / 64] * 3, indexing="ij"), -1)
    positions = lattice.reshape(-1, 3) + rng.normal(0, 1, (64**3, 3))
    expected, sorted_ = whole([rng.permutation(positions)], 96, scheme, threads=2)
    found, direct = whole(np.array_split(positions, 5), 96, scheme, n_particles=len(positions))
    np.testing.assert_array_equal(found, expected)
    assert direct == sorted_


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["f4", "i8"])
def test_few_particles_on_a_large_grid(scheme: str, dtype: str) -> None:
    """Rows without particles are not gone through: they are 0, and the rest is right."""
    positions = particles(40, dtype="f8")
    cube = np.full((100, 100, 100), 5, dtype)
    result = assign([positions], cube, BOX_SIZE, get_scheme(scheme))
    unit = get_scheme(scheme).unit
    found = cube / (1 if dtype == "f4" else unit)
    expected = deposit_reference(positions, 100, BOX_SIZE, scheme)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert result.total == 40 * unit
    assert result.second == pytest.approx(np.square(found).sum(), rel=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_shift_moves_the_particles(scheme: str) -> None:
    positions = particles(2000, dtype="f8")
    moved = np.empty((20, 20, 20))
    assign([positions], moved, BOX_SIZE, get_scheme(scheme), shift=0.5)
    expected = deposit_reference(positions + 0.5 * BOX_SIZE / 20, 20, BOX_SIZE, scheme)
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_no_particles() -> None:
    grid, result = whole([], 40, "tsc")
    assert not grid.any()
    assert (result.n_particles, result.total, result.largest, result.second) == (0, 0, 0, 0.0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_edges(scheme: str, dtype: str) -> None:
    """At 0, at the box side, just below and above, a tiny negative: all wrapped, none lost."""
    below = np.nextafter(np.array(BOX_SIZE, dtype), np.array(0, dtype))
    tiny = np.finfo(dtype).tiny
    values = np.array([0, BOX_SIZE, below, -tiny, -1e-7, BOX_SIZE * 1.0000001, 3 * BOX_SIZE], dtype)
    positions = np.stack(np.meshgrid(values, values, values), -1).reshape(-1, 3)
    found = assigned(positions, 8, scheme)
    expected = deposit_reference(positions.astype("f8"), 8, BOX_SIZE, scheme)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_are_counted(scheme: str, bad: float) -> None:
    positions = particles(10)
    positions[3, 1] = positions[7, 0] = bad
    grid, result = whole([positions], 8, scheme)
    assert (result.n_particles, result.not_finite) == (10, 2)
    assert int(grid.sum()) == 8 * get_scheme(scheme).unit


def test_positions_are_not_changed() -> None:
    positions = particles() - 50
    before = positions.copy()
    for scheme in SCHEMES:
        assigned(positions, 8, scheme)
    np.testing.assert_array_equal(positions, before)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_float32_far_from_the_origin_keeps_its_digits(scheme: str) -> None:
    """The difference to a float64 copy of the same numbers is exactly none."""
    positions = (particles(300) + np.float32(7 * BOX_SIZE)).astype("f4")
    np.testing.assert_array_equal(
        assigned(positions, 32, scheme), assigned(positions.astype("f8"), 32, scheme)
    )
