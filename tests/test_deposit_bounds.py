"""Kernels stay inside their arrays: numba's bounds checks, and guards around what is by address.

Compiled code with checks has a cache of its own, as numba's cache does not tell it from other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.deposit import Deposit, bins, direct, get_scheme, scheme_names

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SCHEMES = scheme_names()
GUARD = 512
"""Elements on each side: more than a vector."""

SENTINEL = 0x5A


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("checked")
    return os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(cache)}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )


OUTSIDE = """
import numpy as np
from pipeline.deposit.tile_kernels import add_counts
try:
    add_counts(np.zeros(4, np.uint32), np.array([4], np.uint16), 0, 1)
except IndexError as error:
    print("refused:", error)
"""


def test_the_checks_are_on(checked: dict[str, str]) -> None:
    assert "refused: index" in run(checked, "-c", OUTSIDE).stdout


def test_the_properties_hold_with_bounds_checked(checked: dict[str, str]) -> None:
    """Those of ``test_deposit``, for one type of positions: each is compiled for some seconds."""
    names = "conserved or moving_by or same_bits or over_faces or ((edges or few_particles) and f8)"
    chosen = ["-k", names, "--noconftest"]
    quiet = ["-q", "-x", "-p", "no:cacheprovider"]
    done = run(checked, "-m", "pytest", "tests/test_deposit.py", *chosen, *quiet)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def guarded(n: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """An array with guards on both sides, and what is between them."""
    whole = np.full((n + 2 * GUARD) * np.dtype(dtype).itemsize, SENTINEL, np.uint8).view(dtype)
    return whole, whole[GUARD:-GUARD]


def assert_untouched(whole: np.ndarray) -> None:
    sides = np.concatenate([whole[:GUARD], whole[-GUARD:]]).view(np.uint8)
    assert (sides == SENTINEL).all()


@pytest.fixture(autouse=True)
def guarded_buffers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the buffers of bins and of sums that were made, between guards that held."""
    sizes: list[int] = []

    @contextmanager
    def borrowed(n_bytes: int) -> Iterator[np.ndarray]:
        whole, inner = guarded(n_bytes, np.uint8)
        yield inner
        assert_untouched(whole)
        sizes.append(n_bytes)

    for module in (bins, direct):
        monkeypatch.setattr(module, "borrowed", borrowed)
    return sizes


class GuardedDeposit(Deposit):
    """A deposit whose scratch lies between guards."""

    @contextmanager
    def running(self) -> Iterator[None]:
        self.scratches: list[np.ndarray] = []
        with super().running():
            yield

    def _new_scratch(self) -> np.ndarray:
        plain = super()._new_scratch()
        whole, inner = guarded(len(plain), plain.dtype.type)
        self.scratches.append(whole)
        return inner


def crowded_at_faces(n_grid: int, seed: int) -> np.ndarray:
    """Particles in all cells at the faces of the box and of tiles, and some far outside."""
    rng = np.random.default_rng(seed)
    corners = rng.choice([0, 1, 31, 32, 33, 63, 64, n_grid - 1, n_grid], (1500, 3)) % (n_grid + 1)
    outside = rng.uniform(-5 * n_grid, 5 * n_grid, (300, 3))
    return np.concatenate([corners + rng.uniform(-1, 1, corners.shape), outside])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n_grid", [4, 5, 7, 33, 65])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("bin_bytes", [1, 1 << 20])
