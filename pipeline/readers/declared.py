"""What a recipe has to say of files that record no box, unit or cosmology."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from pipeline.errors import SnapshotError
from pipeline.readers.length_unit import Evidence, LengthScale, choose_scale
from pipeline.snapshot import ReadOptions
from pipeline.units import LengthUnit


def declared_box(path: Path, options: ReadOptions, why: str) -> float:
    """Box side of the recipe in Mpc/h.

    Parameters
    ----------
    path : Path
        The snapshot, to show in errors.
    options : ReadOptions
        The recipe's words.
    why : str
        Ends the sentence "give it in the recipe ..." if it is missing.

    Raises
    ------
    SnapshotError
        If the recipe has none.
    """
    if options.box_size is None:
        raise SnapshotError(
            f"{path}: its format records no box size, expected input.box_size (comoving Mpc/h) in "
            f"the recipe: {why}"
        )
    return options.box_size


def declared_scale(path: Path, options: ReadOptions, usual: LengthUnit) -> LengthScale:
    """Unit of length: the recipe's, else the one that the format always has.

    Raises
    ------
    SnapshotError
        If the unit needs h or the box size and the recipe has none.
    """
    evidence = Evidence(str(path), box=0.0, mass=None, Omega_m=options.Omega_m, h=options.h)
    return choose_scale(evidence, replace(options, length_unit=options.length_unit or usual))


def box_of_file_or_recipe(path: Path, recorded: float, options: ReadOptions) -> float:
    """Box side in Mpc/h: the recipe's, else the file's.

    Parameters
    ----------
    path : Path
        The snapshot, to show in errors.
    recorded : float
        What the file says, Mpc/h; 0 if nothing.
    options : ReadOptions
        The recipe's words.

    Raises
    ------
    SnapshotError
        If there is neither.
    """
    if options.box_size is not None:
        return options.box_size  # whether they agree is checked for all formats alike
    if not (math.isfinite(recorded) and recorded > 0):
        raise SnapshotError(
            f"{path}: the header's box size is {recorded:g}, expected a positive length; give "
            "input.box_size (Mpc/h) in the recipe"
        )
    return recorded
