"""The command ``cosmoflow-prep verify``: look, print, and tell scripts by the exit code."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import terminal
from pipeline.cli_options import PATH, PLACE, cluster_choice, cluster_options, json_option
from pipeline.errors import DatasetError, InputError

if TYPE_CHECKING:
    from pipeline.verify import Progress, Report, Verification
    from pipeline.verify_deep import Comparison

MOST_SHOWN = 200
"""Faults that are printed; --json has all."""


@click.command()
@click.argument("dataset", type=PLACE)
@click.option("--deep", is_flag=True, help="Also make some shards again and compare.")
@click.option(
    "--fraction",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Of the shards, for --deep.",
)
@click.option("--shards", type=click.IntRange(1), help="How many instead of a fraction.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which ones.")
@click.option("--recipe", type=PATH, help="For --deep.  [default: as the build noted it]")
@click.option("--input-root", type=PATH, help="For --deep: the folder that the recipe was in.")
@cluster_options
@json_option
def verify(dataset: Path | str, **options: Any) -> None:
    """Check every byte, count and split of the data set in DATASET.

    Up to 4 GiB are read by threads, more by a local cluster (--workers 1: never).

    \b
    Example:
      cosmoflow-prep verify datasets/quijote
      cosmoflow-prep verify datasets/quijote --deep --fraction 0.05 --recipe recipe.yaml

    Exit codes: 0 whole, 6 faults (one line each), 4 the input for --deep is gone or another.
    """  # noqa: D301  (the backspace is click's own mark: keep these lines)
    from pipeline.manifest import load  # noqa: PLC0415
    from pipeline.runners import runner  # noqa: PLC0415  (imports distributed)
    from pipeline.verify import listed, verify_with  # noqa: PLC0415
    from pipeline.write.stores import open_store  # noqa: PLC0415

    choice = cluster_choice(options["cluster"], options["workers"], options["memory_limit"])
    store = open_store(dataset)
    manifest = load(store)
    compared = None
    with (
        runner(choice, sum(file.bytes for file in listed(manifest))) as run,
        terminal.progress(terminal.error_console()) as advance,
    ):
        result = verify_with(run, store, manifest, shown(advance, "verify"))
        if options["deep"]:
            from pipeline.remake import find_source  # noqa: PLC0415
            from pipeline.verify_deep import Sampling, verify_deep  # noqa: PLC0415

            source = find_source(store, options["recipe"], options["input_root"])
            sampling = Sampling(options["fraction"], options["shards"], options["seed"])
            deep = shown(advance, "compare")
            compared = verify_deep(run, store, manifest, source, sampling=sampling, report=deep)
    _print(dataset, result, compared, options["as_json"])
    for universe in [] if options["as_json"] else manifest.quarantined:
        click.echo(f"quarantined: {universe.id}: {' '.join(universe.reason.split())}")
    _leave(dataset, result, compared)


def shown(advance: terminal.Advance, stage: str) -> Report:
    """Callback that shows progress in files, and bytes a second where bytes are read."""
    started = time.monotonic()

    def show(progress: Progress) -> None:
        seconds = max(time.monotonic() - started, 1e-3)
        note = f"{terminal.size(progress.bytes)}, {terminal.size(progress.bytes / seconds)}/s"
        advance(stage, progress.done, progress.total, note if progress.bytes else "")

    return show


def _print(
    dataset: Path | str, result: Verification, compared: Comparison | None, as_json: bool
) -> None:
    if as_json:
        click.echo(json.dumps(facts(result) | (_deep_facts(compared) if compared else {})))
        return
    print_faults([*result.faults, *(str(f) for f in (compared.found if compared else []))])
    if result.passed:
        click.echo(
            f"{dataset} is whole: {result.files} files, {terminal.size(result.bytes)}, "
            f"{result.samples} samples; digests, counts, mass, splits and targets are right"
        )
    if compared is None:
        return
    for reason in compared.not_compared:
        click.echo(f"not compared: {reason}")
    if not compared.found:
        click.echo(f"{compared.compared} shards made again are the same, byte for byte")
    for note in compared.notes:
        click.echo(f"a likely reason: {note}")


def print_faults(faults: list[str]) -> None:
    """One line each; of very many, the first."""
    for fault in faults[:MOST_SHOWN]:
        click.echo(f"fault: {fault}")
    if len(faults) > MOST_SHOWN:
        click.echo(f"and {len(faults) - MOST_SHOWN} more faults; --json prints all")


def facts(result: Verification) -> dict[str, Any]:
    """What ``--json`` prints: messages, and the same in parts."""
    return {
        "passed": result.passed,
        "faults": result.faults,
        "details": [fault.facts() for fault in result.found],
        "files": result.files,
        "samples": result.samples,
        "bytes": result.bytes,
    }


def _deep_facts(compared: Comparison) -> dict[str, Any]:
    return {
        "deep": {
            "passed": not compared.found and not compared.not_compared,
            "faults": [str(fault) for fault in compared.found],
            "details": [fault.facts() for fault in compared.found],
            "not_compared": compared.not_compared,
            "compared": compared.compared,
            "notes": compared.notes,
        }
    }


def _leave(dataset: Path | str, result: Verification, compared: Comparison | None) -> None:
    if not result.passed:
        raise DatasetError(
            f"{dataset}: {len(result.found)} faults; make what is damaged again with "
            f"'cosmoflow-prep repair {dataset}', or restore it from a copy"
        )
    if compared is not None and compared.found:
        raise DatasetError(
            f"{dataset}: {len(compared.found)} differences from what its input gives; build it "
            "again into another folder and compare, or restore it from a copy"
        )
    if compared is not None and compared.not_compared:
        raise InputError(
            f"{dataset}: {len(compared.not_compared)} shards could not be compared, for their "
            "input; name its folder with --recipe or --input-root, or restore it"
        )
