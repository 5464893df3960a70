"""A deposit on a GPU, with the bits of the CPU's: the host's side.

Particles go to the device in pieces, through two pinned buffers with a stream
each: one piece is copied while the other is deposited.  The device holds whole
sums of all cells (4 bytes a cell for counts, else 8) and the two pieces.  In the
end the sums come back slab by slab, and the CPU's own kernels write and measure
them tile by tile: the grid and its statistics are those of ``Deposit``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.deposit import direct
from pipeline.deposit.assign import (
    Assigned,
    Deposit,
    cell_factor,
    measured,
    square_divisor,
)
from pipeline.deposit.bins import NO_AMOUNTS
from pipeline.errors import BuildError, MissingDependencyError, require

PIECE = 1 << 20
"""Particles that are sent at once."""

THREADS_A_BLOCK, MOST_BLOCKS = 256, 4096
SIMULATED_LAUNCH = (2, 4)
"""Blocks, and threads a block: each is a thread of Python."""

FREE_PART = 0.95
"""Of the device's free memory: the driver keeps some."""


def check_device() -> None:
    """Whether kernels can be compiled and run.

    Raises
    ------
    MissingDependencyError
        If numba's CUDA target, the driver, a device or the toolkit is missing.
    """
    cuda = _numba_cuda()
    if cuda.config.ENABLE_CUDASIM:
        return
    try:
        cuda.current_context()
    except cuda.CudaSupportError as error:
        raise MissingDependencyError(
            f"--backend cuda: no CUDA device can be used: {_one_line(error)}; use a machine with "
            "an NVIDIA GPU and its driver, or --backend cpu, which gives the same data set"
        ) from error
    if not cuda.is_available():
        raise MissingDependencyError(
            "--backend cuda: the driver is there, but not the compiler of the CUDA toolkit (NVVM); "
            "install it with: pip install 'cosmoflow-prep[cuda]'"
        )


def _numba_cuda() -> Any:
    try:
        from numba import cuda  # noqa: PLC0415  (needs the extra with newer numba)
    except ImportError as error:
        raise require("numba-cuda", "cuda") from error
    return cuda


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(":. ")


