"""Whether positions fit the box size that the recipe gives in place of the file's.

A box that the file itself records is in the unit of its positions.  One that
the recipe gives is not, and wrapping would hide a unit that is wrong: positions
of 50000 kpc/h taken for Mpc/h all end up inside a box of 50 Mpc/h.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.snapshot import ReadOptions, Snapshot

_SAMPLE_PARTICLES = 4096
_FEW_PARTICLES = 64
_NEAREST, _FARTHEST = 0.002, 10.0
"""Reach of a sample in units of the box; a slip between kpc and Mpc is a factor of 1000."""


def check_reach(snapshot: Snapshot, options: ReadOptions) -> None:
    """Compare the first particles with the recipe's box size, if it gives one.

    Raises
    ------
    SnapshotError
        If they reach far beyond the box or are all in one corner of it.
    """
    box_size = options.box_size
    sample = next(snapshot.iter_positions(_SAMPLE_PARTICLES), None) if box_size else None
    if box_size is None or sample is None:
        return
    finite = sample[np.isfinite(sample).all(axis=1)]
    if len(finite) < _FEW_PARTICLES:
        return
    reach = float(np.abs(finite).max())
    if not _NEAREST <= reach / box_size <= _FARTHEST:
        header = snapshot.header
        raise SnapshotError(
            f"{header.name}: read in {header.length_unit}, positions reach {reach:g} Mpc/h, "
            f"expected them to fill the box of {box_size:g} Mpc/h that the recipe gives; "
            "check input.length_unit and input.box_size"
        )
