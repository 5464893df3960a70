"""From the numbers of a file to Mpc/h, in place and in the numbers' own type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


def scaled(chunks: Iterable[np.ndarray], factor: float) -> Iterator[np.ndarray]:
    """The same chunks, each multiplied by ``factor`` in place.

    float32 stays float32, so that ``stored * factor`` in numpy gives the same bits.

    Parameters
    ----------
    chunks : iterable of numpy.ndarray
        ``(n, 3)`` floats in the file's unit; overwritten.
    factor : float
        One unit of the file in Mpc/h.

    Yields
    ------
    numpy.ndarray
        ``(n, 3)`` positions in Mpc/h.
    """
    for chunk in chunks:
        if factor != 1.0:
            with np.errstate(invalid="ignore", over="ignore"):  # the deposit counts and refuses
                np.multiply(chunk, factor, out=chunk)
        yield chunk
