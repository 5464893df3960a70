"""Killed at any instant, nothing is lost: short versions of the long proofs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.conftest import ROOT


def proof(name: str, *options: str) -> dict[str, Any]:
    """Tally of a proof in a process of its own: it forks, and has no threads before."""
    done = subprocess.run(
        [sys.executable, f"tests/{name}", "--json", *options],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.stdout, done.stderr
    tally: dict[str, Any] = json.loads(done.stdout)
    assert tally["failures"] == [], done.stderr
    assert done.returncode == 0
    return tally


def test_killed_at_some_of_all_changes_of_files() -> None:
    """Fault rows 1 to 4: ``proof_crash_points.py`` tries every point; here every 45th."""
    tally = proof("proof_crash_points.py", "--stride", "45")
    assert tally["points"] > 150
    assert tally["killed"] >= 5
    assert tally["kept"] > 0
    assert tally["states"]["stopped"] > 0


def test_a_real_build_killed_at_random_instants() -> None:
    """Fault rows 1 and 2: ``proof_kills.py --kills 200`` is the long version."""
    tally = proof("proof_kills.py", "--kills", "2", "--seed", "2")
    assert tally["kills"] == 2
    assert sum(tally["when"].values()) == 2
