"""Sorting particles into tiles in one pass: numba kernels.

Each tile has a chain of pages; a particle is appended to the last page of its
tile as a few bytes that say where in the tile it is.  Nothing is counted
beforehand, so chunks may come from a file.

Positions become grid coordinates ``t = x * cells_per_length + offset`` in
float64.  A count keeps the cell ``floor(t)``, exactly.  A cloud keeps ``t``,
from its tile's margin on, in fixed point with :data:`FRACTION_BITS` bits after
the point, cut off: 3e-8 of a cell.  Coordinates up to one box below 0 and one
box above the end find their tile in a table that repeats; others are wrapped
one by one.

The code is written for the compiler: loops that become vector instructions
(they count in int32, anything wider keeps them scalar), and unsigned indices,
which need no test for being negative.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.deposit.cells import prefetch_for_write
from pipeline.deposit.tiles import GHOSTS

FRACTION_BITS = 25
"""Tiles and their margins are narrower than 2^7 cells: 32 bits in all."""

FRACTION_ONE = float(1 << FRACTION_BITS)
FRACTION_MOST = (1 << FRACTION_BITS) - 1

BLOCK = 512
"""Particles whose coordinates are computed together: they stay in the first cache."""

LINE = 64
"""Bytes of a cache line; the next one of a page is asked for early."""

COPIES = 8
"""Most tiles that a cloud touches."""

NEXT_PAGE, END_PAGE, NOT_FINITE = 0, 1, 2
"""Places in the state of a bin."""

NOWHERE = 1 << 31
"""Cell of a coordinate that is not finite."""

Placing = tuple[float, float, int]
"""Cells a length, offset in cells, cells a side of the grid."""


@njit(nogil=True, cache=True)
def _cells(source: np.ndarray, cells: np.ndarray, placing: Placing) -> bool:
    """Cells of coordinates, plus ``n_grid`` (they are none below 0); whether any is ``NOWHERE``."""
    scale, offset, n_grid = placing
    low, high = -np.float64(n_grid), 2 * np.float64(n_grid)
    near, n = np.int32(0), np.int32(n_grid)
    for e in range(source.shape[0]):
        t = np.float64(source[e]) * scale + offset
        cells[e] = np.int32(np.int32(np.floor(t)) + n)
        near = np.int32(near + np.int32(np.int32(1) if (t >= low) & (t < high) else np.int32(0)))
    if near == source.shape[0]:
        return False
    return _far_cells(source, cells, placing)


@njit(nogil=True, cache=True)
def _far_cells(source: np.ndarray, cells: np.ndarray, placing: Placing) -> bool:
    """:func:`_cells` of coordinates anywhere."""
    scale, offset, n_grid = placing
    nowhere = False
    for e in range(source.shape[0]):
        t = np.float64(source[e]) * scale + offset
        if np.isfinite(t):
            # exact, so that a particle has its cell whatever its neighbours in the block are
            t = np.fmod(t, np.float64(n_grid))
            cells[e] = np.int32(np.floor(t)) + n_grid
        else:
            cells[e] = NOWHERE
            nowhere = True
    return nowhere


@njit(nogil=True, cache=True)
def cells_and_parts(
    source: np.ndarray, cells: np.ndarray, parts: np.ndarray, placing: Placing
) -> bool:
    """:func:`_cells`, and how far into the cell in units of ``2^-FRACTION_BITS``."""
    scale, offset, n_grid = placing
    low, high = -np.float64(n_grid), 2 * np.float64(n_grid)
    most = np.int32(FRACTION_MOST)
    near, n = np.int32(0), np.int32(n_grid)
    for e in range(source.shape[0]):
        t = np.float64(source[e]) * scale + offset
        whole = np.floor(t)
        cells[e] = np.int32(np.int32(whole) + n)
        # a tiny negative t is a whole cell above -1 in float64
        part = np.int32((t - whole) * FRACTION_ONE)
        parts[e] = part if part < most else most
        near = np.int32(near + np.int32(np.int32(1) if (t >= low) & (t < high) else np.int32(0)))
    if near == source.shape[0]:
        return False
    return _far_cells_and_parts(source, cells, parts, placing)


@njit(nogil=True, cache=True)
def _far_cells_and_parts(
    source: np.ndarray, cells: np.ndarray, parts: np.ndarray, placing: Placing
) -> bool:
    """:func:`cells_and_parts` of coordinates anywhere."""
    scale, offset, n_grid = placing
    nowhere = False
    for e in range(source.shape[0]):
        t = np.float64(source[e]) * scale + offset
        if np.isfinite(t):
            # exact, so that a particle has its cell whatever its neighbours in the block are
            t = np.fmod(t, np.float64(n_grid))
            cells[e] = np.int32(np.floor(t)) + n_grid
            parts[e] = min(np.int32((t - np.floor(t)) * FRACTION_ONE), np.int32(FRACTION_MOST))
        else:
            cells[e] = NOWHERE
            nowhere = True
    return nowhere


@njit(nogil=True, cache=True)
def bin_counts(
    flat: np.ndarray,
    first_row: int,
    placing: Placing,
    tables: tuple[np.ndarray, np.ndarray, np.ndarray],
    pages: tuple[np.ndarray, np.ndarray, np.ndarray],
    page_size: int,
    state: np.ndarray,
) -> int:
    """Append particles to the pages of their tiles, as uint16 cells of the tile.

    Parameters
    ----------
    flat : numpy.ndarray
        ``(3 n,)`` coordinates x, y, z of particle after particle.
    first_row : int
        Particle to begin with.
    placing : tuple
        Cells a length, offset in cells, cells a side.
    tables : tuple of numpy.ndarray
        ``Tiling.main`` of x, y and z.
    pages : tuple of numpy.ndarray
        Payload, uint16; next slot of each tile, uint64; tile of each page, int32.
    page_size : int
        Particles a page, a power of two.
    state : numpy.ndarray
        Next free page, end of the pages, particles left out as not finite.

    Returns
    -------
    int
        Particle before which the pages were full, or the number of particles.
    """
    payload, cursor, page_tile = pages
    main_x, main_y, main_z = tables
    n_rows = flat.shape[0] // 3
    cells = np.empty(3 * BLOCK, np.uint32)
    mask, one = np.uint64(page_size - 1), np.uint64(1)
    next_page = np.uint64(state[NEXT_PAGE])
    last_start = state[END_PAGE] - most_pages(cursor.shape[0], BLOCK, page_size)
    # the tile of the last particle keeps its slot here: memory is slower
    here = np.uint64(0)
    slot = cursor[here]
    reached = n_rows
    for begin in range(first_row, n_rows, BLOCK):
        if np.int64(next_page) > last_start:
            reached = begin
            break
        n = min(BLOCK, n_rows - begin)
        nowhere = _cells(flat[3 * begin : 3 * (begin + n)], cells, placing)
        for p in range(n):
            i, j, k = cells[3 * p], cells[3 * p + 1], cells[3 * p + 2]
            if nowhere and NOWHERE in (i, j, k):
                state[NOT_FINITE] += 1
                continue
            key = main_x[i] + main_y[j] + main_z[k]
            tile = np.uint64(key >> 32)
            if tile != here:
                cursor[here] = slot
                here = tile
                slot = cursor[here]
            if slot & mask == 0:
                slot = next_page * np.uint64(page_size)
                page_tile[next_page] = here
                next_page += one
            payload[slot] = np.uint16(key)
            slot += one
    cursor[here] = slot
    state[NEXT_PAGE] = next_page
    return reached


@njit(nogil=True, cache=True)
def bin_clouds(
    flat: np.ndarray,
    amounts: np.ndarray,
    first_row: int,
    placing: Placing,
    tables: tuple[np.ndarray, ...],
    pages: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    page_size: int,
    state: np.ndarray,
) -> int:
    """Append particles to the pages of all tiles that their clouds touch.

    As :func:`bin_counts`, but ``tables`` are ``Tiling.main`` and ``Tiling.ghost``
    of x, y and z, the payload is three uint32 a particle, and the last of
    ``pages`` takes the int64 amount of each particle (``amounts`` is empty
    where they have none).
    """
    payload, cursor, page_tile, page_amounts = pages
    payload_address = payload.ctypes.data
    main_x, main_y, main_z = tables[0], tables[1], tables[2]
    weighted = amounts.shape[0] > 0
    n_rows = flat.shape[0] // 3
    cells, parts = np.empty(3 * BLOCK, np.uint32), np.empty(3 * BLOCK, np.int32)
    over = np.empty(BLOCK + 1, np.int64)
    mask, one, three = np.uint64(page_size - 1), np.uint64(1), np.uint64(3)
    next_page = np.uint64(state[NEXT_PAGE])
    last_start = state[END_PAGE] - most_pages(cursor.shape[0], COPIES * BLOCK, page_size)
    here = np.uint64(0)
    slot = cursor[here]
    reached = n_rows
    for begin in range(first_row, n_rows, BLOCK):
        if np.int64(next_page) > last_start:
            reached = begin
            break
        n = min(BLOCK, n_rows - begin)
        nowhere = cells_and_parts(flat[3 * begin : 3 * (begin + n)], cells, parts, placing)
        n_over = 0
        for p in range(n):
            i, j, k = cells[3 * p], cells[3 * p + 1], cells[3 * p + 2]
            if nowhere and NOWHERE in (i, j, k):
                state[NOT_FINITE] += 1
                continue
            kx, ky, kz = main_x[i], main_y[j], main_z[k]
            # noted now and copied below: whether a cloud reaches over a face is hard to guess
            over[n_over] = p
            n_over += ((kx | ky | kz) & GHOSTS) != 0
            tile = np.uint64((kx + ky + kz) >> 32)
            if tile != here:
                cursor[here] = slot
                here = tile
                slot = cursor[here]
            if slot & mask == 0:
                slot = next_page * np.uint64(page_size)
                page_tile[next_page] = here
                next_page += one
            word = three * slot
            prefetch_for_write(payload_address + np.int64(word) * 4 + LINE)
            payload[word] = np.uint32((kx << FRACTION_BITS) + parts[3 * p])
            payload[word + one] = np.uint32((ky << FRACTION_BITS) + parts[3 * p + 1])
            payload[word + one + one] = np.uint32((kz << FRACTION_BITS) + parts[3 * p + 2])
            if weighted:
                page_amounts[slot] = amounts[begin + p]
            slot += one
        cursor[here] = slot
        next_page = _append_ghosts(
            over[:n_over], cells, parts, amounts, begin, tables, pages, page_size, next_page
        )
        slot = cursor[here]
    cursor[here] = slot
    state[NEXT_PAGE] = next_page
    return reached


@njit(nogil=True, cache=True)
def most_pages(n_tiles: int, appended: int, page_size: int) -> int:
    """Most pages that are begun when so many places are taken."""
    return min(appended, n_tiles + appended // page_size + 1)


@njit(nogil=True, cache=True)
def _append_ghosts(
    over: np.ndarray,
    cells: np.ndarray,
    parts: np.ndarray,
    amounts: np.ndarray,
    begin: int,
    tables: tuple[np.ndarray, ...],
    pages: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    page_size: int,
    next_page: np.uint64,
) -> np.uint64:
    """Append the clouds ``over`` of a block to the tiles that they touch besides their own."""
    payload, cursor, page_tile, page_amounts = pages
    main_x, main_y, main_z, ghost_x, ghost_y, ghost_z = tables
    payload_address, weighted = payload.ctypes.data, amounts.shape[0] > 0
    mask, one, three = np.uint64(page_size - 1), np.uint64(1), np.uint64(3)
    for p in over:
        i, j, k = cells[3 * p], cells[3 * p + 1], cells[3 * p + 2]
        for which in range(1, COPIES):
            kx = ghost_x[i] if which & 1 else main_x[i]
            ky = ghost_y[j] if which & 2 else main_y[j]
            kz = ghost_z[k] if which & 4 else main_z[k]
            if (kx | ky | kz) < 0:
                continue
            tile = np.uint64((kx + ky + kz) >> 32)
            slot = cursor[tile]
            if slot & mask == 0:
                slot = next_page * np.uint64(page_size)
                page_tile[next_page] = tile
                next_page += one
            word = three * slot
            prefetch_for_write(payload_address + np.int64(word) * 4 + LINE)
            payload[word] = np.uint32((kx << FRACTION_BITS) + parts[3 * p])
            payload[word + one] = np.uint32((ky << FRACTION_BITS) + parts[3 * p + 1])
            payload[word + one + one] = np.uint32((kz << FRACTION_BITS) + parts[3 * p + 2])
            if weighted:
                page_amounts[slot] = amounts[begin + p]
            cursor[tile] = slot + one
    return next_page
