"""One fault of a data set: what is wrong, in which file, shard and sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pipeline.manifest import SplitName

Kind = Literal[
    "missing", "changed", "unreadable", "link", "stranger", "content", "manifest", "ledger"
]
"""``content``: digests are right, and yet a shard or table does not hold what it should;
``manifest``: it contradicts itself; ``ledger``: what is kept of the build is damaged."""

DAMAGED_FILE: tuple[Kind, ...] = ("missing", "changed", "unreadable", "link")
"""The file is not the one that was published: ``repair`` makes it again."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes
    ----------
    kind : str
    message : str
        One line that names the file and the sample, what was found and expected.
    path : str or None
        File of the data set.
    split : str or None
    first_sample : int or None
        First bad sample, counted through the split.
    samples : int or None
        Number of bad ones.
    universe : str or None
        Of the first bad sample, or the one that the fault is about.
    """

    kind: Kind
    message: str
    path: str | None = None
    split: SplitName | None = None
    first_sample: int | None = None
    samples: int | None = None
    universe: str | None = None

    def __str__(self) -> str:
        return self.message

    def with_note(self, note: str) -> Fault:
        """The same with something added to its message."""
        return replace(self, message=f"{self.message}; {note}")

    def facts(self) -> dict[str, Any]:
        """All that is known of it, for a program."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def bad_samples(numbers: list[int], owner: str) -> str:
    """``sample 17 (universe u003)``, or how many there are and the first."""
    first = f"sample {numbers[0]} (universe {owner})"
    if len(numbers) == 1:
        return first
    return f"{len(numbers)} samples, the first is {first}"
