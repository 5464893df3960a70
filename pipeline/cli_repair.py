"""The command ``cosmoflow-prep repair``: make again, print, and tell scripts by the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import terminal
from pipeline.cli_options import PATH, PLACE, cluster_choice, cluster_options, json_option
from pipeline.cli_verify import print_faults, shown
from pipeline.errors import DatasetError

if TYPE_CHECKING:
    from pipeline.repair import Repair


@click.command()
@click.argument("dataset", type=PLACE)
@click.option("--recipe", type=PATH, help="That made it.  [default: as the build noted it]")
@click.option("--input-root", type=PATH, help="The folder that the recipe was in, if it is gone.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--remove-strangers", is_flag=True, help="Remove files among the samples that are not listed."
)
@cluster_options
@json_option
def repair(dataset: Path | str, **options: Any) -> None:
    """Make again exactly what is damaged in the data set in DATASET.

    Damaged files are made from recipe and input; one takes its place only if its digest is
    the one that was published. What cannot be made again is left as it is, and named.

    \b
    Example:
      cosmoflow-prep repair datasets/quijote --dry-run
      cosmoflow-prep repair datasets/quijote --recipe recipe.yaml

    Exit codes: 0 the data set is whole, 6 something is left (with --dry-run: anything was
    found), 4 the input cannot be listed, 3 another recipe, 5 held by another process.
    """  # noqa: D301  (the backspace is click's own mark: keep these lines)
    from pipeline.remake import find_source  # noqa: PLC0415
    from pipeline.repair import Wishes  # noqa: PLC0415
    from pipeline.repair import repair as run_repair  # noqa: PLC0415  (imports distributed)
    from pipeline.write.stores import open_store  # noqa: PLC0415

    choice = cluster_choice(options["cluster"], options["workers"], options["memory_limit"])
    wishes = Wishes(options["dry_run"], options["remove_strangers"])
    source = find_source(open_store(dataset), options["recipe"], options["input_root"])
    with terminal.progress(terminal.error_console()) as advance:
        result = run_repair(
            dataset, source, wishes, choice=choice, shown=lambda stage: shown(advance, stage)
        )
    _print(dataset, result, wishes.dry_run, options["as_json"])
    if result.left or (wishes.dry_run and result.found):
        left = len(result.left) if result.left else len(result.found)
        raise DatasetError(f"{dataset}: {left} faults are left; {_advice(result, wishes.dry_run)}")


def _advice(result: Repair, dry_run: bool) -> str:
    if dry_run:
        return "nothing was changed, for --dry-run"
    return "each is named with what to do" if result.left else ""


def _print(dataset: Path | str, result: Repair, dry_run: bool, as_json: bool) -> None:
    if as_json:
        facts = {
            "found": [fault.facts() for fault in result.found],
            "repaired": result.repaired,
            "removed": result.removed,
            "left": result.left,
            "notes": result.notes,
            "dry_run": dry_run,
        }
        click.echo(json.dumps(facts))
        return
    print_faults([str(fault) for fault in result.found])
    would = "would be " if dry_run else ""
    for path in result.repaired:
        click.echo(f"{would}made again: {path}")
    for path in result.removed:
        click.echo(f"{would}removed: {path}")
    for line in result.left:
        click.echo(f"left: {line}")
    for note in result.notes:
        click.echo(f"a likely reason: {note}")
    if not result.found:
        click.echo(f"{dataset} is whole: nothing to do")
    elif not result.left and not dry_run:
        click.echo(f"{dataset} is whole again: {len(result.repaired)} files made again")
