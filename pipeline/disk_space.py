"""How much disk a build needs, and whether it is there: before it starts and while it runs.

The upper bound is the samples before compression and what surrounds them.
Counts compress to a quarter or less, so a build is refused only where even
that does not fit; while it runs, the ratio that its own shards have shown is
used, and it stops cleanly before the disk is full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.errors import OutputError
from pipeline.ledger import Entry
from pipeline.plan import Plan, ShardTask
from pipeline.worker_memory import sample_bytes
from pipeline.write.store import Store

LEAST_RATIO = 0.25
"""Bytes after compression over bytes before that a build is started for; codecs reach 4 to 8."""

MARGIN = 1.1
"""Bytes asked for over bytes expected."""

EXPANSION = 1 / 128
"""How much codecs enlarge what they cannot compress, at most."""

SAMPLE_BYTES, SHARD_BYTES, CHANNEL_BYTES, SPLIT_BYTES = 512, 2048, 4096, 1 << 16
"""Around the samples: tables and indices; lines of ledger and manifest; metadata of a group."""


@dataclass(frozen=True)
class Estimate:
    """Disk space of a whole data set.

    Attributes
    ----------
    bytes_raw : int
        All samples before compression.
    bytes_at_most : int
        Upper bound of all files, for data that cannot be compressed.
    bytes_at_least : int
        What a build is refused for if it is not free.
    bytes_of_a_shard : int
        Upper bound of the largest one.  It is under a temporary name while it is
        written; nothing else is written for a time only.
    """

    bytes_raw: int
    bytes_at_most: int
    bytes_at_least: int
    bytes_of_a_shard: int


def estimate(plan: Plan) -> Estimate:
    """Disk space that the data set of a plan takes."""
    compressed = plan.recipe.output.codec != "none"
    around = _around(plan)
    largest = max((shard.samples for task in plan.tasks for shard in task.shards), default=0)
    return Estimate(
        bytes_raw=plan.output_bytes,
        bytes_at_most=int(plan.output_bytes * (1 + EXPANSION)) + around,
        bytes_at_least=int(plan.output_bytes * (LEAST_RATIO if compressed else 1)),
        bytes_of_a_shard=int(largest * (sample_bytes(plan.recipe) * (1 + EXPANSION) + SAMPLE_BYTES))
        + SHARD_BYTES,
    )


def _around(plan: Plan) -> int:
    """Upper bound of what is no sample: tables, metadata, ledger and manifest."""
    channels = [c for members in plan.splits.values() for u in members for c in u.channels]
    # ledger and manifest name every part of every snapshot
    names = sum(2 * (len(str(path)) + 8) for channel in channels for path in channel.header.files)
    samples = sum(plan.n_samples(split) for split in plan.splits)
    return (
        samples * (SAMPLE_BYTES + 16 * len(plan.recipe.targets))
        + plan.n_shards * SHARD_BYTES
        + (len(channels) + plan.n_universes) * CHANNEL_BYTES
        + names
        + (len(plan.splits) + 1) * SPLIT_BYTES
    )


@dataclass
class Measured:
    """Bytes that finished shards took, against those of their samples.

    ``sample_bytes`` is that of one sample before compression.
    """

    sample_bytes: int
    samples: int = 0
    written: int = 0

    def add(self, entry: Entry) -> None:
        """Count the shards of an entry."""
        for shard in entry.shards:
            self.samples += shard.samples
            self.written += shard.bytes + (shard.index.bytes if shard.index else 0)

    @property
    def ratio(self) -> float | None:
        """Bytes after over bytes before compression; None before the first shard."""
        raw = self.samples * self.sample_bytes
        return self.written / raw if raw else None

    def expected(self, samples: int, without: float = 1.0) -> int:
        """Bytes of so many samples to come; ``without`` is the ratio before there is one."""
        ratio = self.ratio
        return int(samples * self.sample_bytes * (without if ratio is None else ratio))


class DiskGuard:
    """Watches the free space of a build's output; ``ignore`` lets everything pass.

    Parameters
    ----------
    output : Store
        A place that does not tell its free space is not watched.
    plan : Plan
    """

    def __init__(self, output: Store, plan: Plan, ignore: bool = False) -> None:
        self._output = output
        self._plan = plan
        self._ignore = ignore
        self._measured = Measured(sample_bytes(plan.recipe))
        self._in_flight: dict[str, int] = {}

    def check_start(self, kept: Iterable[Entry] = ()) -> None:
        """Refuse to start if what is left to write cannot fit.

        ``kept`` are the tasks that are finished already: their shards show the
        ratio of compression.

        Raises
        ------
        OutputError
            With the bytes needed and free.
        """
        done = 0
        for entry in kept:
            self._measured.add(entry)
            done += sum(shard.samples for shard in entry.shards)
        total = sum(self._plan.n_samples(split) for split in self._plan.splits)
        least = LEAST_RATIO if self._plan.recipe.output.codec != "none" else 1.0
        needed = int(self._measured.expected(total - done, least) * MARGIN)
        free = self._free()
        if free is not None and free < needed:
            raise OutputError(
                f"{self._output}: {needed} bytes needed at least for {total - done} samples, "
                f"{free} free ({needed - free} too few); free space, change output.path, or build "
                "all the same with --ignore-disk-space"
            )

    def admitted(self, tasks: Iterable[ShardTask]) -> Iterator[ShardTask]:
        """The tasks, each when it may be started.

        Raises
        ------
        OutputError
            Instead of a task that the free space may not hold beside those in flight.
        """
        for task in tasks:
            self._check_room(task)
            self._in_flight[task.name] = _samples(task)
            yield task

    def given_up(self, task: str) -> None:
        """Take a task out of flight that made no shards."""
        self._in_flight.pop(task, None)

    def finished(self, entry: Entry) -> None:
        """Take an entry's task out of flight and learn from the size of its shards."""
        self._in_flight.pop(entry.task, None)
        self._measured.add(entry)

    def _check_room(self, task: ShardTask) -> None:
        free = self._free()
        if free is None:
            return
        samples = sum(self._in_flight.values()) + _samples(task)
        # before the first shard the start's own bound is all that is known
        least = LEAST_RATIO if self._plan.recipe.output.codec != "none" else 1.0
        needed = int(self._measured.expected(samples, least) * MARGIN)
        if free < needed:
            raise OutputError(
                f"{self._output}: stopped before the disk is full: {needed} bytes needed for the "
                f"shards being made, {free} free ({needed - free} too few); free space and go on "
                "with --resume, or go on all the same with --ignore-disk-space"
            )

    def _free(self) -> int | None:
        return None if self._ignore else self._output.free_bytes()


def _samples(task: ShardTask) -> int:
    return sum(shard.samples for shard in task.shards)
