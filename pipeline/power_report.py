"""How measured power spectra are shown: rows, CSV, plain data for JSON, a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import OutputError
from pipeline.snapshot_power import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg")
"""Kinds of figure files."""


def title(measured: Measurement) -> str:
    """One line that says what was measured, and how."""
    how = [f"{measured.n_grid}^3 cells"]
    if measured.scheme:
        how.append(measured.scheme.upper())
    how.append("window divided out" if measured.compensated else "window not divided out")
    if measured.interlaced:
        how.append("interlaced")
    if measured.spectrum.shot_noise is not None:
        state = "subtracted" if measured.spectrum.subtracted else "kept"
        how.append(f"shot noise {measured.spectrum.shot_noise:.4g} (Mpc/h)^3 {state}")
    box = f"box {measured.spectrum.box_size:g} Mpc/h"
    return f"{measured.source}, {_redshift(measured)}, {box}: {', '.join(how)}"


def columns(measured: Measurement) -> dict[str, np.ndarray]:
    """Columns of the table by name; ``linear`` only where linear theory is known."""
    spectrum = measured.spectrum
    found = {
        "k": spectrum.k,
        "power": spectrum.power,
        "sample_error": spectrum.sample_error,
        "shot_noise": spectrum.noise,
        "modes": spectrum.n_modes,
    }
    linear = measured.linear(spectrum.k)
    return found if linear is None else found | {"linear": linear}


def rows(measured: Measurement) -> list[list[str]]:
    """The table's cells as text: six digits, and whole numbers whole."""
    return [
        [f"{value}" if isinstance(value, np.integer) else f"{value:.6g}" for value in row]
        for row in zip(*columns(measured).values(), strict=True)
    ]


def facts(measured: Measurement) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "source": measured.source,
        "redshift": measured.redshift,
        "box_size": measured.spectrum.box_size,
        "n_grid": measured.n_grid,
        "scheme": measured.scheme,
        "compensated": measured.compensated,
        "interlaced": measured.interlaced,
        "particles": measured.n_particles,
        "shot_noise_subtracted": measured.spectrum.subtracted,
        "parameters": measured.parameters,
        **{name: values.tolist() for name, values in columns(measured).items()},
    }


def csv_bytes(measured: Sequence[Measurement]) -> bytes:
    """All spectra as one CSV table, numbers so that reading them gives the same floats."""
    text = io.StringIO()
    names = ["source", "redshift", "k", "power", "sample_error", "shot_noise", "modes", "linear"]
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for one in measured:
        found = {name: values.tolist() for name, values in columns(one).items()}
        for row in zip(*found.values(), strict=True):
            head = {"source": one.source, "redshift": one.redshift}
            writer.writerow(head | dict(zip(found, row, strict=True)))
    return text.getvalue().encode()


def check_picture(path: Path) -> None:
    """Refuse a name of a figure that is of no known kind, before anything is measured.

    Raises
    ------
    OutputError
        If the suffix is none of :data:`PICTURES`.
    """
    if path.suffix.lower() not in PICTURES:
        raise OutputError(f"{path}: ends in {path.suffix!r}, expected {' or '.join(PICTURES)}")


def picture(measured: Sequence[Measurement], path: Path) -> bytes:
    """The figure as the kind of file that ``path`` is named; the same bytes every time."""
    import matplotlib as mpl  # noqa: PLC0415  (slow to import)

    buffer, kind = io.BytesIO(), path.suffix.lower().removeprefix(".")
    # an SVG would hold the time of writing, and ids made of random numbers
    with mpl.rc_context({"svg.hashsalt": "cosmoflow-prep"}):
        metadata = {"Date": None} if kind == "svg" else None
        power_figure(measured).savefig(buffer, format=kind, dpi=110, metadata=metadata)
    return buffer.getvalue()


def power_figure(measured: Sequence[Measurement]) -> Figure:
    """P(k) with the sample error as a band, and linear theory dashed where it is known."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    for one in measured:
        spectrum, error = one.spectrum, one.spectrum.sample_error
        there = spectrum.power > 0  # subtracted shot noise can leave less than nothing
        k, power, error = spectrum.k[there], spectrum.power[there], error[there]
        (line,) = axes.plot(k, power, label=_label(one, measured))
        lowest = np.maximum(power - error, 0.05 * power)
        axes.fill_between(k, lowest, power + error, color=line.get_color(), alpha=0.2, lw=0)
        smooth = np.geomspace(k[0], k[-1], 200) if len(k) else k
        linear = one.linear(smooth)
        if linear is not None:
            axes.plot(smooth, linear, "--", lw=1, color=line.get_color())
    # labels such as 0.02, 0.05, 0.1: ranges of k are short, powers of ten alone are too few
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("k [h/Mpc]")
    axes.set_ylabel("P(k) [(Mpc/h)³]")
    if any(not one.missing for one in measured):
        axes.plot([], [], "--", lw=1, color="gray", label="linear theory")
    axes.legend(fontsize="small")
    return figure


def _label(one: Measurement, among: Sequence[Measurement]) -> str:
    several = len({other.source for other in among}) > 1
    return f"{one.source}, {_redshift(one)}" if several else _redshift(one)


def _redshift(measured: Measurement) -> str:
    # snapshots at z = 0 record 2e-16
    return f"z = {round(measured.redshift, 6) + 0.0:.4g}"
