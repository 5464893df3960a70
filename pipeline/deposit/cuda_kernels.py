"""Mass assignment on a GPU: kernels of numba.cuda, a thread a particle.

They divide each particle into the same whole numbers as ``binning``,
``tile_kernels`` and ``cloud`` do on the CPU, and add them by 64-bit atomics:
whole numbers have the same sum in any order.

The compiler for GPUs makes one operation with one rounding of ``a * b + c``, and
numba has no option against it.  So products and sums that could be rounded are
written as libdevice's ``dmul_rn`` and ``dadd_rn``, which are never fused.  Names
of the windows' parts are as in ``tile_kernels``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

from numba import cuda, float64

from pipeline.deposit.binning import FRACTION_MOST, FRACTION_ONE
from pipeline.deposit.vectors import ROUNDING

SIMULATED = bool(cuda.config.ENABLE_CUDASIM)
"""Kernels run in numba's simulator, as plain Python."""

_libdevice: Any = import_module(
    "pipeline.deposit.libdevice_simulated" if SIMULATED else "numba.cuda.libdevice"
)
add, mul = _libdevice.dadd_rn, _libdevice.dmul_rn
floor, fmod = _libdevice.floor, _libdevice.fmod

NAN = math.nan
INVERSE_ONE = 1.0 / FRACTION_ONE
SIXTH, TWO_THIRDS = 1.0 / 6.0, 2.0 / 3.0


@cuda.jit(device=True)
def coordinate(x: float, scale: float, offset: float, side: float) -> float:
    """Grid coordinate in ``[-side, 2 side)``, or NaN of what is not finite."""
    t = add(mul(float64(x), scale), offset)
    if t >= -side and t < 2.0 * side:
        return t
    # exact, so that a whole number of periods changes no bit of the fraction
    return fmod(t, side) if math.isfinite(t) else NAN


@cuda.jit(device=True)
def wrapped(cell: int, n_grid: int) -> int:
    """Cell of the box, of one that is less than a box outside."""
    if cell < 0:
        return cell + n_grid
    return cell - n_grid if cell >= n_grid else cell


@cuda.jit(device=True)
def fraction(t: float) -> float:
    """How far into its cell a coordinate is, cut to ``binning.FRACTION_BITS`` bits."""
    part = int(mul(add(t, -floor(t)), FRACTION_ONE))
    return mul(float64(min(part, FRACTION_MOST)), INVERSE_ONE)


@cuda.jit(device=True)
def rounded(product: float) -> float:
    """The nearest whole number, the even one of two."""
    return add(add(product, ROUNDING), -ROUNDING)


@cuda.jit(device=True)
def share(amount: float, sums: Any, number: int) -> float:
    """What cell ``number`` of a row gets of a whole amount; ``sums`` begins with 0, ends with 1."""
    until = rounded(mul(amount, sums[number + 1]))
    return add(until, -rounded(mul(amount, sums[number])))


@cuda.jit(device=True)
def cic_sums(f: float, sums: Any) -> None:
    """Sum of the weights of the first of two cells."""
    sums[1] = add(1.0, -f)


@cuda.jit(device=True)
def tsc_sums(f: float, sums: Any) -> None:
    """Sums of the weights of the first one and two of three cells."""
    g = add(1.0, -f)
    sums[1] = mul(mul(0.5, g), g)
    sums[2] = add(1.0, -mul(mul(0.5, f), f))


@cuda.jit(device=True)
def pcs_sums(f: float, sums: Any) -> None:
    """Sums of the weights of the first one, two and three of four cells."""
    g = add(1.0, -f)
    first = mul(mul(mul(g, g), g), SIXTH)
    last = mul(mul(mul(f, f), f), SIXTH)
    sums[1] = first
    sums[2] = add(first, add(add(TWO_THIRDS, -mul(f, f)), mul(3.0, last)))
    sums[3] = add(1.0, -last)


