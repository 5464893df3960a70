"""Which cosmologies an ensemble holds: a seeded, space-filling design."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import require
from pipeline.simulate.spec import EnsembleSpec


@dataclass(frozen=True)
class Universe:
    """One universe to simulate.

    Attributes
    ----------
    id : str
        Name of its folder: ``u0000``, ``u0001``, ...
    Omega_m, sigma_8, n_s, h, Omega_b : float
        Its cosmology: flat, with a cosmological constant.
    seed : int
        Seed of its initial phases, below 2^31.
    """

    id: str
    Omega_m: float
    sigma_8: float
    n_s: float
    h: float
    Omega_b: float
    seed: int


def draw_universes(spec: EnsembleSpec) -> list[Universe]:
    """All universes of an ensemble, a pure function of its specification.

    Parameters
    ----------
    spec : EnsembleSpec
        The ensemble.

    Returns
    -------
    list of Universe
        In the order of their identifiers.

    Raises
    ------
    MissingDependencyError
        If SciPy is not installed.
    """
    names = list(spec.ranges)
    low, high = np.array([spec.ranges[name] for name in names]).T
    points = low + (high - low) * _unit_points(spec, len(names))
    return [
        Universe(
            id=f"u{index:04d}",
            **{name: float(value) for name, value in zip(names, point, strict=True)},
            h=float(spec.h),
            Omega_b=float(spec.Omega_b),
            seed=_phase_seed(spec.seed, index),
        )
        for index, point in enumerate(points)
    ]


def cosmology_table(universes: list[Universe]) -> str:
    """The table of all cosmologies as CSV text: a header line, one line a universe.

    Numbers are written so that reading them gives the same floats.
    """
    text = io.StringIO()
    columns = [field.name for field in dataclasses.fields(Universe)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(universe) for universe in universes)
    return text.getvalue()


def _unit_points(spec: EnsembleSpec, dimensions: int) -> NDArray[np.float64]:
    """Points ``(n_universes, dimensions)`` in the unit cube."""
    try:
        from scipy.stats import qmc  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise require("scipy", "simulate") from error
    # `seed` and not `rng`: the name that all supported releases know
    if spec.design == "latin-hypercube":
        sampler = qmc.LatinHypercube(dimensions, seed=np.random.default_rng(spec.seed))
        points = sampler.random(spec.n_universes)
    else:
        # a power of two keeps the sequence balanced; the first ones of it are the ensemble
        exponent = max(0, math.ceil(math.log2(spec.n_universes)))
        sampler = qmc.Sobol(dimensions, scramble=True, seed=np.random.default_rng(spec.seed))
        points = sampler.random_base2(exponent)[: spec.n_universes]
    return np.asarray(points, dtype=np.float64)


def _phase_seed(ensemble_seed: int, index: int) -> int:
    """Seed of universe ``index``, which does not depend on the size of the ensemble."""
    sequence = np.random.SeedSequence(ensemble_seed, spawn_key=(index,))
    return int(sequence.generate_state(1)[0]) >> 1
