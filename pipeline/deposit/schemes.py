"""The table of mass assignment schemes."""

from __future__ import annotations

from dataclasses import dataclass

UNIT_BITS = 28
UNIT = 1 << UNIT_BITS
"""Whole units of one particle in the cloud schemes: 2^35 particles fill a 64-bit cell."""

MOST_AMOUNT = 1 << 50
"""Amounts of particles that differ are less than this, so that dividing them is exact."""


@dataclass(frozen=True)
class Scheme:
    """One mass assignment scheme.

    Attributes
    ----------
    name : str
        Word for ``grid.scheme`` in a recipe.
    support : int
        Cells a side that one particle touches: 1, 2, 3, 4.
    unit : int
        Whole units of one particle on the grid.
    """

    name: str
    support: int
    unit: int


_schemes = {
    scheme.name: scheme
    for scheme in (
        Scheme("ngp", 1, 1),
        Scheme("cic", 2, UNIT),
        Scheme("tsc", 3, UNIT),
        Scheme("pcs", 4, UNIT),
    )
}


def scheme_names() -> tuple[str, ...]:
    """Names of all schemes, by growing support."""
    return tuple(_schemes)


def get_scheme(name: str) -> Scheme:
    """Scheme of that name; KeyError if there is none."""
    return _schemes[name]
