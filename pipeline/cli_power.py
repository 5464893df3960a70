"""The command ``cosmoflow-prep power``: parse, measure, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from pipeline import terminal

if TYPE_CHECKING:
    from pipeline.snapshot_power import Measurement

_PATH = click.Path(path_type=Path)
_POSITIVE = click.FloatRange(min=0, min_open=True)
_HEADS = {
    "k": "k (h/Mpc)",
    "power": "P(k) (Mpc/h)^3",
    "sample_error": "sample error",
    "shot_noise": "shot noise",
    "modes": "modes",
    "linear": "linear theory",
}


def _parameters(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> dict[str, float]:
    """``NAME=VALUE`` of the command line as names and numbers."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise click.BadParameter(
                f"{text!r} is not NAME=NUMBER, for example sigma_8=0.83"
            ) from None
    return found


@click.command()
@click.argument("places", nargs=-1, required=True, metavar="PATH...")
@click.option("--universe", help="Id of a universe of a data set.")
@click.option(
    "--redshift", type=float, help="Of a file or data set of several.  [default: all of them]"
)
@click.option(
    "--n-grid",
    type=click.IntRange(4, 4096),
    help="Cells a side, for particles.  [default: about one a particle, 32 to 512]",
)
@click.option(
    "--scheme",
    type=click.Choice(["ngp", "cic", "tsc", "pcs"]),
    help="Mass assignment.  [default: tsc; of a grid: as it says]",
)
@click.option("--interlace", is_flag=True, help="Two grids, half a cell apart: less aliasing.")
@click.option("--no-compensate", is_flag=True, help="Leave the window of mass assignment in.")
@click.option(
    "--shot-noise", type=click.Choice(["keep", "subtract"]), default="keep", show_default=True
)
@click.option("--k-max", type=_POSITIVE, help="h/Mpc.  [default: the Nyquist frequency]")
@click.option("--bin-width", type=_POSITIVE, help="h/Mpc.  [default: the box's lowest mode]")
@click.option("--length-unit", help="For a snapshot that does not state it, e.g. kpc/h.")
@click.option("--box-size", type=_POSITIVE, help="Mpc/h, for a snapshot that does not state it.")
@click.option("--file-redshift", type=float, help="For a snapshot that does not state it.")
@click.option(
    "--parameter",
    "-p",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_parameters,
    help="Omega_m, Omega_b, sigma_8, n_s or h, for linear theory, where PATH does not tell.",
)
@click.option("--csv", "csv_file", type=_PATH, help="Also write a table.")
@click.option("--plot", type=_PATH, help="Also write a figure, .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def power(places: tuple[str, ...], **options: Any) -> None:
    """Print and plot the power spectrum of snapshots, ready grids or cubes of data sets.

    The window of the mass assignment is divided out, k and -k both count as modes, and
    the sample error is sqrt(2 / modes) P(k).

    \b
    Example:
      cosmoflow-prep power sims/u0000/snapshot_003.hdf5 --interlace --plot power.png
      cosmoflow-prep power datasets/quijote --universe u0000 --redshift 0 --csv power.csv
    """  # noqa: D301  (the backspace is click's own mark: keep these lines)
    from pipeline.power_report import check_picture, facts  # noqa: PLC0415  (imports numba)

    if options["plot"] is not None:
        check_picture(options["plot"])
    measured = _measure_all(places, options)
    _write_files(measured, options["csv_file"], options["plot"])
    if options["as_json"]:
        click.echo(json.dumps({"spectra": [facts(one) for one in measured]}))
        return
    for one in measured:
        _print(one)
    _say_what_is_missing(measured, options["plot"])


def _measure_all(places: Sequence[str], options: dict[str, Any]) -> list[Measurement]:
    from dataclasses import replace  # noqa: PLC0415

    from pipeline.snapshot import ReadOptions  # noqa: PLC0415
    from pipeline.snapshot_power import Request, measure  # noqa: PLC0415

    request = Request(
        n_grid=options["n_grid"],
        scheme=options["scheme"],
        interlace=options["interlace"],
        compensate=not options["no_compensate"],
        subtract_shot_noise=options["shot_noise"] == "subtract",
        k_max=options["k_max"],
        bin_width=options["bin_width"],
    )
    reading = ReadOptions(
        length_unit=options["length_unit"],
        box_size=options["box_size"],
        redshift=options["file_redshift"],
    )
    found = [
        one
        for place in places
        for one in measure(place, request, reading, options["universe"], options["redshift"])
    ]
    given = options["parameters"]
    return [replace(one, parameters=one.parameters | given) for one in found]


def _write_files(measured: Sequence[Measurement], table: Path | None, plot: Path | None) -> None:
    from pipeline.power_report import csv_bytes, picture  # noqa: PLC0415
    from pipeline.write.atomic import write_atomically  # noqa: PLC0415

    if table is not None:
        write_atomically(table, csv_bytes(measured))
        click.echo(f"wrote {table}", err=True)
    if plot is not None:
        write_atomically(plot, picture(measured, plot))
        click.echo(f"wrote {plot}", err=True)


def _print(one: Measurement) -> None:
    """A table on a terminal, columns of plain text elsewhere."""
    from pipeline.power_report import columns, rows, title  # noqa: PLC0415

    out, names = terminal.console(), list(columns(one))
    if out.is_terminal:
        out.print(terminal.table(escape(title(one)), [_HEADS[name] for name in names], rows(one)))
        return
    click.echo(f"# {title(one)}")
    click.echo("# " + " ".join(f"{name:>12}" for name in names)[2:])
    for row in rows(one):
        click.echo(" ".join(f"{cell:>12}" for cell in row))


def _say_what_is_missing(measured: Sequence[Measurement], plot: Path | None) -> None:
    missing = sorted({name for one in measured for name in one.missing})
    if plot is not None and missing:
        given = " ".join(f"-p {name}=..." for name in missing)
        click.echo(f"no linear theory without {', '.join(missing)}; give {given}", err=True)
