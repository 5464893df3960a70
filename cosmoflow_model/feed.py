"""Batches of a split, in an order that is a pure function of (seed, epoch).

The shuffle is global: a true permutation of all samples, cut into global
batches, of which rank r of ``size`` takes every ``size``-th sample from the
r-th on.  So any number of ranks sees the same sequence of global batches.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosmoflow_model.catalog import Catalog
from cosmoflow_model.transform import (
    ChannelStatistics,
    Cube,
    apply_augmentation,
    channel_statistics,
    draw_augmentation,
    log_counts,
)
from pipeline.errors import TrainingError
from pipeline.manifest import SplitName

DEFAULT_CACHE_BYTES = 1 << 30
STATISTICS_SAMPLES = 64
"""Samples from which the channels' mean and variance are taken: enough for two digits."""


class Batch(NamedTuple):
    """One rank's slice of a global batch.

    Attributes
    ----------
    x : ndarray of float32, shape (slice, x, y, z, channel)
        log(1 + particles a cell).
    y : ndarray of float32, shape (slice, parameter)
        Targets scaled to [-1, 1].
    weight : ndarray of float32, shape (slice,)
        1 but in a last, partial batch that does not divide by the ranks: there
        samples that fill a slice up weigh 0 and the others more, so that the
        mean over ranks of the weighted means is the mean over the true samples.
    samples : ndarray of int64, shape (slice,)
        Which samples of the split they are.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    samples: npt.NDArray[np.int64]


class Feed:
    """Feeds one rank with batches of a split, epoch by epoch.

    Parameters
    ----------
    catalog : Catalog
    split : {'train', 'validation', 'test'}
    batch_size : int
        Samples of a global batch; divides by ``size``.
    seed : int
        Of the order and the augmentation.
    shuffle, augment : bool
    rank, size : int
        This rank, and how many there are.
    cache_bytes : int
        The split is kept in memory, as stored, when it takes no more than this.
    """

    def __init__(
        self,
        catalog: Catalog,
        split: SplitName,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        augment: bool = False,
        rank: int = 0,
        size: int = 1,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        if batch_size < 1 or batch_size % size:
            raise TrainingError(
                f"batch size {batch_size} does not divide by {size} ranks; choose a multiple"
            )
        self.catalog, self.split, self.batch_size, self.seed = catalog, split, batch_size, seed
        self.shuffle, self.augment, self.rank, self.size = shuffle, augment, rank, size
        self.samples = catalog.samples(split)
        self._cache = _Cache(catalog, split, cache_bytes)

    @property
    def steps(self) -> int:
        """Global batches of an epoch; the last may be partial, none is dropped."""
        return -(-self.samples // self.batch_size)

    def global_length(self, step: int) -> int:
        """Samples of a global batch, over all ranks."""
        return min(self.batch_size, self.samples - step * self.batch_size)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """All samples in the order of an epoch."""
        if not self.shuffle:
            return np.arange(self.samples, dtype=np.int64)
        return np.random.default_rng([self.seed, epoch]).permutation(self.samples)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Batches of this rank in an epoch, from a step on, as NumPy arrays."""
        order = self.order(epoch)
        for step in range(first_step, self.steps):
            samples = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._batch(epoch, samples)

    def statistics(self) -> ChannelStatistics:
        """Channel statistics of the network's input, from samples spread over the split."""
        count = min(self.samples, STATISTICS_SAMPLES)
        chosen = np.linspace(0, self.samples - 1, count).astype(int)
        return channel_statistics(self._cache.read(int(sample))[0] for sample in chosen)

    def prefetched(self, epoch: int, depth: int = 2) -> Iterator[Batch]:
        """As :meth:`batches`, made by a thread up to ``depth`` batches ahead."""
        return _ahead(lambda: self.batches(epoch), depth)

    def dataset(self, epoch: int, prefetch: int = 2) -> Any:
        """One epoch, as a ``tf.data.Dataset`` of (x, y, weight)."""
        import tensorflow as tf  # noqa: PLC0415  (NumPy users need no TensorFlow)

        n_targets = len(self.catalog.target_names)
        signature = (
            tf.TensorSpec((None, *self.catalog.sample_shape), tf.float32),
            tf.TensorSpec((None, n_targets), tf.float32),
            tf.TensorSpec((None,), tf.float32),
        )
        batches = tf.data.Dataset.from_generator(
            lambda: (batch[:3] for batch in self.batches(epoch)), output_signature=signature
        )
        return batches.prefetch(prefetch)

    def _batch(self, epoch: int, samples: npt.NDArray[np.int64]) -> Batch:
        """Slice of this rank; all ranks' slices of a global batch are equally long."""
        length = -(-len(samples) // self.size)
        own = samples[self.rank :: self.size]
        filled = np.append(own, np.repeat(samples[:1], length - len(own)))
        weight = np.full(length, length * self.size / len(samples), np.float32)
        weight[len(own) :] = 0
        pairs = [self._sample(epoch, int(sample)) for sample in filled]
        x = np.stack([cube for cube, _ in pairs])
        y = np.stack([target for _, target in pairs])
        return Batch(x, y, weight, filled)

    def _sample(
        self, epoch: int, sample: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        cube, target = self._cache.read(sample)
        if self.augment:
            drawn = draw_augmentation(
                self.seed, epoch, sample, cube.shape[:3], self.catalog.is_periodic
            )
            cube = apply_augmentation(cube, drawn)
        return log_counts(cube), target


class _Cache:
    """Samples kept in memory as stored, if the whole split fits the budget."""

    def __init__(self, catalog: Catalog, split: SplitName, budget: int) -> None:
        self._catalog = catalog
        self._split = split
        layout = catalog.manifest.layout
        cube_bytes = int(np.prod(layout.sample_shape)) * np.dtype(layout.dtype).itemsize
        self._keeps = cube_bytes * catalog.samples(split) <= budget
        self._kept: dict[int, tuple[Cube, npt.NDArray[np.float32]]] = {}

    def read(self, sample: int) -> tuple[Cube, npt.NDArray[np.float32]]:
        if sample in self._kept:
            return self._kept[sample]
        pair = self._catalog.read(self._split, sample)
        if self._keeps:
            self._kept[sample] = pair
        return pair


def _ahead(batches: Callable[[], Iterator[Batch]], depth: int) -> Iterator[Batch]:
    """Run an iterator in a thread; its error is raised here, and leaving early stops it."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches():
                put(batch)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001  (raised in the thread that consumes)
            put(error)

    threading.Thread(target=work, name="feed", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
