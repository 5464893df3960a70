"""The command line ``cosmoflow-prep``: parse, call, print; no science.

Heavy modules (Dask's cluster, JAX, matplotlib) are imported by the commands
that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline import terminal
from pipeline.entry import run_command
from pipeline.errors import CosmoflowError, DatasetError, InputError

if TYPE_CHECKING:
    from pipeline.build import BuildResult, Progress
    from pipeline.cluster import ClusterChoice
    from pipeline.plan import Plan
    from pipeline.survey import Refusal, SurveyedUniverse

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
_RANGE = click.FloatRange(min=0)


def main() -> None:
    """Entry point of ``cosmoflow-prep``."""
    sys.exit(run_command(cli))


def _json_option(command: _Command) -> _Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def _cluster_options(command: _Command) -> _Command:
    options = (
        click.option(
            "--cluster",
            default="local",
            show_default=True,
            help="local; tcp://host:port of a scheduler; or a scheduler file (.json).",
        ),
        click.option(
            "--workers", type=click.IntRange(1), help="Local worker processes.  [default: cores]"
        ),
        click.option(
            "--memory-limit", default="auto", show_default=True, help="Of a worker, e.g. 2GiB."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _choice(cluster: str, workers: int | None, memory_limit: str) -> ClusterChoice:
    from pipeline.cluster import ClusterChoice  # noqa: PLC0415  (imports distributed)

    return ClusterChoice(cluster, workers, memory_limit)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cosmoflow-prep")
def cli() -> None:
    r"""Make train-ready data sets of N-body snapshots.

    \b
    Example:
      cosmoflow-prep demo                      # everything, on universes that it makes
      cosmoflow-prep init sims/ -o recipe.yaml # a recipe for your own snapshots
      cosmoflow-prep check recipe.yaml
      cosmoflow-prep build recipe.yaml
      cosmoflow-prep verify datasets/quijote

    Exit codes: 0 done, 1 a defect of this software, 2 wrong usage, 3 recipe,
    4 input (snapshots, parameters), 5 output (exists, locked, disk full),
    6 damaged data set, 7 library missing, 8 workers died, 9 simulation,
    10 training, 130 stopped by Ctrl-C, 143 stopped by SIGTERM.
    """


@cli.command()
@click.argument("simulations", type=_PATH, required=False)
@click.option("--output", "-o", type=_PATH, default="recipe.yaml", show_default=True)
@click.option("--name", default="my-universes", show_default=True, help="Of the data set.")
def init(simulations: Path | None, output: Path, name: str) -> None:
    r"""Write a commented recipe, filled in from the folder SIMULATIONS.

    \b
    Example:
      cosmoflow-prep init sims/ -o recipe.yaml
    """
    from pipeline.starter import write_recipe  # noqa: PLC0415

    found = write_recipe(output, simulations, name)
    if found:
        header = found.headers[0]
        click.echo(
            f"{found.n_universes} folders in {found.folder}; the first holds "
            f"{len(found.headers)} snapshots in {header.format}, {header.n_particles} particles "
            f"in {header.box_size:g} Mpc/h"
        )
    click.echo(f"wrote {output}; next: cosmoflow-prep check {output}")


@cli.command()
@click.argument("recipe", type=_PATH)
@click.option("--full", is_flag=True, help="Also read every position: finite, inside, counted.")
@_cluster_options
@_json_option
def check(
    recipe: Path,
    *,
    full: bool,
    cluster: str,
    workers: int | None,
    memory_limit: str,
    as_json: bool,
) -> None:
    r"""Read every header that RECIPE would use; a line for each universe that is refused.

    \b
    Example:
      cosmoflow-prep check recipe.yaml
      cosmoflow-prep check recipe.yaml --full    # every position too
    """
    from pipeline.build import check_recipe  # noqa: PLC0415
    from pipeline.stream_check import try_stream  # noqa: PLC0415
    from pipeline.survey import check_boxes, check_duplicates, try_survey  # noqa: PLC0415

    choice = _choice(cluster, workers, memory_limit)
    with terminal.progress(terminal.error_console()) as advance:
        look = try_stream if full else try_survey
        good, refused = check_recipe(recipe, choice, _shown(advance), look)
    _print_check(good, refused, full, as_json)
    if refused:
        raise InputError(f"{len(refused)} of {len(good) + len(refused)} universes are refused")
    check_duplicates(good)
    check_boxes(good)


def _print_check(
    good: list[SurveyedUniverse], refused: list[Refusal], full: bool, as_json: bool
) -> None:
    from pipeline import check as facts  # noqa: PLC0415

    if as_json:
        found = {
            "accepted": [facts.universe_facts(u) for u in good],
            "refused": {r.id: r.reason for r in refused},
            "totals": facts.totals(good, refused),
        }
        click.echo(json.dumps(found))
        return
    title = f"{len(good)} universes would be read"
    rows = [facts.row(universe) for universe in good]
    terminal.console().print(terminal.table(title, facts.columns(full), rows))
    for line in facts.summary(good, refused):
        click.echo(line)
    for refusal in refused:
        click.echo(f"refused: {refusal.id}: {' '.join(refusal.reason.split())}", err=True)


@cli.command()
@click.argument("recipe", type=_PATH)
@_cluster_options
@_json_option
def plan(recipe: Path, cluster: str, workers: int | None, memory_limit: str, as_json: bool) -> None:
    r"""Say what a build of RECIPE would make, and what it needs; nothing is written.

    \b
    Example:
      cosmoflow-prep plan recipe.yaml
    """
    from pipeline.build import plan_recipe  # noqa: PLC0415

    made = plan_recipe(recipe, _choice(cluster, workers, memory_limit))
    facts = _plan_facts(made, recipe)
    if as_json:
        click.echo(json.dumps(facts))
        return
    rows = [
        [name, str(len(made.splits[name])), str(made.n_samples(name)), ", ".join(members[:4])]
        for name, members in facts["universes"].items()
    ]
    columns = ["split", "universes", "samples", "first universes"]
    out = terminal.console()
    out.print(terminal.table(f"Plan of {made.recipe.name}", columns, rows))
    for line in _plan_lines(made, facts):
        click.echo(line)


def _plan_facts(made: Plan, recipe: Path) -> dict[str, Any]:
    output = recipe.resolve().parent / made.recipe.output.path
    existing = next(p for p in (output, *output.parents) if p.exists())
    return {
        "name": made.recipe.name,
        "universes": {name: [u.id for u in members] for name, members in made.splits.items()},
        "samples": {name: made.n_samples(name) for name in made.splits},
        "sample_shape": made.recipe.sample_shape,
        "dtype": made.recipe.dtype,
        "cells": _cells(made),
        "tasks": len(made.tasks),
        "shards": made.n_shards,
        "particles": sum(u.n_particles for members in made.splits.values() for u in members),
        "output": str(output),
        "output_bytes_uncompressed": made.output_bytes,
        "worker_bytes": made.worker_bytes,
        "free_bytes": shutil.disk_usage(existing).free,
    }


def _cells(made: Plan) -> str:
    """What the cells of the samples will hold, in words."""
    scheme = made.recipe.grid.scheme
    if scheme == "ready":
        return f"{made.quantity} as the ready grids hold it"
    return f"{made.quantity} by {scheme.upper()} mass assignment"


def _plan_lines(made: Plan, facts: dict[str, Any]) -> list[str]:
    shape = " x ".join(str(n) for n in facts["sample_shape"])
    return [
        f"samples: {shape} {facts['dtype']}, {facts['cells']}",
        f"particles to read: {facts['particles']:,}",
        f"{facts['tasks']} tasks write {facts['shards']} shards to {facts['output']}",
        f"size: {terminal.size(facts['output_bytes_uncompressed'])} before compression; "
        f"{terminal.size(facts['free_bytes'])} free",
        f"memory of one worker: at most {terminal.size(facts['worker_bytes'])}",
    ]


@cli.command()
@click.argument("recipe", type=_PATH)
@click.option("--resume", is_flag=True, help="Go on with a build that was stopped.")
@_cluster_options
@_json_option
def build(
    recipe: Path,
    *,
    resume: bool,
    cluster: str,
    workers: int | None,
    memory_limit: str,
    as_json: bool,
) -> None:
    r"""Build the data set of RECIPE.

    It appears when it is whole: until then there is no manifest, and a
    stopped build goes on with --resume.

    \b
    Example:
      cosmoflow-prep build recipe.yaml --workers 2
    """
    from pipeline.build import build as run_build  # noqa: PLC0415

    choice = _choice(cluster, workers, memory_limit)
    try:
        with terminal.progress(terminal.error_console()) as advance:
            result = run_build(recipe, choice, resume, _shown(advance))
    except (CosmoflowError, KeyboardInterrupt):
        _say_how_to_go_on(recipe)
        raise
    if as_json:
        click.echo(json.dumps(_build_facts(result)))
        return
    for line in _build_lines(result):
        click.echo(line)


def _shown(advance: terminal.Advance) -> Callable[[Progress], None]:
    """Callback that shows progress, and the dashboard's address once."""
    shown: list[str] = []

    def show(progress: Progress) -> None:
        if progress.dashboard and progress.dashboard not in shown:
            shown.append(progress.dashboard)
            click.echo(f"Dask dashboard: {progress.dashboard}", err=True)
        note = f"{progress.particles:,} particles" if progress.particles else ""
        advance(progress.stage, progress.done, progress.total, note)

    return show


