"""Checks of the CUDA backend, run by ``test_deposit_cuda`` in numba's simulator.

The simulator runs each thread of the GPU as one of Python: few particles and cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import cuda

from pipeline.deposit import Assigned, assign, get_scheme, scheme_names
from pipeline.deposit import cuda as backend
from pipeline.deposit.assign import Chunk
from pipeline.deposit.cuda_kernels import SIMULATED
from pipeline.errors import BuildError

SCHEMES = scheme_names()
BOX_SIZE = 100.0


@pytest.fixture(autouse=True)
def _simulated() -> None:
    assert SIMULATED


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """A chunk is sent as several pieces, the last of them not full."""
    monkeypatch.setattr(backend, "PIECE", 16)
    return 16


def both(
    chunks: Iterable[Chunk], scheme: str, n_grid: int, dtype: str = "f8", **how: object
) -> tuple[np.ndarray, Assigned]:
    """The CUDA backend's grid and result, the same bits as the CPU's."""
    chunks, found = list(chunks), []
    for name in ("cpu", "cuda"):
        cube = np.full((n_grid,) * 3, 7, dtype)
        result = assign(chunks, cube, BOX_SIZE, get_scheme(scheme), backend=name, **how)
        found.append((cube, result))
    (expected, told), (cube, result) = found
    assert cube.tobytes() == expected.tobytes()
    assert result == told
    return cube, result


def crowd(n: int, seed: int = 0, dtype: str = "f4") -> np.ndarray:
    """Half of them near one corner, several in one cell, some a period outside."""
    rng = np.random.default_rng(seed)
    near = rng.normal(BOX_SIZE, 3, (n // 2, 3))
    return np.concatenate([near, rng.uniform(-50, 150, (n - n // 2, 3))]).astype(dtype)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("origin", ["cell", "node"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_same_bits(scheme: str, origin: str, dtype: str) -> None:
    cube, result = both([crowd(60, dtype=dtype)], scheme, 9, origin=origin, shift=0.25)
    assert (result.n_particles, result.not_finite) == (60, 0)
    assert result.total == 60 * get_scheme(scheme).unit
    assert cube.sum() == pytest.approx(60)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_over_faces_of_tiles_and_in_pieces(scheme: str, small_pieces: int) -> None:
    """Tiles of unequal widths, 2 a side; the sum of squares keeps the CPU's order."""
    cube, result = both([crowd(3 * small_pieces + 5)], scheme, 67, threads=2)
    assert result.second == pytest.approx(float(np.square(cube).sum()))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_amounts_of_both_signs(scheme: str, small_pieces: int) -> None:
    rng = np.random.default_rng(3)
    amounts = rng.integers(-(2**49), 2**49, 50)
    amounts[0] = 0
    chunks = [(crowd(50)[a : a + 30], amounts[a : a + 30]) for a in (0, 30)]
    cube, result = both(chunks, scheme, 6, weighted=True, unit=3.0)
    assert result.total == int(amounts.sum())
    assert cube.min() < 0 < cube.max()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["f4", "u4", "u8", "i8"])
def test_types_of_grid(scheme: str, dtype: str) -> None:
    if scheme != "ngp" and dtype == "u4":
        pytest.skip("units of a cloud need 64 bits")
    cube, _ = both([crowd(40)], scheme, 6, dtype=dtype)
    assert int(cube.sum()) == pytest.approx(40 * (1 if dtype == "f4" else get_scheme(scheme).unit))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_channel_of_a_cube(scheme: str) -> None:
    cubes = np.full((2, 6, 6, 6, 3), 9.0, "f4")
    for cube, name in zip(cubes, ("cpu", "cuda"), strict=True):
        assign([crowd(40)], cube[..., 1], BOX_SIZE, get_scheme(scheme), backend=name)
    np.testing.assert_array_equal(*cubes)
    assert (cubes[1][..., [0, 2]] == 9).all()
    assert cubes[1][..., 1].sum() == pytest.approx(40)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_edges(scheme: str, dtype: str) -> None:
    """0, the box side and what is next to them, of either sign."""
    below = np.nextafter(np.array(BOX_SIZE, dtype), np.array(0, dtype))
    tiny = np.finfo(dtype).tiny
    values = np.array([0, BOX_SIZE, below, -tiny, -1e-7, BOX_SIZE * 1.0000001], dtype)
    positions = np.stack(np.meshgrid(values, values[:3], values[3:]), -1).reshape(-1, 3)
    _, result = both([positions], scheme, 8)
    assert result.total == len(positions) * get_scheme(scheme).unit


