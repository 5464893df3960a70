"""Writing four cells of a tile and measuring them: an instruction sequence for numba."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pipeline.deposit.vectors import DOUBLE, DOUBLES, FLOAT, INT32, INT64, INT64S, LANES, Vectors

SUMS, LARGEST, SQUARES = 0, 1, 2
"""Rows of the table of measurements; its columns are cells along z."""


def _element(kind: types.Number) -> Any:
    if isinstance(kind, types.Float):
        return DOUBLE if kind.bitwidth == 64 else FLOAT
    return ir.IntType(kind.bitwidth)


def _converted(builder: Any, whole: Any, scaled: Any, kind: types.Number) -> Any:
    """Vector to write: integers as they are, floats scaled."""
    if isinstance(kind, types.Float):
        narrow = ir.VectorType(FLOAT, LANES)
        return scaled if kind.bitwidth == 64 else builder.fptrunc(scaled, narrow)
    wanted = ir.VectorType(ir.IntType(kind.bitwidth), LANES)
    return whole if kind.bitwidth == 64 else builder.trunc(whole, wanted)


def _measure(vectors: Vectors, table: Any, row_bytes: Any, whole: Any, scaled: Any) -> None:
    """Bring the columns of the table up to date."""
    b = vectors.builder

    def place(row: int) -> Any:
        return b.add(table, b.mul(row_bytes, ir.Constant(INT64, row)))

    sums = vectors.load(place(SUMS), INT64S)
    vectors.store(place(SUMS), b.add(sums, whole), 8)
    largest = vectors.load(place(LARGEST), INT64S)
    largest = b.select(b.icmp_signed(">", whole, largest), whole, largest)
    vectors.store(place(LARGEST), largest, 8)
    squares = vectors.load(place(SQUARES), DOUBLES)
    vectors.store(place(SQUARES), b.fadd(squares, b.fmul(scaled, scaled)), 8)


@intrinsic
def write_four(typingctx, source, like_source, target, like_target, table, row_bytes, factor):  # type: ignore[no-untyped-def]
    """Write four neighbouring cells from ``source`` to ``target``, and measure them.

    ``source``, ``target`` and ``table`` are addresses, ``like_source`` and
    ``like_target`` numbers of the types that stand there, ``row_bytes`` the
    length of a row of the table, ``factor`` what scales cells for floats.
    """
    given = types.int64
    signature = types.void(given, like_source, given, like_target, given, given, types.float64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, _, target, _, table, row_bytes, factor = arguments
        vectors = Vectors(builder)
        element = _element(like_source)
        loaded = vectors.load(source, ir.VectorType(element, LANES))
        whole = loaded if element.width == 64 else builder.zext(loaded, INT64S)
        scaled = builder.fmul(builder.sitofp(whole, DOUBLES), vectors.splat(factor))
        value = _converted(builder, whole, scaled, like_target)
        vectors.store(target, value, like_target.bitwidth // 8)
        _measure(vectors, table, row_bytes, whole, scaled)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def prefetch_for_write(typingctx, address):  # type: ignore[no-untyped-def]
    """Ask for the cache line at an address, which will be written soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        # for writing, into the nearest cache, data
        builder.call(function, [pointer, *(ir.Constant(INT32, n) for n in (1, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), generate
