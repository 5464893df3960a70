"""The command line ``cosmoflow-train``: parse, call, print.

TensorFlow is imported by the commands, not here, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cosmoflow_model import backend
from cosmoflow_model.spec import NETWORK_NAMES, SPEC_NAME, TrainSpec, default_run, read_record
from pipeline.entry import run_command
from pipeline.errors import CosmoflowError, TrainingError
from pipeline.manifest import SPLITS, SplitName

if TYPE_CHECKING:
    from cosmoflow_model.train import FitResult

DEFAULTS = TrainSpec()
Show = Callable[[dict[str, float], int], None]
_Command = TypeVar("_Command", bound=Callable[..., Any])


class _FolderType(click.Path):
    """A folder of this machine; a URL is told what to do."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, str) and "://" in value:
            from cosmoflow_model.catalog import copy_first  # noqa: PLC0415  (imports Zarr)

            self.fail(copy_first(value), param, ctx)
        return super().convert(value, param, ctx)


_Folder = _FolderType(file_okay=False, path_type=Path)


def main() -> None:
    """Entry point of ``cosmoflow-train``."""
    sys.exit(run_command(cli))


def _choice(
    flag: str, kind: click.ParamType[Any] | None, text: str
) -> Callable[[_Command], _Command]:
    """Option for a field of TrainSpec, with its default."""
    default = getattr(DEFAULTS, flag.removesuffix("/--no-augment").lstrip("-").replace("-", "_"))
    return click.option(flag, type=kind, default=default, show_default=True, help=text)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: cosmoflow-train fit datasets/quijote",
)
@click.version_option(package_name="cosmoflow-prep")
def cli() -> None:
    """Train networks that read cosmological parameters off cubes of matter.

    Exit codes: 0 done, 2 wrong usage, 5 results cannot be written (disk full),
    6 damaged data set, 7 library missing, 10 training cannot start or go on,
    130 stopped by Ctrl-C, 143 by SIGTERM (go on with --resume).
    """


@cli.command(epilog="Example: cosmoflow-train fit datasets/quijote --epochs 60 --seed 1")
@click.argument("dataset", type=_Folder)
@_choice("--epochs", click.IntRange(1), "Passes over the training split.")
@_choice("--batch-size", click.IntRange(1), "Samples a step.")
@_choice("--learning-rate", click.FloatRange(0, min_open=True), "Peak of the schedule.")
@_choice("--network", click.Choice(NETWORK_NAMES), "'cosmoflow' sizes itself to the cubes.")
@_choice("--width", click.IntRange(1), "Channels of the first convolution of 'cosmoflow'.")
@_choice("--patience", click.IntRange(0), "Epochs without a better validation; 0: all epochs.")
@_choice("--seed", click.IntRange(0), "Of weights, order and augmentation.")
@_choice("--augment/--no-augment", None, "Random symmetries, and shifts of whole boxes.")
@_choice("--threads", click.IntRange(0), "Of TensorFlow; 0: as many as it likes.")
@click.option("--run", type=_Folder, help="Folder for the results, new.  [default: DATASET-run]")
@click.option("--resume", is_flag=True, help="Go on with the run in that folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def fit(
    context: click.Context,
    /,
    dataset: Path,
    run: Path | None,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train on the data set in the folder DATASET and evaluate on its test split."""
    folder = run or default_run(dataset)
    spec = _resumed_spec(context, folder, options) if resume else TrainSpec(**options)
    backend.load(spec.threads)
    from cosmoflow_model import train  # noqa: PLC0415  (imports TensorFlow)

    others = not resume and (folder / SPEC_NAME).exists()
    try:
        with _progress(spec.epochs) as show:
            result = train.fit(dataset, spec, folder, resume=resume, on_epoch=show)
    except KeyboardInterrupt:
        _say_how_to_go_on(dataset, folder)
        raise
    except CosmoflowError as error:
        # a TrainingError says itself what to do, and that may be another run
        if not isinstance(error, TrainingError) and not others and (folder / SPEC_NAME).exists():
            _say_how_to_go_on(dataset, folder, "once the error below is mended, ")
        raise
    _print_result(result, train.summary(result) if as_json else None)


@cli.command(epilog="Example: cosmoflow-train evaluate datasets/quijote-run --split validation")
@click.argument("run", type=_Folder)
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--dataset", type=_Folder, default=None, help="Where the data set is now, if moved.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Of TensorFlow; 0: its choice.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as one JSON object.")
def evaluate(run: Path, split: str, dataset: Path | None, threads: int, as_json: bool) -> None:
    """Evaluate the finished run in the folder RUN on a split of its data set.

    Writes metrics.json, predictions.csv and predictions.png to RUN/evaluate-SPLIT.
    """
    backend.load(threads)
    from cosmoflow_model import evaluate as evaluating  # noqa: PLC0415  (imports TensorFlow)
    from cosmoflow_model import report  # noqa: PLC0415

    evaluation = evaluating.evaluate_run(run, cast(SplitName, split), dataset)
    report.write_evaluation(evaluation, run / f"evaluate-{split}")
    if as_json:
        click.echo(json.dumps(evaluation.metrics()))
    else:
        Console().print(report.table(evaluation))


def _say_how_to_go_on(dataset: Path, folder: Path, when: str = "") -> None:
    again = shlex.join(["cosmoflow-train", "fit", str(dataset), "--run", str(folder)])
    click.echo(f"{when}go on after the last whole epoch with: {again} --resume", err=True)


def _resumed_spec(context: click.Context, folder: Path, options: dict[str, Any]) -> TrainSpec:
    """Spec that the run began with, changed by the options that were given."""
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }
    return replace(read_record(folder).spec, **given)


@contextmanager
def _progress(epochs: int) -> Iterator[Show]:
    """Show epochs on stderr: a bar on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda row, planned: click.echo(_line(row, planned), err=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("first epoch", total=epochs)
        yield lambda row, planned: bar.update(
            task, completed=row["epoch"], description=_line(row, planned)
        )


def _line(row: dict[str, float], planned: int) -> str:
    return (
        f"epoch {row['epoch']:.0f}/{planned}  loss {row['loss']:.4f}  "
        f"validation {row['validation_loss']:.4f}  {row['seconds']:.1f} s"
    )


def _print_result(result: FitResult, as_json: dict[str, Any] | None) -> None:
    if as_json is not None:
        click.echo(json.dumps(as_json))
        return
    from cosmoflow_model import report  # noqa: PLC0415  (imports TensorFlow)

    if result.evaluation.split != "test":
        click.echo("the data set has no test split: these numbers are of the validation split")
    Console().print(report.table(result.evaluation))
    click.echo(
        f"best epoch {result.best_epoch} of {len(result.history)}, "
        f"{result.samples_per_second:.0f} samples/s; all files in {result.run}"
    )


if __name__ == "__main__":
    main()
