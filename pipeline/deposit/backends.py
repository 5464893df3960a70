"""The table of what deposits: this machine's cores, or a GPU.

All give the same bits, so the choice is none of the recipe's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.deposit.assign import Deposit

CPU = "cpu"

_BACKENDS = {
    CPU: ("pipeline.deposit.assign", "Deposit"),
    "cuda": ("pipeline.deposit.cuda", "CudaDeposit"),
}
"""Module, imported when it is asked for, and class with the interface of ``Deposit``."""


def backend_names() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def get_backend(name: str) -> type[Deposit]:
    """Class that makes deposits on a backend; KeyError if there is none.

    Raises
    ------
    MissingDependencyError
        If this process cannot use it; the message names what is missing.
    """
    module, found = _BACKENDS[name]
    deposit: Any = getattr(import_module(module), found)
    deposit.check_available()
    return deposit  # type: ignore[no-any-return]
