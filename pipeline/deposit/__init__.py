"""Mass assignment: schemes, a deposit that gives the same bits every time, a NumPy oracle."""

from pipeline.deposit.assign import Assigned, Deposit, assign
from pipeline.deposit.backends import CPU, backend_names, get_backend
from pipeline.deposit.schemes import UNIT, Scheme, get_scheme, scheme_names

__all__ = [
    "CPU",
    "UNIT",
    "Assigned",
    "Deposit",
    "Scheme",
    "assign",
    "backend_names",
    "get_backend",
    "get_scheme",
    "scheme_names",
]
