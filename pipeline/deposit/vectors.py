"""Vector arithmetic of four lanes in LLVM's language, for numba's intrinsics.

Numba does not combine scalar arithmetic into vectors by itself.  No operation
here is fused or reordered: results are the same on every processor.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

LANES = 4

DOUBLE, FLOAT, INT32, INT64 = ir.DoubleType(), ir.FloatType(), ir.IntType(32), ir.IntType(64)
DOUBLES, INT64S = ir.VectorType(DOUBLE, LANES), ir.VectorType(INT64, LANES)

ROUNDING = 1.5 * 2.0**52
MAGIC = ir.Constant(DOUBLES, [ROUNDING] * LANES)
"""A double plus this has the nearest integer in its lower bits."""

NOTHING = ir.Constant(DOUBLES, ir.Undefined)

Values = list[Any]


class Vectors:
    """Vector arithmetic of one function being made."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def of(self, scalars: Values) -> Any:
        """Doubles in the first lanes."""
        vector = NOTHING
        for lane, scalar in enumerate(scalars):
            vector = self.builder.insert_element(vector, scalar, ir.Constant(INT32, lane))
        return vector

    def shuffled(self, first: Any, second: Any, lanes: list[int]) -> Any:
        """Chosen lanes of two vectors, counted on from the first to the second."""
        mask = ir.Constant(ir.VectorType(INT32, LANES), lanes)
        return self.builder.shuffle_vector(first, second, mask)

    def splat(self, scalar: Any) -> Any:
        """A double in all lanes."""
        return self.shuffled(self.of([scalar]), NOTHING, [0] * LANES)

    def shifted(self, product: Any) -> Any:
        """``product + ROUNDING``."""
        return self.builder.fadd(product, MAGIC)

    def rounded(self, product: Any) -> Any:
        """The nearest integers, as doubles."""
        return self.builder.fsub(self.shifted(product), MAGIC)

    def load(self, address: Any, kind: Any) -> Any:
        """A vector of ``kind`` from an address that need not be a multiple of its size."""
        value = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        value.align = kind.element.width // 8 if isinstance(kind.element, ir.IntType) else 4
        return value

    def store(self, address: Any, value: Any, align: int) -> None:
        """A vector to an address that is a multiple of ``align``."""
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        self.builder.store(value, pointer).align = align
