"""The demonstration: universes, data set, training, report, from nothing.

Each stage goes on where an earlier run was stopped.  Numbers are those of
this run on this machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import terminal
from pipeline.build import build
from pipeline.errors import DatasetError, OutputError, TrainingError, require
from pipeline.manifest import MANIFEST_NAME
from pipeline.report import REPORT_NAME, r2_text, read_metrics, write_report
from pipeline.simulate import EnsembleSpec, simulate_ensemble
from pipeline.verify import verify
from pipeline.write.atomic import write_atomically

Say = Callable[[str], Any]


@dataclass(frozen=True)
class DemoSize:
    """How big the demonstration is."""

    universes: int
    particles: int
    time_steps: int
    n_grid: int
    epochs: int
    fractions: str


FULL = DemoSize(128, 64, 11, 32, 90, "{train: 0.75, validation: 0.1, test: 0.15}")
QUICK = DemoSize(12, 16, 6, 8, 4, "{train: 0.6, validation: 0.2, test: 0.2}")

_RECIPE = """\
name: {name}
input:
  universes: "sims/*/"
  parameters: sims/cosmology.csv
grid: {{n_grid: {n_grid}, scheme: ngp, redshifts: [0.0, 0.5, 1.5, 3.0]}}
split: {{subvolumes: 1, fractions: {fractions}, seed: {seed}}}
targets: {{Omega_m: [0.1, 0.5], sigma_8: [0.6, 1.0], n_s: [0.8, 1.2]}}
output: {{path: {path}, format: {format}, samples_per_shard: 16}}
"""


def run_demo(output: Path, quick: bool, seed: int, say: Say) -> Path:
    """Run the whole demonstration into a folder.

    Parameters
    ----------
    output : Path
        Folder to make, or to go on with.
    quick : bool
        Few, small universes: the road, not the result.
    seed : int
        Of universes, split and training; the same seed gives the same data
        set, and on the same machine the same training.
    say : callable
        Prints a line.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    OutputError
        If a finished demonstration is there.
    CosmoflowError
        What any of the stages raises.
    """
    started = time.perf_counter()
    size = QUICK if quick else FULL
    if (output / REPORT_NAME).exists():
        raise OutputError(
            f"{output}: a finished demonstration is there ({output / REPORT_NAME}); remove the "
            "folder or name another one"
        )
    _simulate(output, size, seed, say)
    for format in ("zarr", "tfrecord"):
        _build(output, size, seed, format, say)
    _train(output, size, seed, say)
    dataset, run = output / "dataset-zarr", output / "training"
    report = output / REPORT_NAME
    write_report(dataset, run, report)
    _conclude(output, quick, time.perf_counter() - started, say)
    return report


def _simulate(output: Path, size: DemoSize, seed: int, say: Say) -> None:
    say(f"1. Simulating {size.universes} universes of {size.particles}^3 particles with PM++")
    spec = EnsembleSpec(
        n_universes=size.universes,
        n_particles=size.particles,
        time_steps=size.time_steps,
        seed=seed,
        velocities=False,
    )
    with terminal.progress(terminal.error_console()) as advance:
        simulate_ensemble(
            spec,
            output / "sims",
            lambda done, total, name, seconds: advance("simulate", done, total, name),
        )


def _build(output: Path, size: DemoSize, seed: int, format: str, say: Say) -> None:
    recipe, dataset = output / f"recipe-{format}.yaml", output / f"dataset-{format}"
    text = _RECIPE.format(
        name="cosmoflow-demo",
        n_grid=size.n_grid,
        fractions=size.fractions,
        seed=seed,
        path=dataset.name,
        format=format,
    )
    write_atomically(recipe, text.encode())
    if not (dataset / MANIFEST_NAME).exists():
        say(f"2. Building {dataset}")
        result = build(recipe, resume=dataset.exists())
        particles = sum(s.n_particles for u in result.manifest.universes for s in u.snapshots)
        say(f"   {particles:,} particles in {result.seconds:.1f} s")
    result_of_verify = verify(dataset)
    if not result_of_verify.passed:
        raise DatasetError("\n".join([f"{dataset}: verify found:", *result_of_verify.faults]))
    say(f"   verified: {result_of_verify.files} files, {result_of_verify.samples} samples")


def _train(output: Path, size: DemoSize, seed: int, say: Say) -> None:
    """Train in a process of its own: TensorFlow stays out of this one."""
    run = output / "training"
    if (run / "metrics.json").exists():
        return
    say("3. Training a network on the universes of the training split")
    command = [sys.executable, "-m", "cosmoflow_model.cli", "fit", str(output / "dataset-zarr")]
    command += ["--run", str(run), "--epochs", str(size.epochs), "--seed", str(seed), "--json"]
    if run.exists():
        command.append("--resume")
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603
    if done.returncode == require("", "").exit_code:
        raise require("tensorflow", "train")
    if done.returncode:
        raise TrainingError(
            f"training ended with exit code {done.returncode}; see its message above"
        )


def _conclude(output: Path, quick: bool, seconds: float, say: Say) -> None:
    metrics = read_metrics(output / "training")
    say(
        f"4. Learned, on {metrics['universes']} held-out universes (R² is 0 for predicting the "
        "mean, 1 for no error):"
    )
    for name, values in metrics["targets"].items():
        scores = values["per_universe"]
        say(f"   {name:8s} R² {r2_text(scores['r2']):>5s}   error {scores['mae']:.3f}")
    if quick:
        say("   (--quick shows the road; its few small universes teach little)")
    say(f"Done in {seconds / 60:.1f} minutes. Report: {output / REPORT_NAME}")
