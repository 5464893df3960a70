"""HDF5's shuffle filter undone, and its Fletcher-32 checksum.

Shuffle stores the first bytes of all numbers, then the second bytes, and so on
(HDF5 file format specification, filter 2).  The checksum (filter 3) is the one
of ``H5checksum.c``: sums of 16-bit words, high byte first, modulo 65535.  Apart
from the reader, so that numba is imported and compiled only where a file needs it.
"""

from __future__ import annotations

import numpy as np
from numba import njit


def unshuffle(stored: np.ndarray, out: np.ndarray) -> None:
    """Numbers of 4 or 8 bytes from their shuffled bytes.

    Parameters
    ----------
    stored : numpy.ndarray
        ``(n * itemsize,)`` uint8.
    out : numpy.ndarray
        ``(n,)`` contiguous, of any type of 4 or 8 bytes; overwritten.
    """
    planes = stored.reshape(out.dtype.itemsize, len(out))
    if out.dtype.itemsize == 4:
        _join_4(planes, out.view(np.uint32))
    else:
        _join_8(planes, out.view(np.uint64))


@njit(nogil=True, cache=True)
def _join_4(planes: np.ndarray, out: np.ndarray) -> None:
    b0, b1, b2, b3 = planes[0], planes[1], planes[2], planes[3]
    for i in range(out.shape[0]):
        out[i] = (
            np.uint32(b0[i])
            | (np.uint32(b1[i]) << np.uint32(8))
            | (np.uint32(b2[i]) << np.uint32(16))
            | (np.uint32(b3[i]) << np.uint32(24))
        )


@njit(nogil=True, cache=True)
def _join_8(planes: np.ndarray, out: np.ndarray) -> None:
    for i in range(out.shape[0]):
        word = np.uint64(0)
        for j in range(8):
            word |= np.uint64(planes[j, i]) << np.uint64(8 * j)
        out[i] = word


def fletcher32(data: np.ndarray) -> int:
    """Checksum of ``(n,)`` uint8."""
    low, high, anything = _sums(data)
    # modulo 65535 there are two zeros; the library keeps the other one
    zero = 65535 if anything else 0
    return (int(high) or zero) << 16 | (int(low) or zero)


@njit(nogil=True, cache=True)
def _sums(data: np.ndarray) -> tuple[np.uint64, np.uint64, bool]:
    low = high = np.uint64(0)
    anything = False
    block = 4096  # of words: the sums stay below 2^41
    pairs = data.shape[0] // 2
    for begin in range(0, pairs, block):
        for i in range(begin, min(begin + block, pairs)):
            word = np.uint64(data[2 * i]) << np.uint64(8) | np.uint64(data[2 * i + 1])
            anything = anything or word != 0
            low += word
            high += low
        low %= np.uint64(65535)
        high %= np.uint64(65535)
    if data.shape[0] % 2:
        word = np.uint64(data[data.shape[0] - 1]) << np.uint64(8)
        anything = anything or word != 0
        low = (low + word) % np.uint64(65535)
        high = (high + low) % np.uint64(65535)
    return low, high, anything
