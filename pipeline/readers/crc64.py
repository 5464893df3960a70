"""CRC-64 as GenericIO and xz compute it, eight bytes at a step.

The polynomial is ECMA-182's in bit-reversed form, with all ones before and
after (H. Finkel, High-Performance CRC64 Library, ANL-SF-14-095; the xz file
format, section 4.3).  The tables are "slicing-by-8" (Kounavis & Berry 2005).
Importing this compiles a numba kernel: import it where it is needed.
"""

from __future__ import annotations

import sys

import numpy as np
from numba import njit

_POLYNOMIAL = 0xC96C5795D7870F42
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_BYTE = np.uint64(0xFF)
_EIGHT = np.uint64(8)


def crc64(data: np.ndarray, crc: int = 0) -> int:
    """CRC of ``data`` behind bytes whose CRC is ``crc``.

    Parameters
    ----------
    data : numpy.ndarray
        Contiguous, of any type; its bytes as they are in memory.
    crc : int
        Of the bytes before; 0 at the start, so that
        ``crc64(b, crc64(a))`` is the CRC of a and b one after the other.
    """
    octets = data.reshape(-1).view(np.uint8)
    whole = len(octets) & ~7 if sys.byteorder == "little" else 0
    register = np.uint64(crc) ^ _ONES
    register = _by_words(octets[:whole].view(np.uint64), register, _TABLES)
    return int(_by_octets(octets[whole:], np.uint64(register), _TABLES) ^ _ONES)


def _make_tables() -> np.ndarray:
    """``(8, 256)``: the register after a byte and 0 to 7 zero bytes."""
    tables = np.zeros((8, 256), np.uint64)
    for octet in range(256):
        register = octet
        for _ in range(8):
            register = (register >> 1) ^ (_POLYNOMIAL if register & 1 else 0)
        tables[0, octet] = register
    for k in range(1, 8):
        tables[k] = tables[0][tables[k - 1] & _BYTE] ^ (tables[k - 1] >> _EIGHT)
    return tables


_TABLES = _make_tables()


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _by_words(words: np.ndarray, register: np.uint64, tables: np.ndarray) -> np.uint64:
    for word in words:
        x = register ^ word
        register = np.uint64(0)
        for k in range(7, -1, -1):
            register ^= tables[k, x & _BYTE]
            x >>= _EIGHT
    return register


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _by_octets(octets: np.ndarray, register: np.uint64, tables: np.ndarray) -> np.uint64:
    for octet in octets:
        register = tables[0, (register ^ np.uint64(octet)) & _BYTE] ^ (register >> _EIGHT)
    return register
