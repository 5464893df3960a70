"""An HTML report: one file, no network, everything escaped.

What the data set is, what its cubes look like, which parameters and splits it
covers, and, if there is a training run, what was learned.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import DatasetError
from pipeline.inspect import describe_dataset
from pipeline.manifest import Manifest, load
from pipeline.samples import universe_cube
from pipeline.write.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_NAME = "report.html"

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
vertical-align: top; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; background: white; border-radius: 4px; } small { opacity: .7; }
"""


def write_report(dataset: Path, run: Path | None = None, output: Path | None = None) -> Path:
    """Write the report of a data set.

    Parameters
    ----------
    dataset : Path
    run : Path, optional
        Folder of a training run, as ``cosmoflow-train fit`` writes it.
    output : Path, optional
        Default: ``report.html`` in the data set.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    DatasetError
        If the data set cannot be read, or the run has no metrics.
    """
    manifest = load(dataset)
    sections = [
        ("What it is", _facts_table(describe_dataset(dataset, manifest))),
        ("What it looks like", _cube_section(dataset, manifest)),
        ("What it covers", _image(_coverage_figure(manifest), "parameters by split")),
    ]
    if run is not None:
        sections.append(("What was learned", _training_section(run)))
    body = "".join(f"<h2>{escape(title)}</h2>{html}" for title, html in sections)
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8>"
        f'<meta name=viewport content="width=device-width"><title>{escape(manifest.name)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(manifest.name)}</h1>{body}</html>\n"
    )
    path = output or dataset / REPORT_NAME
    write_atomically(path, page.encode())
    return path


def _facts_table(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}<td>{escape(_plain(value))}" for name, value in facts.items()
    )
    return f"<table>{rows}</table>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " × ".join(_plain(inner) for inner in value)
    return str(value)


def _cube_section(dataset: Path, manifest: Manifest) -> str:
    universe = min(manifest.universes, key=lambda u: (u.split != "test", u.id))
    cube = universe_cube(dataset, manifest, universe.id)
    parameters = ", ".join(f"{n} = {universe.parameters[n]:.4g}" for n in manifest.targets)
    caption = (
        f"Universe {universe.id} ({parameters}): slab of an eighth of the box, log(1 + counts)"
    )
    pictures = _image(_slab_figure(cube, manifest), caption)
    return pictures + _image(_pdf_figure(cube, manifest), "one-point distribution of the cells")


def _slab_figure(cube: np.ndarray, manifest: Manifest) -> Figure:
    """Projection of a slab along z at each redshift."""
    figure = _new_figure(3.1 * cube.shape[3], 3.4)
    universe = manifest.universes[0]
    side = universe.snapshots[0].box_size
    slab = cube[:, :, : max(1, cube.shape[2] // 8)].astype(np.float64).sum(axis=2)
    brightest = float(np.log1p(slab).max())
    for channel, redshift in enumerate(manifest.layout.redshifts):
        axes = figure.add_subplot(1, cube.shape[3], channel + 1)
        axes.imshow(
            np.log1p(slab[..., channel]).T,
            origin="lower",
            extent=(0, side, 0, side),
            vmin=0,
            vmax=brightest,
            cmap="magma",
        )
        axes.set_title(f"z = {redshift:g}")
        axes.set_xlabel("x [Mpc/h]")
    return figure


def _pdf_figure(cube: np.ndarray, manifest: Manifest) -> Figure:
    figure = _new_figure(6, 3.4)
    axes = figure.add_subplot()
    for channel, redshift in enumerate(manifest.layout.redshifts):
        density = cube[..., channel].astype(np.float64)
        values = np.log10(1 + density.ravel() / density.mean())
        axes.hist(values, bins=50, histtype="step", density=True, label=f"z = {redshift:g}")
    axes.set_xlabel("log10(1 + density / mean)")
    axes.set_yscale("log")
    axes.legend()
    return figure


def _coverage_figure(manifest: Manifest) -> Figure:
    """Every pair of targets, universes coloured by split."""
    names = list(manifest.targets)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]] or [(names[0], names[0])]
    figure = _new_figure(3.4 * len(pairs), 3.4)
    for number, (a, b) in enumerate(pairs, start=1):
        axes = figure.add_subplot(1, len(pairs), number)
        for split in manifest.splits:
            members = [u.parameters for u in manifest.universes if u.split == split]
            axes.plot([p[a] for p in members], [p[b] for p in members], "o", ms=4, label=split)
        axes.set_xlabel(a)
        axes.set_ylabel(b)
    figure.axes[0].legend()
    return figure


def _new_figure(width: float, height: float) -> Figure:
    # matplotlib without pyplot: no display, no global state
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    return Figure(figsize=(width, height), layout="constrained")


def _image(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _embedded(buffer.getvalue(), caption)


def _embedded(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    text = escape(caption)
    return f'<p><img alt="{text}" src="data:image/png;base64,{data}"><br><small>{text}</small></p>'


def read_metrics(run: Path) -> dict[str, Any]:
    """``metrics.json`` of a finished training run.

    Raises
    ------
    DatasetError
        If it is not there or not readable.
    """
    path = run / "metrics.json"
    try:
        metrics: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: no metrics of a finished training run: {error}") from error
    return metrics


def _training_section(run: Path) -> str:
    metrics = read_metrics(run)
    rows = "".join(_metrics_row(name, m) for name, m in metrics["targets"].items())
    text = (
        f"<p>On {metrics['universes']} universes of the {escape(metrics['split'])} split, which "
        "the training never saw. R² is 0 for predicting the mean and 1 for no error.</p>"
        "<table><tr><th>parameter<th>range<th>mean absolute error<th>RMSE<th>R²"
        f"{rows}</table>"
    )
    pictures = [(name, run / f"{name}.png") for name in ("predictions", "loss")]
    return text + "".join(
        _embedded(path.read_bytes(), name) for name, path in pictures if path.is_file()
    )


def _metrics_row(name: str, metrics: Mapping[str, Any]) -> str:
    low, high = metrics["range"]
    scores = metrics["per_universe"]
    numbers = (f"{scores['mae']:.4f}", f"{scores['rmse']:.4f}", r2_text(scores["r2"]))
    cells = "".join(f"<td class=n>{number}" for number in numbers)
    return f"<tr><th>{escape(name)}<td>{low:g} to {high:g}{cells}"


def r2_text(r2: float | None) -> str:
    """R² with two decimals; where all truths are the same there is none."""
    return "none" if r2 is None else f"{r2:.2f}"