def test_nothing_is_written_beside_scratch_and_grid(
    scheme: str, n_grid: int, dtype: type, bin_bytes: int, guarded_buffers: list[int]
) -> None:
    whole, flat = guarded(n_grid**3, dtype)
    grid = flat.reshape((n_grid,) * 3)
    deposit = GuardedDeposit(
        n_grid, float(n_grid), get_scheme(scheme), threads=2, bin_bytes=bin_bytes
    )
    with deposit.running():
        for seed in range(2):
            deposit.add(crowded_at_faces(n_grid, seed))
        result = deposit.write(grid)
    assert result.total == 3600 * get_scheme(scheme).unit
    assert len(deposit.scratches) == 2
    assert guarded_buffers
    for scratch in deposit.scratches:
        assert_untouched(scratch)
    assert_untouched(whole)
    found = float(grid.sum(dtype=np.float64 if dtype is np.float32 else None))
    assert found == pytest.approx(3600 * (1 if dtype is np.float32 else get_scheme(scheme).unit))


@pytest.mark.parametrize("scheme", SCHEMES[1:])
@pytest.mark.parametrize("n_grid", [4, 33])
def test_nothing_is_written_beside_the_sums_of_one_thread(
    scheme: str, n_grid: int, guarded_buffers: list[int]
) -> None:
    """Particles in order go straight to a grid with margins."""
    cells = np.indices((n_grid,) * 3).reshape(3, -1).T
    positions = cells + np.random.default_rng(0).uniform(-1, 1, cells.shape)
    whole, flat = guarded(n_grid**3, np.float32)
    deposit = GuardedDeposit(n_grid, float(n_grid), get_scheme(scheme))
    with deposit.running():
        deposit.add(positions)
        result = deposit.write(flat.reshape((n_grid,) * 3))
    assert result.total == len(positions) * get_scheme(scheme).unit
    assert direct.bytes_needed(deposit.tiling) in guarded_buffers
    assert_untouched(whole)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n_grid", [6, 35])
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_is_written_between_the_rows_of_a_view(
    scheme: str, n_grid: int, weighted: bool
) -> None:
    """The middle of a larger array: what lies between its rows and planes stays."""
    around = np.full((n_grid + 4,) * 3, -7.0, np.float32)
    middle = around[2:-2, 2:-2, 2:-2]
    deposit = GuardedDeposit(n_grid, float(n_grid), get_scheme(scheme), weighted=weighted)
    positions = crowded_at_faces(n_grid, 0)
    amounts = np.full(len(positions), 1000 if weighted else 0)
    with deposit.running():
        deposit.add(positions, *([amounts] if weighted else []))
        deposit.write(middle, 1000.0 if weighted else None)
    assert middle.sum(dtype=np.float64) == pytest.approx(1800)
    assert middle.min() >= 0
    middle[...] = -7.0
    assert (around == -7.0).all()
    assert_untouched(deposit.scratches[0])


FAR = """
import numpy as np
from pipeline.deposit import assign, get_scheme, scheme_names
rng = np.random.default_rng(0)
for scheme in scheme_names():
    for exponent in (12, 19, 22, 100, 300):
        positions = rng.uniform(-1, 1, (1000, 3)) * 10.0**exponent
        grid = np.empty((100, 100, 100), np.int64)
        total = assign([positions], grid, 77.0, get_scheme(scheme)).total
        assert total == grid.sum() == 1000 * get_scheme(scheme).unit
print("all deposited")
"""


def test_positions_as_far_as_floats_go() -> None:
    assert run(dict(os.environ), "-c", FAR).stdout.split() == ["all", "deposited"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_far_particle_changes_no_bit_of_the_others(scheme: str) -> None:
    # grid coordinates of a tiny negative: a whole cell up, they would be rounded to 0
    origin = "cell" if get_scheme(scheme).support % 2 else "node"
    near, far = np.array([[-1e-30, 50.0, 50.0]]), np.array([[350.0, 50.0, 50.0]])
    grids = []
    for chunks in ([near, far], [np.concatenate([near, far])]):
        grid = np.empty((8, 8, 8), np.int64)
        deposit = Deposit(8, 100.0, get_scheme(scheme), origin=origin)
        with deposit.running():
            for chunk in chunks:
                deposit.add(chunk)
            deposit.write(grid)
        grids.append(grid)
    np.testing.assert_array_equal(*grids)