def _say_how_to_go_on(recipe: Path) -> None:
    from pipeline.build import resumable  # noqa: PLC0415

    done = resumable(recipe)
    if done is not None:
        click.echo(
            f"{done} shards are finished and kept; go on with: "
            f"cosmoflow-prep build {recipe} --resume",
            err=True,
        )


def _build_facts(result: BuildResult) -> dict[str, Any]:
    manifest = result.manifest
    return {
        "output": str(result.output),
        "samples": {name: split.samples for name, split in manifest.splits.items()},
        "shards": len(manifest.shards),
        "shards_kept": result.shards_kept,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "seconds": result.seconds,
        "stage_seconds": result.stages,
    }


def _build_lines(result: BuildResult) -> list[str]:
    facts = _build_facts(result)
    samples = ", ".join(f"{n} {name}" for name, n in facts["samples"].items())
    stages = ", ".join(f"{name} {s:.1f} s" for name, s in result.stages.items())
    kept = f" ({result.shards_kept} were there already)" if result.shards_kept else ""
    return [
        f"built {result.output} in {result.seconds:.1f} s: {samples} samples in "
        f"{facts['shards']} shards{kept}, {terminal.size(facts['bytes'])}",
        f"work of all workers: {stages}",
        f"next: cosmoflow-prep verify {result.output}; cosmoflow-train fit {result.output}",
    ]


