"""The command line ``cosmoflow-prep``: parse, call, print; no science.

Heavy modules (Dask's cluster, JAX, matplotlib) are imported by the commands
that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import terminal
from pipeline.cli_options import PATH as _PATH
from pipeline.cli_options import PLACE as _PLACE
from pipeline.cli_options import cluster_choice as _choice
from pipeline.cli_options import cluster_options as _cluster_options
from pipeline.cli_options import json_option as _json_option
from pipeline.cli_power import power
from pipeline.cli_repair import repair
from pipeline.cli_status import status
from pipeline.cli_verify import verify
from pipeline.entry import given_options, run_command
from pipeline.errors import QUARANTINED_EXIT_CODE, CosmoflowError, InputError
from pipeline.write.stores import is_url, open_store

if TYPE_CHECKING:
    from pipeline.boxes import SplitBoxes
    from pipeline.build import BuildResult
    from pipeline.manifest import Manifest
    from pipeline.plan import Plan
    from pipeline.rounds import Progress
    from pipeline.survey import Refusal, SurveyedUniverse

_RANGE = click.FloatRange(min=0)
_BACKENDS = ("cpu", "cuda")  # of pipeline.deposit.backends, whose import is not light


def main() -> None:
    """Entry point of ``cosmoflow-prep``."""
    sys.exit(run_command(cli))


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
    10 training, 11 built, but universes are quarantined, 130 stopped by Ctrl-C,
    143 stopped by SIGTERM.
    """


cli.add_command(power)
cli.add_command(status)
cli.add_command(verify)
cli.add_command(repair)


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
    from pipeline.disk_space import estimate  # noqa: PLC0415

    output = open_store(made.recipe.output.path, recipe.resolve().parent)
    space = estimate(made)
    return {
        "name": made.recipe.name,
        "universes": {name: [u.id for u in members] for name, members in made.splits.items()},
        "samples": {name: made.n_samples(name) for name in made.splits},
        "sample_shape": made.recipe.sample_shape,
        "dtype": made.recipe.dtype,
        "cells": _cells(made),
        "tasks": len(made.tasks),
        "shards": made.n_shards,
        "quarantined": {u.id: u.reason for u in made.quarantined},
        "particles": sum(u.n_particles for members in made.splits.values() for u in members),
        "output": str(output),
        "output_bytes_uncompressed": made.output_bytes,
        "output_bytes_at_most": space.bytes_at_most,
        "output_bytes_at_least": space.bytes_at_least,
        "shard_bytes_at_most": space.bytes_of_a_shard,
        "worker_bytes": made.worker_bytes,
        "worker_bytes_in_parts": made.worker_bytes_in_parts,
        "scratch_bytes_at_most": made.scratch_bytes,
        "free_bytes": output.free_bytes(),
    }


def _cells(made: Plan) -> str:
    """What the cells of the samples will hold, in words."""
    scheme = made.recipe.grid.scheme
    if scheme == "ready":
        return f"{made.quantity} as the ready grids hold it"
    return f"{made.quantity} by {scheme.upper()} mass assignment"


def _plan_lines(made: Plan, facts: dict[str, Any]) -> list[str]:
    shape = " x ".join(str(n) for n in facts["sample_shape"])
    free = facts["free_bytes"]
    sizes = ("uncompressed", "at_most", "at_least")
    raw, most, least = (terminal.size(facts[f"output_bytes_{name}"]) for name in sizes)
    shard = terminal.size(facts["shard_bytes_at_most"])
    return [
        f"samples: {shape} {facts['dtype']}, {facts['cells']}",
        f"particles to read: {facts['particles']:,}",
        f"{facts['tasks']} tasks write {facts['shards']} shards to {facts['output']}",
        f"size: {raw} of samples before compression; on disk at most {most}"
        + ("" if free is None else f"; {terminal.size(free)} free"),
        f"a build starts where {least} are free, and stops before the disk is full; 'status' tells "
        "what the shards so far lead to expect",
        f"temporary files: one shard a worker, at most {shard} each, in the output itself",
        f"memory of one worker: at most {terminal.size(facts['worker_bytes'])}",
        *_parts_lines(facts),
        *(f"quarantined: {u}: {' '.join(why.split())}" for u, why in facts["quarantined"].items()),
    ]


def _parts_lines(facts: dict[str, Any]) -> list[str]:
    """What universes in parts would need."""
    if facts["worker_bytes_in_parts"] is None:
        return ["ready grids are not made in parts by several workers"]
    least, most = facts["worker_bytes_in_parts"], facts["scratch_bytes_at_most"]
    return [
        f"workers with less make a universe together, in parts: at least {terminal.size(least)} "
        f"each, and up to {terminal.size(most)} of scratch files"
    ]


