"""Stand-ins for what ``cuda_kernels`` uses of libdevice, in numba's simulator of CUDA."""

from __future__ import annotations

import math

fmod = math.fmod


def dmul_rn(a: float, b: float) -> float:
    """``a b``, rounded once."""
    return a * b


def dadd_rn(a: float, b: float) -> float:
    """``a + b``, rounded once."""
    return a + b


def floor(a: float) -> float:
    """Largest whole number that is not above ``a``, which is finite."""
    return float(math.floor(a))
