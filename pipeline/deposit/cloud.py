"""Adding one cloud to a scratch of 64-bit sums: an instruction sequence for numba.

A particle's amount ``A``, a whole number, is divided among its cells so that
nothing is lost and nothing depends on order.  With ``c_0 <= c_1 <= ... <= 1``
the sums of the window's weights along an axis, the planes of x get the
differences of ``round(A c_i)``; each plane is divided in the same way along y,
and each of those rows along z.  The differences of a rounded growing sequence
are whole, never of the other sign than ``A``, and add up to ``A`` exactly.

Four doubles a step (``vectors``), rounded to the nearest integer by adding
``1.5 * 2^52``, after which the lower bits of a double are the integer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pipeline.deposit.vectors import (
    DOUBLE,
    INT32,
    INT64,
    INT64S,
    LANES,
    MAGIC,
    NOTHING,
    Values,
    Vectors,
)

ONE, ZERO = ir.Constant(DOUBLE, 1.0), ir.Constant(DOUBLE, 0.0)


def _divide_along_x(vectors: Vectors, amount: Any, sums: Values) -> Any:
    """Amounts of the planes of x, one a lane."""
    b = vectors.builder
    upper = vectors.of([*sums, *[ONE] * (LANES - len(sums))])
    lower = vectors.of([ZERO, *sums, *[ONE] * (LANES - 1 - len(sums))])
    whole = vectors.splat(amount)
    return b.fsub(vectors.rounded(b.fmul(whole, upper)), vectors.rounded(b.fmul(whole, lower)))


def _divide_along_y(vectors: Vectors, planes: Any, sums: Values) -> Values:
    """Amounts of the rows: one vector for each y, its lanes are x."""
    b, rows, before = vectors.builder, [], None
    for total in [*sums, ONE]:
        until = planes if total is ONE else vectors.rounded(b.fmul(planes, vectors.splat(total)))
        rows.append(until if before is None else b.fsub(until, before))
        before = until
    return rows


def _divide_along_z(vectors: Vectors, row: Any, sums: Any) -> Any:
    """Integers for the cells of a row, of a vector whose lanes all hold its amount."""
    b = vectors.builder
    until = vectors.shifted(b.fmul(row, sums))
    before = vectors.shuffled(MAGIC, until, [0, *range(LANES, 2 * LANES - 1)])
    return b.sub(b.bitcast(until, INT64S), b.bitcast(before, INT64S))


def _add_row(vectors: Vectors, address: Any, cells: Any) -> None:
    old = vectors.load(address, cells.type)
    vectors.store(address, vectors.builder.add(old, cells), 8)


def _typed(support: int, generate: Callable[..., Any]) -> Any:
    """What numba asks of an intrinsic: the types of its arguments, and its code."""
    return types.void(*[types.int64] * 3, *[types.float64] * (1 + 3 * (support - 1))), generate


def _adder(support: int) -> Any:
    """Intrinsic that adds a cloud of ``support`` cells a side.

    ``(address, stride_x, stride_y, amount, x_0.., y_0.., z_0..)``: address of
    the first cell, strides in bytes, amount (float64, whole), and for each
    axis the ``support - 1`` sums of weights.  Four cells along z are touched;
    those beyond the support get 0.
    """
    inner = support - 1

    def generate(context: Any, builder: Any, signature: Any, given: Values) -> Any:
        address, stride_x, stride_y, amount = given[:4]
        x, y, z = (given[4 + a * inner : 4 + (a + 1) * inner] for a in range(3))
        vectors = Vectors(builder)
        rows = _divide_along_y(vectors, _divide_along_x(vectors, amount, x), y)
        along_z = vectors.of([*z, *[ONE] * (LANES - inner)])
        for i in range(support):
            plane = builder.add(address, builder.mul(stride_x, ir.Constant(INT64, i)))
            for j in range(support):
                row = vectors.shuffled(rows[j], NOTHING, [i] * LANES)
                place = builder.add(plane, builder.mul(stride_y, ir.Constant(INT64, j)))
                _add_row(vectors, place, _divide_along_z(vectors, row, along_z))
        return context.get_dummy_value()

    return _typed(support, generate)


def _pair_adder() -> Any:
    """:func:`_adder` of two cells a side: all four rows in one vector."""

    def generate(context: Any, builder: Any, signature: Any, given: Values) -> Any:
        address, stride_x, stride_y, amount, x, y, z = given
        b, vectors = builder, Vectors(builder)
        whole = vectors.splat(amount)
        first = vectors.rounded(b.fmul(whole, vectors.splat(x)))
        planes = vectors.shuffled(first, b.fsub(whole, first), [0, 1, 4, 5])
        first = vectors.rounded(b.fmul(planes, vectors.splat(y)))
        rows = vectors.shuffled(first, b.fsub(planes, first), [0, 5, 2, 7])
        until = b.bitcast(vectors.shifted(b.fmul(rows, vectors.splat(z))), INT64S)
        lower = b.sub(until, b.bitcast(MAGIC, INT64S))
        upper = b.sub(b.bitcast(vectors.shifted(rows), INT64S), until)
        for number in range(4):
            pair = ir.Constant(ir.VectorType(INT32, 2), [number, LANES + number])
            plane = builder.add(address, stride_x) if number >= 2 else address
            place = builder.add(plane, stride_y) if number % 2 else plane
            _add_row(vectors, place, b.shuffle_vector(lower, upper, pair))
        return context.get_dummy_value()

    return _typed(2, generate)


@intrinsic
def add_cic(typingctx, address, stride_x, stride_y, amount, x, y, z):  # type: ignore[no-untyped-def]
    """Add a cloud of 2^3 cells; see :func:`_adder`."""
    return _pair_adder()


@intrinsic
def add_tsc(typingctx, address, stride_x, stride_y, amount, x0, x1, y0, y1, z0, z1):  # type: ignore[no-untyped-def]
    """Add a cloud of 3^3 cells; see :func:`_adder`."""
    return _adder(3)


@intrinsic
def add_pcs(  # type: ignore[no-untyped-def]
    typingctx, address, stride_x, stride_y, amount, x0, x1, x2, y0, y1, y2, z0, z1, z2
):
    """Add a cloud of 4^3 cells; see :func:`_adder`."""
    return _adder(4)