@cli.command()
@click.argument("recipe", type=_PATH)
@click.option("--resume", is_flag=True, help="Go on with a build that was stopped.")
@click.option(
    "--extend", is_flag=True, help="Add the universes that the finished data set does not have."
)
@click.option("--strict", is_flag=True, help="Stop at the first universe that cannot be used.")
@click.option(
    "--retry-quarantined",
    is_flag=True,
    help="With --resume or --extend: try again the universes that could not be used.",
)
@click.option(
    "--ignore-disk-space",
    is_flag=True,
    help="Start, and go on, where the free space may not hold the data set.",
)
@click.option(
    "--backend",
    type=click.Choice(_BACKENDS),
    default=_BACKENDS[0],
    show_default=True,
    help="What deposits the particles; the data set is the same.",
)
@click.option(
    "--split-boxes",
    type=click.Choice(("auto", "always", "never")),
    default="auto",
    show_default=True,
    help="Universes made in parts by several workers; auto: those that one cannot hold.",
)
@click.option(
    "--scratch",
    type=_PATH,
    help="Folder on a disk that all workers see, for universes in parts.  [default: in the output]",
)
@_cluster_options
@_json_option
@click.pass_context
def build(
    context: click.Context,
    recipe: Path,
    *,
    resume: bool,
    extend: bool,
    strict: bool,
    retry_quarantined: bool,
    ignore_disk_space: bool,
    backend: str,
    split_boxes: SplitBoxes,
    scratch: Path | None,
    cluster: str,
    workers: int | None,
    memory_limit: str,
    as_json: bool,
) -> None:
    r"""Build the data set of RECIPE.

    It appears when it is whole: until then there is no manifest, and a
    stopped build goes on with --resume.  Universes that cannot be used are
    left out, named with the reason, and lead to exit code 11.  A finished data
    set grows with --extend: what is there stays as it is.

    \b
    Example:
      cosmoflow-prep build recipe.yaml --workers 2
      cosmoflow-prep build recipe.yaml --resume --retry-quarantined
      cosmoflow-prep build recipe.yaml --extend
      cosmoflow-prep build recipe.yaml --workers 2 --memory-limit 2GiB --scratch /fast
    """
    if retry_quarantined and not (resume or extend):
        raise click.UsageError("--retry-quarantined goes with --resume or --extend")
    from pipeline.boxes import BoxOptions  # noqa: PLC0415
    from pipeline.build import build as run_build  # noqa: PLC0415

    choice = _choice(cluster, workers, memory_limit)
    try:
        with terminal.progress(terminal.error_console()) as advance:
            result = run_build(
                recipe,
                choice,
                resume,
                _shown(advance),
                ignore_disk_space,
                strict=strict,
                retry_quarantined=retry_quarantined,
                extend=extend,
                backend=backend,
                boxes=BoxOptions(split_boxes, scratch),
            )
    except (CosmoflowError, KeyboardInterrupt):
        _say_how_to_go_on(context, recipe, extend)
        raise
    if as_json:
        click.echo(json.dumps(_build_facts(result)))
    for line in [] if as_json else _build_lines(result):
        click.echo(line)
    if result.manifest.quarantined:
        _say_quarantined(recipe, result.manifest)
        context.exit(QUARANTINED_EXIT_CODE)


def _say_quarantined(recipe: Path, manifest: Manifest) -> None:
    bad = manifest.quarantined
    total = len(bad) + len(manifest.universes)
    click.echo(f"built without {len(bad)} of {total} universes, which are quarantined:", err=True)
    for universe in bad:
        click.echo(f"  {universe.id}: {' '.join(universe.reason.split())}", err=True)
    command = shlex.join(["cosmoflow-prep", "build", str(recipe)])
    click.echo(f"when they are mended: {command} --extend --retry-quarantined", err=True)


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


def _say_how_to_go_on(context: click.Context, recipe: Path, extend: bool) -> None:
    from pipeline.build import resumable  # noqa: PLC0415

    done = resumable(recipe, extend)
    if done is not None:
        options = [text for text in given_options(context) if text != "--resume"]
        command = shlex.join(["cosmoflow-prep", "build", str(recipe), "--resume", *options])
        click.echo(f"{done} shards are finished and kept; go on with: {command}", err=True)


def _build_facts(result: BuildResult) -> dict[str, Any]:
    manifest = result.manifest
    return {
        "output": str(result.output),
        "samples": {name: split.samples for name, split in manifest.splits.items()},
        "shards": len(manifest.shards),
        "shards_kept": result.shards_kept,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "quarantined": {u.id: u.reason for u in manifest.quarantined},
        "seconds": result.seconds,
        "stage_seconds": result.stages,
    }


def _build_lines(result: BuildResult) -> list[str]:
    facts = _build_facts(result)
    samples = ", ".join(f"{n} {name}" for name, n in facts["samples"].items())
    stages = ", ".join(f"{name} {s:.1f} s" for name, s in result.stages.items())
    kept = f" ({result.shards_kept} were there already)" if result.shards_kept else ""
    # training reads folders of this machine
    train = "" if is_url(result.output) else f"; cosmoflow-train fit {result.output}"
    return [
        f"built {result.output} in {result.seconds:.1f} s: {samples} samples in "
        f"{facts['shards']} shards{kept}, {terminal.size(facts['bytes'])}",
        f"work of all workers: {stages}",
        f"next: cosmoflow-prep verify {result.output}{train}",
    ]


@cli.command()
@click.argument("path", type=_PLACE)
@click.option("--length-unit", help="For a snapshot that does not state it, e.g. kpc/h.")
@click.option("--box-size", type=_RANGE, help="Mpc/h, for a snapshot that does not state it.")
@click.option("--picture", type=_PATH, help="Also write a PNG of a cube of the data set.")
@_json_option
def inspect(
    path: Path | str, length_unit: Any, box_size: float | None, picture: Path | None, as_json: bool
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
@click.argument("dataset", type=_PLACE)
@click.option("--run", type=_PATH, help="Folder of a training run to show too.")
@click.option("--output", "-o", type=_PATH, help="[default: DATASET/report.html]")
def report(dataset: Path | str, run: Path | None, output: Path | None) -> None:
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
