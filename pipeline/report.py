"""An HTML report: one file, no network, everything escaped.

What the data set is, what its cubes look like, which parameters and splits it
covers, and, if there is a training run, what was learned.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DatasetError
from pipeline.inspect import describe_dataset
from pipeline.manifest import Manifest, load
from pipeline.pictures import (
    coverage_figure,
    distribution_figure,
    png,
    slab_figure,
    typical_universe,
)
from pipeline.samples import universe_cube
from pipeline.write.atomic import write_atomically
from pipeline.write.store import Store
from pipeline.write.stores import Place, open_store

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


def write_report(dataset: Place, run: Path | None = None, output: Path | None = None) -> Path | str:
    """Write the report of a data set.

    Parameters
    ----------
    dataset : Store, Path or str
        Folder or URL.
    run : Path, optional
        Folder of a training run, as ``cosmoflow-train fit`` writes it.
    output : Path, optional
        Default: ``report.html`` in the data set.

    Returns
    -------
    Path or str
        Of the report.

    Raises
    ------
    DatasetError
        If the data set cannot be read, or the run has no metrics.
    """
    store = open_store(dataset)
    manifest = load(store)
    sections = [
        ("What it is", _facts_table(describe_dataset(store, manifest))),
        ("What it looks like", _cube_section(store, manifest)),
        ("What it covers", _image(coverage_figure(manifest), "parameters by split")),
    ]
    if run is not None:
        sections.append(("What was learned", _training_section(run)))
    body = "".join(f"<h2>{escape(title)}</h2>{html}" for title, html in sections)
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8>"
        f'<meta name=viewport content="width=device-width"><title>{escape(manifest.name)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(manifest.name)}</h1>{body}</html>\n"
    )
    if output is None:
        store.write(REPORT_NAME, page.encode())
        return store.address(REPORT_NAME)
    write_atomically(output, page.encode())
    return output


def _facts_table(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}<td>{escape(_plain(value))}" for name, value in facts.items()
    )
    return f"<table>{rows}</table>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(inner) for inner in value)
    return str(value)


def _cube_section(dataset: Store, manifest: Manifest) -> str:
    universe = typical_universe(manifest)
    cube = universe_cube(dataset, manifest, universe.id)
    parameters = ", ".join(f"{n} = {universe.parameters[n]:.4g}" for n in manifest.targets)
    caption = (
        f"Universe {universe.id} ({parameters}): slab of an eighth of the box, "
        f"log(1 + {manifest.layout.quantity})"
    )
    pictures = _image(slab_figure(cube, manifest, universe), caption)
    return pictures + _image(
        distribution_figure(cube, manifest), "one-point distribution of the cells"
    )


def _image(figure: Figure, caption: str) -> str:
    return _embedded(png(figure), caption)


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
