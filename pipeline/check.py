"""What ``cosmoflow-prep check`` tells: the facts of every universe, as data and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.snapshot import SnapshotHeader
from pipeline.stream_check import StreamedUniverse
from pipeline.survey import Refusal, SurveyedUniverse
from pipeline.units import mean_matter_density

UNUSED_SHOWN = 3


def universe_facts(universe: SurveyedUniverse) -> dict[str, Any]:
    """Facts of one universe that do not depend on its split, as plain data.

    ``density`` is the mean matter density in units of Omega_m rho_crit, for each
    channel, None where the files do not tell the mass.
    """
    headers = [channel.header for channel in universe.channels]
    facts: dict[str, Any] = {
        "universe": universe.id,
        "redshifts": [header.redshift for header in headers],
        "box_size": headers[0].box_size,
        "particles": [header.n_particles for header in headers],
        "format": headers[0].format,
        "length_unit": headers[0].length_unit,
        "density": [relative_density(header) for header in headers],
        "parameters": dict(universe.parameters),
        "files": [[str(path) for path in header.files] for header in headers],
        "unused": list(universe.unused),
    }
    if isinstance(universe, StreamedUniverse):
        facts["outside"] = [found.outside for found in universe.positions]
        facts["farthest"] = [found.farthest for found in universe.positions]
    return facts


def relative_density(header: SnapshotHeader) -> float | None:
    """Mass in the box over ``Omega_m rho_crit box_size^3``; None where it is not known."""
    if not header.total_mass or not header.Omega_m:
        return None
    return header.total_mass / header.box_size**3 / mean_matter_density(header.Omega_m)


def columns(full: bool) -> list[str]:
    """Headings of the table; see :func:`row`."""
    names = ["universe", "redshifts", "box [Mpc/h]", "particles", "format", "unit"]
    return [*names, "density", "parameters", *(["outside"] if full else [])]


def row(universe: SurveyedUniverse) -> list[str]:
    """One line of the table."""
    facts = universe_facts(universe)
    cells = [
        universe.id,
        ", ".join(f"{z:.4g}" for z in facts["redshifts"]),
        f"{facts['box_size']:g}",
        _each([f"{n}" for n in facts["particles"]]),
        facts["format"],
        facts["length_unit"],
        _each(["?" if d is None else f"{d:.3f}" for d in facts["density"]]),
        " ".join(f"{name}={value:.4g}" for name, value in facts["parameters"].items()),
    ]
    if "outside" in facts:
        cells.append(_outside(facts["outside"], facts["farthest"]))
    return cells


def summary(accepted: Sequence[SurveyedUniverse], refused: Sequence[Refusal]) -> list[str]:
    """Totals, and what is there but not used, one line each."""
    snapshots = sum(len(universe.channels) for universe in accepted)
    particles = sum(universe.n_particles for universe in accepted)
    lines = [
        f"total: {len(accepted)} universes, {snapshots} snapshots, {particles:,} particles"
        + (f"; {len(refused)} universes refused" if refused else "")
    ]
    unused = [name for universe in accepted for name in universe.unused]
    if unused:
        more = len(unused) - UNUSED_SHOWN
        lines.append(
            f"note: {len(unused)} snapshots are there and serve for no redshift of the recipe: "
            + ", ".join(unused[:UNUSED_SHOWN])
            + (f" and {more} more" if more > 0 else "")
        )
    return lines


def totals(accepted: Sequence[SurveyedUniverse], refused: Sequence[Refusal]) -> dict[str, int]:
    """The same as plain data."""
    return {
        "universes": len(accepted),
        "snapshots": sum(len(universe.channels) for universe in accepted),
        "particles": sum(universe.n_particles for universe in accepted),
        "refused": len(refused),
        "unused": sum(len(universe.unused) for universe in accepted),
    }


def _each(cells: list[str]) -> str:
    """A cell for each channel, or one if all are the same."""
    return cells[0] if len(set(cells)) == 1 else ", ".join(cells)


def _outside(outside: list[int], farthest: list[float]) -> str:
    if not any(outside):
        return "none"
    return f"{_each([str(n) for n in outside])} (by up to {max(farthest):.3g} Mpc/h)"
