"""What a run leaves to look at: tables, CSV, JSON and plots."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from cosmoflow_model.checkpoint import make_folder, save_atomically
from cosmoflow_model.evaluate import Evaluation, Scores

History = list[dict[str, float]]

METRICS_NAME = "metrics.json"
PREDICTIONS_NAME = "predictions.csv"
PREDICTIONS_PLOT = "predictions.png"
HISTORY_NAME = "history.csv"
LOSS_PLOT = "loss.png"


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write ``metrics.json``, ``predictions.csv`` and ``predictions.png`` into a folder."""
    make_folder(folder)
    _write_json(folder / METRICS_NAME, evaluation.metrics())
    _write_csv(folder / PREDICTIONS_NAME, _prediction_rows(evaluation))
    _write_figure(folder / PREDICTIONS_PLOT, _predictions_figure(evaluation))


def write_history(history: History, folder: Path) -> None:
    """Write ``history.csv``, one row an epoch."""
    if history:
        rows: list[list[Any]] = [list(history[0]), *(list(row.values()) for row in history)]
        _write_csv(folder / HISTORY_NAME, rows)


def write_loss_plot(history: History, folder: Path) -> None:
    """Write ``loss.png``: training and validation loss by epoch."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [row["loss"] for row in history], label="training")
    axes.plot(epochs, [row["validation_loss"] for row in history], label="validation")
    axes.set(xlabel="epoch", ylabel="loss (scaled targets)", yscale="log")
    axes.legend(frameon=False)
    _write_figure(folder / LOSS_PLOT, figure)


def table(evaluation: Evaluation) -> Table:
    """Scores per parameter, over universes, in physical units."""
    n = len(set(evaluation.universes))
    view = Table(title=f"{evaluation.split}: {n} held-out universes")
    for heading in ("parameter", "range", "MAE", "RMSE", "R²", "universes"):
        view.add_column(heading, justify="left" if heading == "parameter" else "right")
    for name, score in evaluation.per_universe().items():
        low, high = evaluation.ranges[name]
        numbers = (f"{score.mae:.4g}", f"{score.rmse:.4g}", _r2(score), str(score.n))
        view.add_row(name, f"{low:g} – {high:g}", *numbers)
    return view


def _r2(score: Scores) -> str:
    return "–" if score.r2 is None else f"{score.r2:.3f}"


def _prediction_rows(evaluation: Evaluation) -> list[list[Any]]:
    names = evaluation.names
    heading = ["sample", "universe"]
    heading += [f"{name}_true" for name in names] + [f"{name}_predicted" for name in names]
    rows: list[list[Any]] = [heading]
    for sample, universe in enumerate(evaluation.universes):
        values = [*evaluation.truth[sample], *evaluation.predicted[sample]]
        rows.append([sample, universe, *(f"{value:.8g}" for value in values)])
    return rows


def _predictions_figure(evaluation: Evaluation) -> Figure:
    names = evaluation.names
    figure = Figure(figsize=(4 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    _, truth, predicted = evaluation.universe_means()
    for name, axes, true, guess in zip(names, panels, truth.T, predicted.T, strict=True):
        _draw_panel(axes, true.tolist(), guess.tolist())
        score = evaluation.per_universe()[name]
        axes.set_title(f"{name}: R² = {_r2(score)}, {score.n} universes")
    panels[0].set_ylabel(f"predicted ({evaluation.split})")
    return figure


def _draw_panel(axes: Axes, truth: list[float], predicted: list[float]) -> None:
    ends = (min(truth + predicted), max(truth + predicted))
    axes.plot(ends, ends, color="0.6", linewidth=1)
    axes.plot(truth, predicted, "o", markersize=4, alpha=0.8)
    axes.set_xlabel("true")
    axes.set_aspect("equal", adjustable="datalim")


def _write_figure(path: Path, figure: Figure) -> None:
    FigureCanvasAgg(figure)
    save_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))


def _write_csv(path: Path, rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    save_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), "utf-8"))


def _write_json(path: Path, body: dict[str, Any]) -> None:
    text = json.dumps(body, indent=1) + "\n"
    save_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
