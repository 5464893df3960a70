"""Mass assignment: a registry of schemes, numba kernels, and a float64 NumPy oracle."""

from pipeline.deposit.registry import (
    UNIT,
    Scheme,
    deposit,
    deposit_weighted,
    get_scheme,
    new_grid,
    scheme_names,
)

__all__ = [
    "UNIT",
    "Scheme",
    "deposit",
    "deposit_weighted",
    "get_scheme",
    "new_grid",
    "scheme_names",
]
