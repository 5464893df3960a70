"""Which universe trains, validates or tests: a seeded, stratified function of the ids.

Universes are ordered along a Morton curve through the ranks of their
parameters, so that neighbours on the curve are neighbours in parameter space.
Small runs along the curve are shuffled by a hash of (seed, id), then each
split takes its quota as the curve goes by: every split covers the parameters,
no universe is in two, and the order of the input does not matter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from pipeline.errors import InputError
from pipeline.manifest import SPLITS, SplitName

Parameters = Mapping[str, float]


def assign_splits(
    universes: Mapping[str, Parameters], fractions: Mapping[SplitName, float], seed: int
) -> dict[str, SplitName]:
    """Split of every universe.

    Parameters
    ----------
    universes : mapping
        Universe id to its parameters; all have the same ones.
    fractions : mapping
        Share of each split, adding up to 1.
    seed : int
        Another seed gives another assignment.

    Returns
    -------
    dict
        Universe id to split name; each split's number is within one of its share.

    Raises
    ------
    InputError
        If there are too few universes for every split that was asked for.
    """
    shares: dict[SplitName, float] = {
        name: fractions[name] for name in SPLITS if fractions.get(name, 0) > 0
    }
    order = _shuffled_in_runs(_along_curve(universes), math.ceil(1 / min(shares.values())), seed)
    assigned: dict[str, SplitName] = {}
    taken = dict.fromkeys(shares, 0)
    for position, universe in enumerate(order, start=1):
        name = max(shares, key=lambda s: shares[s] * position - taken[s])
        taken[name] += 1
        assigned[universe] = name
    _check_none_empty(taken, shares, len(universes))
    return assigned


def extension_shares(
    there: Mapping[SplitName, int], fractions: Mapping[SplitName, float], n_new: int
) -> dict[SplitName, float]:
    """Fractions of the new universes that bring the whole nearest to the wanted ones.

    Universe by universe, the split that is farthest behind its share of the
    whole gets one more; no universe that is there changes its split.

    Parameters
    ----------
    there : mapping
        Universes of each split so far.
    fractions : mapping
        Wanted share of each split in the whole.
    n_new : int
        Universes to add.

    Returns
    -------
    dict
        Share of each split in the new universes, ``k / n_new``; none of 0.
    """
    shares = {name: fractions[name] for name in SPLITS if fractions.get(name, 0) > 0}
    taken = {name: there.get(name, 0) for name in shares}
    total = sum(taken.values())
    for position in range(total + 1, total + n_new + 1):
        taken[max(shares, key=lambda s: shares[s] * position - taken[s])] += 1
    new = {name: taken[name] - there.get(name, 0) for name in shares}
    return {name: number / n_new for name, number in new.items() if number}


def _check_none_empty(
    taken: Mapping[SplitName, int], shares: Mapping[SplitName, float], n_universes: int
) -> None:
    empty = [name for name in shares if not taken[name]]
    if empty:
        needed = math.ceil(1 / min(shares.values()))
        raise InputError(
            f"{n_universes} universes are too few: {' and '.join(empty)} would be empty; "
            f"give at least {needed}, or change split.fractions in the recipe"
        )


def _hash(seed: int, universe: str) -> bytes:
    return hashlib.sha256(f"{seed}:{universe}".encode()).digest()


def _shuffled_in_runs(order: list[str], length: int, seed: int) -> list[str]:
    runs = (order[i : i + length] for i in range(0, len(order), length))
    return [universe for run in runs for universe in sorted(run, key=lambda u: _hash(seed, u))]


def _along_curve(universes: Mapping[str, Parameters]) -> list[str]:
    ids = sorted(universes)
    names = sorted(universes[ids[0]]) if ids else []
    ranks = {
        name: {u: r for r, u in enumerate(sorted(ids, key=lambda u: universes[u][name]))}
        for name in names
    }
    return sorted(ids, key=lambda u: (_morton([ranks[name][u] for name in names]), u))


def _morton(ranks: list[int]) -> int:
    """Interleave the bits of the ranks: position on the Morton (Z-order) curve."""
    bits = max((rank.bit_length() for rank in ranks), default=0)
    code = 0
    for bit in reversed(range(bits)):
        for rank in ranks:
            code = code << 1 | rank >> bit & 1
    return code
