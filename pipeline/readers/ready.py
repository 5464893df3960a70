"""What the readers of ready grids have in common: the header, and blocks of bounded size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.errors import SnapshotError
from pipeline.snapshot import DARK_MATTER, Place, ReadOptions, ReadyGrid, SnapshotHeader

BLOCK_BYTES = 8 << 20
"""Of the file, in one block; storage chunks are not cut, so that none is decoded twice."""

MAX_GRID = 8192
"""Cells a side, as in a recipe."""

_UNIT = "Mpc/h"
_RANGES = {"Omega_m": (1e-3, 10.0), "h": (0.01, 10.0)}


def grid_header(
    path: Path,
    format: str,
    grid: ReadyGrid,
    options: ReadOptions,
    *,
    box_size: float | None,
    redshift: float,
    parameters: Mapping[str, float] | None = None,
) -> SnapshotHeader:
    """Header of a grid of one file, with the recipe's overrides.

    Parameters
    ----------
    path : Path
        The file.
    format : str
        Name of the reader.
    grid : ReadyGrid
        What is known of the grid.
    options : ReadOptions
        Overrides.
    box_size : float or None
        Side of the box in Mpc/h, if the file tells.
    redshift : float
        As the file has it.
    parameters : mapping, optional
        Cosmological parameters that the file records, by name.

    Raises
    ------
    SnapshotError
        If the grid is of no plausible size, a parameter is not, or the recipe
        asks for another unit of length.
    """
    known = dict(parameters or {})
    if not 1 <= grid.n_grid <= MAX_GRID:
        raise SnapshotError(f"{path}: {grid.n_grid} cells a side, expected 1 to {MAX_GRID}")
    if options.length_unit not in (None, _UNIT):
        raise SnapshotError(
            f"{path}: input.length_unit is {options.length_unit}, but boxes of {format} are in "
            f"{_UNIT}; drop it from the recipe"
        )
    return SnapshotHeader(
        files=(path,),
        format=format,
        # 0 is refused with what to do, unless the file is opened to compare it with the recipe
        box_size=options.box_size or box_size or 0.0,
        redshift=redshift if options.redshift is None else options.redshift,
        n_particles=0,
        length_unit=_UNIT,
        Omega_m=_recorded(path, "Omega_m", known, options.Omega_m),
        h=_recorded(path, "h", known, options.h),
        grid=grid,
        parameters=tuple(sorted(known.items())),
    )


def _recorded(
    path: Path, name: str, known: Mapping[str, float], override: float | None
) -> float | None:
    value = known.get(name) if override is None else override
    low, high = _RANGES[name]
    if value is not None and not low <= value <= high:
        raise SnapshotError(
            f"{path}: {name} is {value:g}, expected {low:g} to {high:g}; the file is damaged, or "
            f"give input.{name} in the recipe"
        )
    return value


def check_matter(path: Path, options: ReadOptions) -> None:
    """Refuse particle types other than dark matter, of a file that holds matter as one grid.

    Raises
    ------
    SnapshotError
        If the recipe asks for others only.
    """
    if DARK_MATTER not in options.particle_types:
        raise SnapshotError(
            f"{path}: holds the matter in one grid, but input.particle_types are "
            f"{list(options.particle_types)}; drop them from the recipe"
        )


def block_places(n_grid: int, chunks: Sequence[int] | None, cell_bytes: int) -> Iterator[Place]:
    """Blocks of about :data:`BLOCK_BYTES` that cover a grid, in whole storage chunks.

    Parameters
    ----------
    n_grid : int
        Cells a side.
    chunks : sequence of int or None
        Shape of the storage chunks along x, y, z; None: the grid is stored in one piece.
    cell_bytes : int
        Bytes of a cell with all that is stored beside it.
    """
    steps = [min(step, n_grid) for step in chunks] if chunks is not None else [1, 1, 1]
    for axis in (2, 1, 0):
        room = BLOCK_BYTES // (math.prod(steps) * cell_bytes)
        steps[axis] = min(n_grid, steps[axis] * max(1, room))
    ranges = [
        [slice(first, min(first + step, n_grid)) for first in range(0, n_grid, step)]
        for step in steps
    ]
    yield from itertools.product(ranges[0], ranges[1], ranges[2])
