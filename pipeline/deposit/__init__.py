"""Mass assignment: a registry of schemes, numba kernels, and a float64 NumPy oracle."""

from pipeline.deposit.registry import UNIT, Scheme, deposit, get_scheme, new_grid, scheme_names

__all__ = ["UNIT", "Scheme", "deposit", "get_scheme", "new_grid", "scheme_names"]