@cuda.jit
def clear(cells: Any) -> None:
    """Set all of a flat array to 0."""
    for c in range(cuda.grid(1), cells.shape[0], cuda.gridsize(1)):
        cells[c] = 0


@cuda.jit
def add_points(
    flat: Any, amounts: Any, n: int, scale: float, offset: float, n_grid: int, grid: Any, lost: Any
) -> None:
    """Add 1, or its amount where there are amounts, to the cell of each particle.

    Parameters
    ----------
    flat : device array
        ``(3 n,)`` coordinates x, y, z of particle after particle.
    amounts : device array
        ``(n,)`` int64, or empty.
    n : int
        Particles.
    scale, offset, n_grid
        Cells a length, offset in cells, cells a side.
    grid : device array
        ``(n_grid^3,)`` uint32 or int64 sums, x slowest.
    lost : device array
        ``(1,)`` int64: takes the particles whose coordinates are not finite.
    """
    side = float64(n_grid)
    for p in range(cuda.grid(1), n, cuda.gridsize(1)):
        x = coordinate(flat[3 * p], scale, offset, side)
        y = coordinate(flat[3 * p + 1], scale, offset, side)
        z = coordinate(flat[3 * p + 2], scale, offset, side)
        if math.isnan(x) or math.isnan(y) or math.isnan(z):
            cuda.atomic.add(lost, 0, 1)
            continue
        i, j = wrapped(int(floor(x)), n_grid), wrapped(int(floor(y)), n_grid)
        cell = (i * n_grid + j) * n_grid + wrapped(int(floor(z)), n_grid)
        cuda.atomic.add(grid, cell, amounts[p] if amounts.shape[0] else 1)


def _cloud_kernel(support: int, window: Callable[[float, Any], None]) -> Any:
    """Kernel that adds clouds of ``support`` cells a side.

    ``(flat, amounts, unit, n, scale, offset, n_grid, grid, lost)`` as of
    :func:`add_points`; where there are no amounts, each particle has ``unit``.
    """
    below, length = (support - 1) // 2, support + 1

    @cuda.jit
    def add_clouds(
        flat: Any,
        amounts: Any,
        unit: float,
        n: int,
        scale: float,
        offset: float,
        n_grid: int,
        grid: Any,
        lost: Any,
    ) -> None:
        side = float64(n_grid)
        along_x = cuda.local.array(length, float64)
        along_y = cuda.local.array(length, float64)
        along_z = cuda.local.array(length, float64)
        for sums in (along_x, along_y, along_z):
            sums[0], sums[support] = 0.0, 1.0
        for p in range(cuda.grid(1), n, cuda.gridsize(1)):
            x = coordinate(flat[3 * p], scale, offset, side)
            y = coordinate(flat[3 * p + 1], scale, offset, side)
            z = coordinate(flat[3 * p + 2], scale, offset, side)
            if math.isnan(x) or math.isnan(y) or math.isnan(z):
                cuda.atomic.add(lost, 0, 1)
                continue
            window(fraction(x), along_x)
            window(fraction(y), along_y)
            window(fraction(z), along_z)
            i = wrapped(int(floor(x)), n_grid) - below
            j = wrapped(int(floor(y)), n_grid) - below
            k = wrapped(int(floor(z)), n_grid) - below
            amount = float64(amounts[p]) if amounts.shape[0] else unit
            for a in range(support):
                plane = share(amount, along_x, a)
                first_of_plane = wrapped(i + a, n_grid) * n_grid
                for b in range(support):
                    row = share(plane, along_y, b)
                    first_of_row = (first_of_plane + wrapped(j + b, n_grid)) * n_grid
                    for c in range(support):
                        whole = int(share(row, along_z, c))
                        if whole != 0:
                            cuda.atomic.add(grid, first_of_row + wrapped(k + c, n_grid), whole)

    return add_clouds


CLOUD_KERNELS = {
    support: _cloud_kernel(support, window)
    for support, window in ((2, cic_sums), (3, tsc_sums), (4, pcs_sums))
}
"""By support."""
