"""Universes that cannot be used: the rest goes on without them.

What a data set holds depends on which universes are quarantined, and not on
when, where or in which order they were found bad: splits are made over all
universes, and the gaps of the quarantined ones are closed by one rule.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.survey import Refusal


def close_gaps(members: Sequence[str], bad: Collection[str]) -> list[str]:
    """Members of a split without the bad ones, few of them moved.

    Going through the list, the last good member takes the place of each bad
    one; so all samples keep their numbers but those of the members moved.

    Parameters
    ----------
    members : sequence of str
        Ids of a split, good and bad, in their order.
    bad : collection of str
        Ids to leave out.
    """
    good = [member for member in members if member not in bad]
    moved = [member for member in members[len(good) :] if member not in bad]
    return [moved.pop() if member in bad else member for member in members[: len(good)]]


def portable(refusal: Refusal, root: Path) -> Refusal:
    """The refusal with paths in its reason relative to the recipe's folder ``root``."""
    return replace(refusal, reason=refusal.reason.replace(f"{root}/", ""))


def killed(universe: str, deaths: int, parameters: dict[str, float] | None) -> Refusal:
    """Refusal of a universe that ends the process of every worker that reads it."""
    return Refusal(
        universe,
        f"universe {universe!r}: {deaths} workers died reading it, with nothing else beside it: "
        "out of memory perhaps ('cosmoflow-prep plan' prints what a worker needs), or a file that "
        "crashes a library",
        parameters,
    )


def refusals_text(refused: Sequence[Refusal], total: int, most: int = 20) -> str:
    """One line a refusal, at most ``most`` of them."""
    lines = [f"{len(refused)} of {total} universes cannot be used:"]
    lines += [f"  {r.reason}" for r in sorted(refused, key=lambda r: r.id)[:most]]
    if len(refused) > most:
        lines.append(f"  and {len(refused) - most} more; 'cosmoflow-prep check' shows all")
    return "\n".join(lines)