class CudaDeposit(Deposit):
    """A deposit being made on the current CUDA device; see :class:`Deposit`.

    ``n_particles``, ``threads`` and ``bin_bytes`` do not matter.
    """

    @staticmethod
    def check_available() -> None:
        """See :func:`check_device`."""
        check_device()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the device's memory while the block runs."""
        from pipeline.deposit import cuda_kernels  # noqa: PLC0415  (compiles for a device)

        self._kernels, self._cuda = cuda_kernels, _numba_cuda()
        n_cells = self.tiling.n_grid**3
        self._check_memory(n_cells)
        self._sums = self._cuda.device_array(n_cells, self._dtype)
        self._lost = self._cuda.to_device(np.zeros(1, np.int64))
        self._slots = [_Slot(self._cuda, self.weighted) for _ in range(2)]
        self._kernels.clear[self._launch(n_cells)](self._sums)
        self._cuda.synchronize()
        try:
            yield
        finally:
            self._cuda.synchronize()
            del self._sums, self._lost, self._slots

    def add(self, positions: np.ndarray, amounts: np.ndarray = NO_AMOUNTS) -> None:
        """Send a chunk of particles and have it deposited; returns when it was copied."""
        self._read += len(positions)
        for begin in range(0, len(positions), PIECE):
            slot = self._slots.pop(0)
            self._slots.append(slot)
            piece = slice(begin, begin + PIECE)
            slot.send(positions[piece], amounts[piece])
            self._deposit(slot)

    def write(self, out: np.ndarray, unit: float | None = None) -> Assigned:
        """Fetch the sums and write them into ``out``."""
        self._cuda.synchronize()
        tiling = self.tiling
        whole, squares = np.zeros((tiling.n_tiles, 2), np.int64), np.zeros(tiling.n_tiles)
        factor = cell_factor(out.dtype, self.scheme, unit)
        divisor = square_divisor(out.dtype, self.scheme, unit)
        for tiles, low, high in self._slabs():
            slab, bounds = self._planes(low, high), tiling.bounds - [low, low, 0, 0, 0, 0]
            strides = (tiling.n_grid**2, tiling.n_grid)
            common = (slab, strides, 0, out[low:high], factor, whole, squares)
            direct.write_tiles(tiles, bounds, *common)
        return measured(whole, squares, self._read, int(self._lost.copy_to_host()[0]), divisor)

    def _check_memory(self, n_cells: int) -> None:
        free = self._cuda.current_context().get_memory_info()[0] * FREE_PART
        needed = n_cells * np.dtype(self._dtype).itemsize + 2 * _Slot.n_bytes(self.weighted)
        if needed > free:
            raise BuildError(
                f"--backend cuda: a grid of {self.tiling.n_grid}^3 cells needs "
                f"{needed / 2**30:.2f} GiB of the GPU's memory, {free / 2**30:.2f} GiB are free; "
                "run fewer workers on this GPU, or use --backend cpu, which gives the same data set"
            )

    @property
    def _dtype(self) -> type:
        return np.uint32 if self.tiling.counts else np.int64

    def _launch(self, n: int, stream: Any = 0) -> tuple[Any, ...]:
        if self._kernels.SIMULATED:
            return (*SIMULATED_LAUNCH, stream)
        return min(MOST_BLOCKS, -(-n // THREADS_A_BLOCK)), THREADS_A_BLOCK, stream

    def _deposit(self, slot: _Slot) -> None:
        launch = self._launch(slot.n, slot.stream)
        placing = (slot.n, *self._placing, self._sums, self._lost)
        if self.scheme.support == 1:
            self._kernels.add_points[launch](slot.positions, slot.amounts, *placing)
        else:
            kernel = self._kernels.CLOUD_KERNELS[self.scheme.support]
            kernel[launch](slot.positions, slot.amounts, float(self.scheme.unit), *placing)

    def _slabs(self) -> Iterator[tuple[np.ndarray, int, int]]:
        """Tiles that lie beside each other, and their first plane of x and the end."""
        starts, each = self.tiling.starts[0].tolist(), self.tiling.n_tiles // self.tiling.shape[0]
        for number, (low, high) in enumerate(pairwise(starts)):
            yield np.arange(number * each, (number + 1) * each), low, high

    def _planes(self, low: int, high: int) -> np.ndarray:
        """Sums of the cells from plane ``low`` of x to ``high``, flat."""
        plane = self.tiling.n_grid**2
        return np.asarray(self._sums[low * plane : high * plane].copy_to_host())


class _Slot:
    """One of the pieces under way: pinned memory, its copy on the device, a stream."""

    def __init__(self, cuda: Any, weighted: bool) -> None:
        self._cuda, self.stream, self.n = cuda, cuda.stream(), 0
        self._room = PIECE if weighted else 0
        self._pinned_amounts = cuda.pinned_array(max(1, self._room), np.int64)
        self._device_amounts = cuda.device_array(max(1, self._room), np.int64)
        self._make(np.dtype(np.float32))

    @staticmethod
    def n_bytes(weighted: bool) -> int:
        """Most bytes on the device."""
        return PIECE * (3 * 8 + (8 if weighted else 0))

    def _make(self, dtype: np.dtype) -> None:
        self._pinned = self._cuda.pinned_array(3 * PIECE, dtype)
        self._device = self._cuda.device_array(3 * PIECE, dtype)

    def send(self, positions: np.ndarray, amounts: np.ndarray) -> None:
        """Copy a piece to the device, once the one before it was deposited."""
        self.stream.synchronize()
        dtype = np.dtype(np.float32 if positions.dtype == np.float32 else np.float64)
        if dtype != self._pinned.dtype:
            self._make(dtype)
        self.n = len(positions)
        self._pinned[: 3 * self.n].reshape(-1, 3)[...] = positions
        self.positions = self._sent(self._pinned, self._device, 3 * self.n)
        n_amounts = self.n if self._room else 0
        self._pinned_amounts[:n_amounts] = amounts[:n_amounts]
        self.amounts = self._sent(self._pinned_amounts, self._device_amounts, n_amounts)

    def _sent(self, pinned: np.ndarray, device: Any, n: int) -> Any:
        if n:
            device[:n].copy_to_device(pinned[:n], stream=self.stream)
        return device[:n]