@cli.command()
@click.argument("path", type=_PATH)
@click.option("--length-unit", help="For a snapshot that does not state it, e.g. kpc/h.")
@click.option("--box-size", type=_RANGE, help="Mpc/h, for a snapshot that does not state it.")
@click.option("--picture", type=_PATH, help="Also write a PNG of a cube of the data set.")
@_json_option
def inspect(
    path: Path, length_unit: Any, box_size: float | None, picture: Path | None, as_json: bool
) -> None:
    r"""Say what PATH is: a data set, an unfinished build, a recipe or a snapshot.

    \b
    Example:
      cosmoflow-prep inspect datasets/quijote --picture cube.png
      cosmoflow-prep inspect sims/u0000/snapshot_003.hdf5
    """
    from pipeline.inspect import describe  # noqa: PLC0415
    from pipeline.snapshot import ReadOptions  # noqa: PLC0415

    facts = describe(path, ReadOptions(length_unit=length_unit, box_size=box_size))
    if picture is not None:
        from pipeline.manifest import load  # noqa: PLC0415
        from pipeline.pictures import write_slabs  # noqa: PLC0415

        universe = write_slabs(path, load(path), picture)
        click.echo(f"wrote {picture}: a slab of universe {universe.id}", err=True)
    if as_json:
        click.echo(json.dumps(facts, default=str))
        return
    rows = [[name, _plain(value)] for name, value in facts.items() if value is not None]
    shown = terminal.table(f"{path}", ["", ""], rows)
    shown.show_header = False
    shown.columns[1].justify = "left"
    terminal.console().print(shown)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(inner) for inner in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@cli.command()
