"""The benchmark's answers as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import Any

import deposit_ours
from deposit_cases import CASES
from deposit_memory import READ_BYTES, WRITE_BYTES, roofline_seconds
from deposit_peers import PEERS
from deposit_rounds import FEWER_ROUNDS, OURS_LATTICE, Measured

INT16 = f"{deposit_ours.OURS} int16"

MAIN_HEADER = (
    "particles → grid, order",
    "scheme",
    "output",
    "threads",
    "ours, M/s",
    "of roofline",
    "best peer",
    "M/s",
    "of roofline",
    "ours / best peer",
    "lowest–highest",
)


def report(rows: list[Measured], meta: dict[str, Any]) -> str:
    """All tables and lines."""
    parts = [
        _table(MAIN_HEADER, (line for row in rows for line in _main_lines(row))),
        "M particles/s of everyone (ours writes float32):",
        _peers_table(rows),
        *_asides(rows),
        *_meta_lines(meta),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    header = list(header)
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def ratios(row: Measured, slower: str, faster: str) -> list[float]:
    """Time of one over time of the other in each round in which both ran."""
    pairs = zip(row.seconds[slower], row.seconds[faster], strict=False)
    return [a / b for a, b in pairs]


def best_peer(row: Measured) -> str | None:
    """The library with the least median time; None if none ran."""
    names = [name for name in row.seconds if name in PEERS]
    return min(names, key=lambda n: statistics.median(row.seconds[n]), default=None)


def _main_lines(row: Measured) -> Iterator[list[str]]:
    best = best_peer(row)
    for ours, output in ((deposit_ours.OURS, "float32"), (INT16, "int16")):
        if ours not in row.seconds:
            continue
        line = [_case_words(row), row.scheme.upper(), output, str(row.threads)]
        line += [_speed(row, ours), _of_roofline(row, ours, output)]
        if best is None:
            yield [*line, "–", "–", "–", "–", "–"]
            continue
        times = ratios(row, best, ours)
        line += [best, _speed(row, best), _of_roofline(row, best, "float32")]
        yield [*line, f"**{statistics.median(times):.2f}**", f"{min(times):.2f}–{max(times):.2f}"]


def _case_words(row: Measured) -> str:
    case = CASES[row.case]
    particles = f"{case.side}³" if case.side else "10⁴"
    return f"{particles} → {case.n_grid}³, {case.order}"


def _speed(row: Measured, name: str) -> str:
    speed = CASES[row.case].n_particles / statistics.median(row.seconds[name]) / 1e6
    return f"{speed:.1f}" if speed >= 1 else f"{speed:.2g}"


def _of_roofline(row: Measured, name: str, output: str) -> str:
    case = CASES[row.case]
    size = case.n_grid**3 * (2 if output == "int16" else 4)
    least = [
        roofline_seconds(case.n_particles, size, read, write)
        for read, write in zip(row.seconds["read"], row.seconds["write"], strict=True)
    ]
    parts = [a / b for a, b in zip(least, row.seconds[name], strict=False)]
    return f"{100 * statistics.median(parts):.1f}%"


def _peers_table(rows: list[Measured]) -> str:
    names = [n for n in (*deposit_ours.VARIANTS, *PEERS) if any(n in r.seconds for r in rows)]
    lines = [
        [
            _case_words(row),
            row.scheme.upper(),
            str(row.threads),
            *(_cell(row, name) for name in names),
        ]
        for row in rows
    ]
    return _table(["particles → grid, order", "scheme", "threads", *names], lines)


def _cell(row: Measured, name: str) -> str:
    if name not in row.seconds:
        return ""
    most = max(len(seconds) for seconds in row.seconds.values())
    few = len(row.seconds[name]) < most
    return _speed(row, name) + ("*" if few else "")


def _asides(rows: list[Measured]) -> Iterator[str]:
    most = max((len(s) for row in rows for s in row.seconds.values()), default=0)
    yield (
        f"Medians of {most} rounds; * slow, {FEWER_ROUNDS} rounds. A library without threads "
        "runs with one in the rows of two. Roofline: 12 bytes a particle read and the grid "
        "written once, at the speeds below; small cases stay in cache and may pass it."
    )
    yield "\n".join(_memory_lines(rows))
    yield "\n".join(_own_lines(rows))
    tuned = [f"{_short(r)} {n}: {o}" for r in rows for n, o in r.options.items()]
    yield f"Tuned: {'; '.join(tuned)}." if tuned else ""


def _memory_lines(rows: list[Measured]) -> Iterator[str]:
    for threads in sorted({row.threads for row in rows}):
        own = [row for row in rows if row.threads == threads]
        read = statistics.median(s for row in own for s in row.seconds["read"])
        write = statistics.median(s for row in own for s in row.seconds["write"])
        yield (
            f"- memory, {threads} thread{'s' * (threads > 1)}: "
            f"reads {READ_BYTES / read / 1e9:.1f} GB/s, writes {WRITE_BYTES / write / 1e9:.1f} GB/s"
        )


def _own_lines(rows: list[Measured]) -> Iterator[str]:
    """Shuffled against lattice order, and fixed point against floating point."""
    beside = (
        (OURS_LATTICE, "shuffled order takes {:.2f} times as long as that of the lattice"),
        (deposit_ours.FLOAT, "fixed point takes {:.2f} times as long as sums in floating point"),
    )
    for row in rows:
        for name, words in beside:
            if name in row.seconds:
                times = ratios(row, deposit_ours.OURS, name)
                yield f"- {_short(row)}: {words.format(statistics.median(times))}"


def _short(row: Measured) -> str:
    return f"{row.case} {row.scheme} {row.threads} thread{'s' * (row.threads > 1)}"


def _meta_lines(meta: dict[str, Any]) -> Iterator[str]:
    lines = [
        f"- our first {scheme} call in a fresh process: {s['compiling']:.2f} s compiling, "
        f"{s['cached']:.2f} s with kernels on disk, {1000 * s['warm']:.2f} ms warm"
        for scheme, s in meta["first_calls"].items()
    ]
    yield "\n".join(lines)
    if meta["agreement"]:
        yield (
            f"All {len(meta['agreement'])} pairs of library and scheme agree with the float64 "
            "oracle on a 64³ grid, grid points where the library has them: differences add up "
            f"to {max(meta['agreement'].values()):.0e} of the mass at most."
        )
    left = [f"- {name}: {reason}" for name, reason in meta["left_out"].items()]
    yield "Left out:\n\n" + "\n".join(left) if left else ""
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    yield f"Versions: {versions}. {meta['machine']}."
