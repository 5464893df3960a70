"""The deposit with sums in float32 in place of whole numbers: what the same bits cost.

The same bins and tiles; a cloud is added by products of float32 weights, four
cells of a row at a time, and nothing is measured but the largest cell.  The
result depends on the order of the particles, so this is not in the project.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from pipeline.deposit.assign import BIN_BYTES, _batches, bin_pages, tiling_of
from pipeline.deposit.binning import FRACTION_BITS, FRACTION_ONE
from pipeline.deposit.bins import NO_AMOUNTS, Bins
from pipeline.deposit.cells import prefetch_for_write
from pipeline.deposit.schemes import get_scheme
from pipeline.deposit.tile_kernels import ROWS_AHEAD

LANES = 4
FLOAT, INT32 = ir.FloatType(), ir.IntType(32)
FLOATS = ir.VectorType(FLOAT, LANES)


@intrinsic
def add_row(typingctx, address, amount, w0, w1, w2, w3):
    """Add ``amount`` times four weights to four neighbouring float32 cells."""
    signature = types.void(types.int64, *[types.float32] * 5)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def vector(scalars: Any) -> Any:
            made = ir.Constant(FLOATS, ir.Undefined)
            for lane, scalar in enumerate(scalars):
                made = builder.insert_element(made, scalar, ir.Constant(INT32, lane))
            return made

        pointer = builder.inttoptr(given[0], FLOATS.as_pointer())
        old = builder.load(pointer)
        old.align = 4
        added = builder.fmul(vector([given[1]] * LANES), vector(given[2:]))
        builder.store(builder.fadd(old, added), pointer).align = 4
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True)
def _weights(f, support):
    one, half, sixth = np.float32(1), np.float32(0.5), np.float32(1 / 6)
    g = one - f
    if support == 2:
        return g, f, np.float32(0), np.float32(0)
    if support == 3:
        return half * g * g, half + f * g, half * f * f, np.float32(0)
    first, last = g * g * g * sixth, f * f * f * sixth
    three = np.float32(3)
    middle = np.float32(2 / 3) - f * f + three * last
    return first, middle, one - first - middle - last, last


@njit(nogil=True)
def _add_clouds(acc, stride_x, stride_y, payload, start, n, support):
    base, scale = acc.ctypes.data, np.float32(1 / FRACTION_ONE)
    shift, part = np.uint32(FRACTION_BITS), np.uint32((1 << FRACTION_BITS) - 1)
    below = (support - 1) // 2
    for p in range(start, start + n):
        x, y, z = payload[3 * p], payload[3 * p + 1], payload[3 * p + 2]
        i, j, k = np.int64(x >> shift), np.int64(y >> shift), np.int64(z >> shift)
        u = _weights(np.float32(np.int32(x & part)) * scale, support)
        v = _weights(np.float32(np.int32(y & part)) * scale, support)
        w = _weights(np.float32(np.int32(z & part)) * scale, support)
        first = base + 4 * ((i - below) * stride_x + (j - below) * stride_y + k - below)
        for a in range(support):
            for b in range(support):
                place = first + 4 * (a * stride_x + b * stride_y)
                add_row(place, u[a] * v[b], w[0], w[1], w[2], w[3])


@njit(nogil=True)
def _cic(acc, stride_x, stride_y, payload, start, n):
    _add_clouds(acc, stride_x, stride_y, payload, start, n, 2)


@njit(nogil=True)
def _tsc(acc, stride_x, stride_y, payload, start, n):
    _add_clouds(acc, stride_x, stride_y, payload, start, n, 3)


@njit(nogil=True)
def _pcs(acc, stride_x, stride_y, payload, start, n):
    _add_clouds(acc, stride_x, stride_y, payload, start, n, 4)


@njit(nogil=True)
def _finish(tiles, run, frame, bounds, acc, out, support):
    first, start, length, payload = run
    stride_x, stride_y, margin = frame
    largest = np.float32(0)
    for tile in tiles:
        acc[:] = 0
        for s in range(first[tile], first[tile + 1]):
            if support == 2:
                _cic(acc, stride_x, stride_y, payload, start[s], length[s])
            elif support == 3:
                _tsc(acc, stride_x, stride_y, payload, start[s], length[s])
            else:
                _pcs(acc, stride_x, stride_y, payload, start[s], length[s])
        b = bounds[tile]
        for x in range(b[0], b[1]):
            for y in range(b[2], b[3]):
                place = (x - b[0] + margin) * stride_x + (y - b[2] + margin) * stride_y + margin
                row = acc[place : place + b[5] - b[4]]
                cells = out[x, y, b[4] : b[5]]
                for byte in range(0, 4 * cells.shape[0], 64):
                    prefetch_for_write(cells.ctypes.data + ROWS_AHEAD * out.strides[1] + byte)
                for k in range(row.shape[0]):
                    cells[k] = row[k]
                    largest = max(largest, row[k])
    return largest


def deposit_float(
    positions: np.ndarray, out: np.ndarray, box: float, scheme: str, threads: int
) -> None:
    """As ``deposit_ours``, with float32 sums; the particles must fit the bins."""
    chosen = get_scheme(scheme)
    tiling = tiling_of(out.shape[0], chosen, False)
    n_pages = bin_pages(tiling, False, len(positions), threads, 4 * BIN_BYTES)
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    bins = Bins(tiling, False, pool, threads, n_pages)
    offset = 0.0 if chosen.support % 2 else -0.5
    n_grid = out.shape[0]

    def no_room() -> None:
        raise MemoryError("the bins are full")

    try:
        bins.add(positions, NO_AMOUNTS, (n_grid / box, offset, n_grid), no_room)
        segments = bins.segments()
        run = (segments.first, segments.start, segments.length, segments.payload)
        frame = (*tiling.strides, tiling.margin)

        def one(tiles: np.ndarray) -> None:
            acc = np.empty(int(np.prod(tiling.padded)), np.float32)
            _finish(tiles, run, frame, tiling.bounds, acc, out, chosen.support)

        if pool is None:
            one(np.arange(tiling.n_tiles))
        else:
            list(pool.map(one, _batches(segments.particles(), threads)))
    finally:
        bins.close()
        if pool is not None:
            pool.shutdown()
