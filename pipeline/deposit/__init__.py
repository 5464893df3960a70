"""Mass assignment: schemes, a deposit that gives the same bits every time, a NumPy oracle."""

from pipeline.deposit.assign import Assigned, Deposit, assign
from pipeline.deposit.schemes import UNIT, Scheme, get_scheme, scheme_names

__all__ = [
    "UNIT",
    "Assigned",
    "Deposit",
    "Scheme",
    "assign",
    "get_scheme",
    "scheme_names",
]