@pytest.mark.parametrize("scheme", SCHEMES)
def test_several_periods_outside(scheme: str) -> None:
    positions = crowd(40, dtype="f8") + np.random.default_rng(0).integers(-9, 10, (40, 3)) * 100.0
    both([positions], scheme, 8)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(scheme: str, bad: float) -> None:
    positions = crowd(12)
    positions[3, 1] = positions[7, 0] = bad
    _, result = both([positions], scheme, 6)
    assert (result.n_particles, result.not_finite) == (12, 2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_chunks_that_are_no_plain_arrays(scheme: str) -> None:
    """Views, another byte order, a type that changes, no particles, a buffer used again."""
    reused = np.empty((5, 3), "f4")

    def chunks() -> Iterable[np.ndarray]:
        yield crowd(20)[::2]
        yield crowd(4).astype(">f8")
        yield np.empty((0, 3), "f4")
        for seed in range(3):
            reused[...] = crowd(5, seed)
            yield reused

    plain = [crowd(20)[::2], crowd(4).astype("f8"), *(crowd(5, seed) for seed in range(3))]
    grids = np.empty((2, 6, 6, 6))
    for grid, given_, name in zip(grids, (plain, chunks()), ("cpu", "cuda"), strict=True):
        assign(given_, grid, BOX_SIZE, get_scheme(scheme), backend=name)
    np.testing.assert_array_equal(*grids)
    assert grids[1].sum() == pytest.approx(29)


@given(
    seed=st.integers(0, 99),
    scheme=st.sampled_from(SCHEMES),
    n_grid=st.integers(4, 12),
    origin=st.sampled_from(["cell", "node"]),
    weighted=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_same_bits_for_any_of_all(
    seed: int, scheme: str, n_grid: int, origin: str, weighted: bool
) -> None:
    rng = np.random.default_rng(seed)
    positions = crowd(25, seed, rng.choice(["f4", "f8"]))
    amounts = rng.integers(-(2**50) + 1, 2**50, 25)
    chunk = (positions, amounts) if weighted else positions
    both([chunk], scheme, n_grid, origin=origin, weighted=weighted)


def test_no_particles() -> None:
    cube, result = both([], "tsc", 6)
    assert not cube.any()
    assert (result.total, result.largest, result.second) == (0, 0, 0.0)


def test_a_grid_that_does_not_fit_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    context = type(cuda.current_context())
    monkeypatch.setattr(context, "get_memory_info", lambda self: (1 << 30, 1 << 31))
    cube = np.empty((6, 6, 6))
    assign([crowd(10)], cube, BOX_SIZE, get_scheme("cic"), backend="cuda")
    large = np.lib.stride_tricks.as_strided(np.zeros(1, "f4"), (512,) * 3, (0, 0, 0))
    with pytest.raises(BuildError, match=r"512\^3 cells needs 1\.\d\d GiB.*0\.95 GiB are free"):
        assign([], large, BOX_SIZE, get_scheme("cic"), backend="cuda")


def test_positions_as_far_as_floats_go() -> None:
    """Whole periods are taken off exactly, whoever comes in the same chunk."""
    positions = np.random.default_rng(0).uniform(-1, 1, (30, 3))
    positions *= 10.0 ** np.repeat([1, 12, 100], 10)[:, None]
    positions[:2] = [-1e-30, 5.0, 5.0], [1e-30, 5.0, 5.0]
    grid, expected = np.empty((2, 10, 10, 10), np.uint32)
    expected[...] = 0
    for position in positions:
        cells = [math.floor(math.fmod(float(x) * (10 / BOX_SIZE), 10.0)) % 10 for x in position]
        expected[tuple(cells)] += 1
    assign([positions], grid, BOX_SIZE, get_scheme("ngp"), backend="cuda")
    np.testing.assert_array_equal(grid, expected)
    assert expected[9, 0, 0] >= 1
