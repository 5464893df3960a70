"""Mass assignment against a float64 oracle, conservation, symmetry, edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.deposit import deposit, get_scheme, new_grid, scheme_names
from pipeline.deposit.oracle import deposit_reference

SCHEMES = scheme_names()
BOX_SIZE = 100.0


def assigned(
    positions: np.ndarray, n_grid: int, scheme: str, origin: str = "cell", box: float = BOX_SIZE
) -> np.ndarray:
    """Particles a cell, float64, and every particle there."""
    grid = new_grid(n_grid)
    chosen = get_scheme(scheme)
    assert deposit(positions, grid, box, chosen, origin) == 0
    assert int(grid.sum()) == len(positions) * chosen.unit
    return grid / chosen.unit


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
    # weights are integers of 2^-32: half a unit from each of the particles in a cell
    np.testing.assert_allclose(found, expected, rtol=0, atol=len(positions) * 2.0**-31)


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
        np.testing.assert_allclose(grid.sum(axis=others)[4:7], line, atol=1e-9)


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


@given(seed=st.integers(0, 99), scheme=st.sampled_from(SCHEMES), parts=st.integers(1, 7))
@settings(deadline=None)
def test_same_bits_for_any_order_and_chunks(seed: int, scheme: str, parts: int) -> None:
    positions = particles(200, seed)
    shuffled = np.random.default_rng(seed).permutation(positions)
    grid = new_grid(8)
    for chunk in np.array_split(shuffled, parts):
        deposit(chunk, grid, BOX_SIZE, get_scheme(scheme))
    whole = new_grid(8)
    deposit(positions, whole, BOX_SIZE, get_scheme(scheme))
    np.testing.assert_array_equal(grid, whole)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_edges(scheme: str, dtype: str) -> None:
    """At 0, at the box side, just below and above, a tiny negative: all wrapped, none lost."""
    below = np.nextafter(np.array(BOX_SIZE, dtype), np.array(0, dtype))
    tiny = np.finfo(dtype).tiny
    values = np.array([0, BOX_SIZE, below, -tiny, -1e-7, BOX_SIZE * 1.0000001, 3 * BOX_SIZE], dtype)
    positions = np.stack(np.meshgrid(values, values, values), -1).reshape(-1, 3)
    found = assigned(positions, 8, scheme)
    expected = deposit_reference(np.mod(positions.astype("f8"), BOX_SIZE), 8, BOX_SIZE, scheme)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_are_counted(scheme: str, bad: float) -> None:
    positions = particles(10)
    positions[3, 1] = positions[7, 0] = bad
    grid = new_grid(8)
    chosen = get_scheme(scheme)
    assert deposit(positions, grid, BOX_SIZE, chosen) == 2
    assert int(grid.sum()) == 8 * chosen.unit


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
