"""Kill a small build at every change that it makes to its files; nothing may be lost.

python tests/proof_crash_points.py
python tests/proof_crash_points.py --stride 20      # every 20th

See tests/crash_points.py.  The exit code is 1 if any point breaks what is promised.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.crash_points import all_points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=1, help="try every so many points")
    parser.add_argument("--json", action="store_true", help="print the tally as one object")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = all_points(
            Path(folder) / "root", chosen.stride, lambda line: click.echo(line, err=True)
        )
    if chosen.json:
        click.echo(json.dumps(tally.__dict__))
    else:
        left = ", ".join(f"{number} {state}" for state, number in sorted(tally.states.items()))
        click.echo(
            f"{tally.points} points; {tally.tried} builds, {tally.killed} killed (left behind: "
            f"{left}); {tally.kept} finished shards kept; {len(tally.failures)} failures; "
            f"{tally.seconds:.0f} s"
        )
        for failure in tally.failures:
            click.echo(failure)
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
