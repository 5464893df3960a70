"""Make ``power.svg`` beside this file: ``python docs/power_figure.py`` (needs pmpp)."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.power_report import picture
from pipeline.simulate import EnsembleSpec, simulate_ensemble
from pipeline.snapshot_power import Request, measure
from pipeline.write.atomic import write_atomically

FIGURE = Path(__file__).parent / "power.svg"
SPEC = EnsembleSpec(
    1,
    ranges={"Omega_m": (0.3175, 0.3175), "sigma_8": (0.834, 0.834), "n_s": (0.9624, 0.9624)},
    box_size=512.0,
    n_particles=128,
    redshifts=(3.0, 1.0, 0.0),
    time_steps=20,
    velocities=False,
    seed=4,
)


def make(path: Path) -> None:
    """Simulate one universe, measure it at each redshift, write the figure."""
    request = Request(n_grid=256, scheme="pcs", interlace=True, k_max=0.75)
    with tempfile.TemporaryDirectory() as folder:
        made = simulate_ensemble(SPEC, Path(folder) / "sims")
        universe = made.universes[0]
        parameters = {k: v for k, v in asdict(universe).items() if isinstance(v, float)}
        measured = [
            replace(one, source="", parameters=parameters)
            for number in range(len(SPEC.redshifts))
            for one in measure(made.output / universe.id / f"snapshot_{number:03d}.hdf5", request)
        ]
    write_atomically(path, picture(measured, path))


if __name__ == "__main__":
    make(FIGURE)
    sys.stdout.write(f"wrote {FIGURE}\n")
