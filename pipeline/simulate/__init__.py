"""Small real N-body universes for the demo, the tests and the notebooks.

``spec`` says what an ensemble is, ``design`` draws its cosmologies, ``nbody``
runs one universe with PM++, ``gadget_output`` writes its snapshots, and
``ensemble`` is the resumable loop over worker processes (``worker``).  JAX,
PM++ and SciPy are imported only when they are used.
"""

from pipeline.simulate.design import Universe, draw_universes
from pipeline.simulate.ensemble import EnsembleResult, ProgressCallback, simulate_ensemble
from pipeline.simulate.spec import EnsembleSpec
from pipeline.simulate.worker import default_processes

__all__ = [
    "EnsembleResult",
    "EnsembleSpec",
    "ProgressCallback",
    "Universe",
    "default_processes",
    "draw_universes",
    "simulate_ensemble",
]
