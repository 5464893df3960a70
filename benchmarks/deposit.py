"""How fast particles are deposited on a grid, beside other libraries and the memory's speed.

python benchmarks/deposit.py --rounds 7 --json deposit.json
python benchmarks/deposit.py --quick

Every library runs in a process of its own for each number of threads, with its
grid made before and its first calls left out.  In each round each of them runs
once, in rotation; ratios are taken within a round and their median is printed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deposit_cases import CASES, QUICK
from deposit_first_call import first_calls
from deposit_peers import PEERS, SCHEMES
from deposit_rounds import Bench, Measured
from deposit_table import report

SKIP_SECONDS = 20.0
"""A peer that would need longer for one deposit is left out, unless ``--slow``."""


def run(arguments: argparse.Namespace) -> tuple[list[Measured], dict[str, Any]]:
    """All cases; what was measured, and what is to be said about it."""
    start = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.peers, 1e9 if arguments.slow else SKIP_SECONDS)
        try:
            bench.check(arguments.schemes, max(arguments.threads))
            for name, scheme, threads in itertools.product(
                arguments.cases, arguments.schemes, arguments.threads
            ):
                _say(f"{time.perf_counter() - start:6.0f} s  {name} {scheme} threads {threads}")
                rows.append(bench.measure(CASES[name], scheme, threads, arguments.rounds))
        finally:
            bench.close()
    meta = {
        "first_calls": {} if arguments.no_first_call else first_calls(arguments.schemes),
        "agreement": bench.agreement,
        "left_out": bench.left_out,
        "versions": _versions(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    return rows, meta


def _versions() -> dict[str, str]:
    found = {}
    for name in ("numba", *(p for peer in PEERS.values() for p in peer.packages)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=CASES,
        default=list(CASES),
        metavar="CASE",
        help=f"of {', '.join(CASES)}",
    )
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=list(PEERS),
        metavar="PEER",
        help=f"of {', '.join(PEERS)}",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small cases and 2 rounds")
    parser.add_argument(
        "--slow",
        action="store_true",
        help=f"run peers that need more than {SKIP_SECONDS:.0f} s for one deposit",
    )
    parser.add_argument("--no-first-call", action="store_true", help="do not time compilation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times of all rounds")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of such a file")
    return parser


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.show:
        stored = json.loads(arguments.show.read_text())
        print(report([Measured(**row) for row in stored["rows"]], stored["meta"]))
        return
    if arguments.quick:
        arguments.cases, arguments.rounds = list(QUICK), 2
    rows, meta = run(arguments)
    if arguments.json:
        stored = {"rows": [asdict(row) for row in rows], "meta": meta}
        arguments.json.write_text(json.dumps(stored, indent=1) + "\n")
    print(report(rows, meta))


if __name__ == "__main__":
    main()