@click.argument("dataset", type=_PATH)
@_json_option
def verify(dataset: Path, as_json: bool) -> None:
    r"""Check every byte, count and split of the data set in DATASET.

    \b
    Example:
      cosmoflow-prep verify datasets/quijote
    """
    from pipeline.verify import verify as run_verify  # noqa: PLC0415

    with terminal.progress(terminal.error_console()) as advance:
        result = run_verify(dataset, lambda done, total: advance("verify", done, total, ""))
    if as_json:
        facts = {"passed": result.passed, "faults": result.faults, "files": result.files}
        click.echo(json.dumps(facts | {"samples": result.samples, "bytes": result.bytes}))
    for fault in [] if as_json else result.faults:
        click.echo(f"fault: {fault}")
    if not result.passed:
        raise DatasetError(f"{dataset}: {len(result.faults)} faults; build it again, or restore it")
    if not as_json:
        click.echo(
            f"{dataset} is whole: {result.files} files, {terminal.size(result.bytes)}, "
            f"{result.samples} samples; digests, counts, mass, splits and targets are right"
        )


@cli.command()
@click.argument("dataset", type=_PATH)
@click.option("--run", type=_PATH, help="Folder of a training run to show too.")
@click.option("--output", "-o", type=_PATH, help="[default: DATASET/report.html]")
def report(dataset: Path, run: Path | None, output: Path | None) -> None:
    r"""Write an HTML report of a data set, and of a training run on it.

    \b
    Example:
      cosmoflow-prep report datasets/quijote --run datasets/quijote-run
    """
    from pipeline.report import write_report  # noqa: PLC0415

    click.echo(f"wrote {write_report(dataset, run, output)}")


@cli.command()
@click.argument("output", type=_PATH)
@click.option("--universes", "-n", type=click.IntRange(1), default=128, show_default=True)
@click.option("--particles", type=click.IntRange(8), default=64, show_default=True, help="A side.")
@click.option("--box-size", type=_RANGE, default=128.0, show_default=True, help="Mpc/h.")
@click.option(
    "--redshifts", default="3,1.5,0.5,0", show_default=True, help="Outputs, comma separated."
)
@click.option("--omega-m", nargs=2, type=float, default=(0.1, 0.5), show_default=True)
@click.option("--sigma-8", nargs=2, type=float, default=(0.6, 1.0), show_default=True)
@click.option("--n-s", nargs=2, type=float, default=(0.8, 1.2), show_default=True)
@click.option("--design", type=click.Choice(["sobol", "latin-hypercube"]), default="sobol")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=11, show_default=True, help="In time.")
@click.option("--files", type=click.IntRange(1), default=1, show_default=True, help="A snapshot.")
@click.option("--velocities/--no-velocities", default=True, show_default=True)
@click.option("--processes", type=click.IntRange(1), help="[default: one a core]")
def simulate(output: Path, processes: int | None, **options: Any) -> None:
    r"""Simulate an ensemble of universes with PM++ into the folder OUTPUT.

    Writes OUTPUT/cosmology.csv and Gadget-4 style snapshots OUTPUT/u0000/...;
    called again, it makes what is missing.

    \b
    Example:
      cosmoflow-prep simulate sims -n 16 --particles 64 --seed 3
    """
    from pipeline.simulate import EnsembleSpec, simulate_ensemble  # noqa: PLC0415

    spec = EnsembleSpec(
        n_universes=options["universes"],
        ranges={
            "Omega_m": options["omega_m"],
            "sigma_8": options["sigma_8"],
            "n_s": options["n_s"],
        },
        design=options["design"],
        seed=options["seed"],
        box_size=options["box_size"],
        n_particles=options["particles"],
        redshifts=_redshifts(options["redshifts"]),
        time_steps=options["steps"],
        velocities=options["velocities"],
        n_files=options["files"],
    )
    with terminal.progress(terminal.error_console()) as advance:
        result = simulate_ensemble(
            spec,
            output,
            lambda done, total, name, seconds: advance(
                "simulate", done, total, f"{name} in {seconds:.1f} s"
            ),
            processes,
        )
    click.echo(
        f"{len(result.simulated)} universes made, {len(result.kept)} were there; "
        f"next: cosmoflow-prep init {output}"
    )


def _redshifts(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(z) for z in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a comma separated list of numbers", param_hint="--redshifts"
        ) from None


@cli.command()
@click.argument("output", type=_PATH, default=Path("cosmoflow-demo"))
@click.option("--quick", is_flag=True, help="A minute: few, small universes; learns little.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def demo(output: Path, quick: bool, seed: int) -> None:
    r"""Universes, data set, training and report, from nothing, in the folder OUTPUT.

    \b
    Example:
      cosmoflow-prep demo
    """
    from pipeline.demo import run_demo  # noqa: PLC0415

    run_demo(output, quick, seed, click.echo)


if __name__ == "__main__":
    main()
