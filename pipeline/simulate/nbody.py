"""One universe: initial conditions and particle-mesh evolution with PM++.

PM++ descends from pmwd (Li et al. 2022, arXiv:2211.09958): Eisenstein & Hu
(1998, ApJ 496, 605) transfer function, second-order Lagrangian initial
conditions, and leapfrog steps whose drifts and kicks follow linear growth
exactly (FastPM; Feng et al. 2016, MNRAS 463, 2273), so that about ten steps
are enough for large scales.
"""

# ruff: noqa: PLC0415 - JAX and PM++ are optional and slow to import
from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SimulationError, require
from pipeline.simulate.design import Universe
from pipeline.simulate.spec import A_START, EnsembleSpec

MESH_PER_PARTICLE = 2
"""Force-mesh cells a side for each particle a side."""


@dataclass(frozen=True)
class ParticleState:
    """All particles of a universe at one redshift.

    Attributes
    ----------
    redshift : float
        Redshift.
    positions : numpy.ndarray
        ``(n, 3)`` float32, comoving Mpc/h, in [0, box_size); in Lagrangian order.
    velocities : numpy.ndarray
        ``(n, 3)`` float32, peculiar velocity divided by sqrt(a), km/s, as
        Gadget keeps it.
    """

    redshift: float
    positions: NDArray[np.float32]
    velocities: NDArray[np.float32]


def scale_factors(redshifts: tuple[float, ...], time_steps: int) -> list[list[float]]:
    """Ends of the time steps that lead to each output.

    Steps are as equal as possible in sqrt(a).  Of equal, logarithmic and
    sqrt(a) steps, with 11 of them from z = 15 to 0, these stay closest to a
    run with 80 (P(k) within 4 % from z = 1.5 on, up to the particle Nyquist k).

    Parameters
    ----------
    redshifts : tuple of float
        Output redshifts in descending order.
    time_steps : int
        Number of steps in all, at least one for each output.

    Returns
    -------
    list of list of float
        For each output, the scale factors at the end of its steps; the last
        one is the output's own, 1 / (1 + z).
    """
    ends = np.array([A_START, *(1 / (1 + z) for z in redshifts)])
    widths = np.diff(np.sqrt(ends))
    counts = np.ones(len(widths), dtype=int)
    for _ in range(time_steps - len(widths)):
        counts[np.argmax(widths / counts)] += 1
    schedule = []
    for start, end, count in zip(ends[:-1], ends[1:], counts, strict=True):
        inner = np.linspace(np.sqrt(start), np.sqrt(end), count + 1)[1:-1] ** 2
        schedule.append([*map(float, inner), float(end)])
    return schedule


class Simulator:
    """PM++ compiled for one box, grid and schedule; then any cosmology runs at once.

    Parameters
    ----------
    box_size : float
        Comoving box side, Mpc/h.
    n_particles : int
        Particles a side.
    redshifts : tuple of float
        Output redshifts in descending order.
    time_steps : int
        Leapfrog steps in all.

    Raises
    ------
    MissingDependencyError
        If PM++ is not installed.
    """

    def __init__(
        self, box_size: float, n_particles: int, redshifts: tuple[float, ...], time_steps: int
    ) -> None:
        self.box_size = box_size
        self.redshifts = redshifts
        self.schedule = scale_factors(redshifts, time_steps)
        self._start, self._step, self._output = _compiled(box_size, n_particles, self.schedule)

    def run(self, universe: Universe) -> Iterator[ParticleState]:
        """Evolve a universe and yield its particles at each redshift.

        Parameters
        ----------
        universe : Universe
            Cosmology and seed.

        Yields
        ------
        ParticleState
            From the highest redshift to the lowest; the same bits for the
            same universe.

        Raises
        ------
        SimulationError
            If a position or velocity is not finite or leaves the box.
        """
        parameters = {
            "sigma8": universe.sigma_8,
            "n_s": universe.n_s,
            "Omega_m": universe.Omega_m,
            "Omega_b": universe.Omega_b,
            "h": universe.h,
        }
        cosmology, particles = self._start(parameters, universe.seed)
        a_from = A_START
        for redshift, steps in zip(self.redshifts, self.schedule, strict=True):
            for a_to in steps:
                particles = self._step(a_from, a_to, particles, cosmology)
                a_from = a_to
            positions, velocities = (np.asarray(x) for x in self._output(a_from, particles))
            state = ParticleState(redshift, positions, velocities)
            _check_state(state, universe, self.box_size)
            yield state


@functools.lru_cache(maxsize=1)
def simulator(
    box_size: float, n_particles: int, redshifts: tuple[float, ...], time_steps: int
) -> Simulator:
    """The simulator for these settings, compiled once in a process."""
    return Simulator(box_size, n_particles, redshifts, time_steps)


def simulator_of(spec: EnsembleSpec) -> Simulator:
    """The simulator of an ensemble, compiled once in a process."""
    return simulator(float(spec.box_size), spec.n_particles, spec.redshifts, spec.time_steps)


def _compiled(box_size: float, n_particles: int, schedule: list[list[float]]) -> Any:
    """The three compiled functions of a run: start, step and output."""
    try:
        import jax
        import jax.numpy as jnp
        from pmpp.cosmology.boltzmann import boltzmann
        from pmpp.cosmology.models import Cosmology
        from pmpp.initial_conditions.lpt import lpt
        from pmpp.initial_conditions.modes import linear_modes, white_noise
        from pmpp.nbody.solver import nbody_init, nbody_step
    except ImportError as error:
        raise require("pmpp", "simulate") from error

    # growth and transfer tables are float64; particles and meshes stay float32
    jax.config.update("jax_enable_x64", True)
    conf = _configuration(box_size, n_particles, schedule)

    def start(parameters: dict[str, float], seed: int) -> tuple[Any, Any]:
        cosmology = boltzmann(Cosmology.from_sigma8(conf, **parameters), conf)
        modes = linear_modes(white_noise(seed, conf), cosmology, conf)
        particles = lpt(modes, cosmology, conf)
        return cosmology, nbody_init(A_START, particles, cosmology, conf)

    def step(a_from: float, a_to: float, particles: Any, cosmology: Any) -> Any:
        return nbody_step(a_from, a_to, particles, cosmology, conf)

    def output(a: float, particles: Any) -> tuple[Any, Any]:
        # float32 can round the last position below the box side up to it
        positions = particles.pos(jnp.float64).astype(jnp.float32)
        positions = jnp.where(positions >= jnp.float32(box_size), 0, positions)
        return positions, gadget_velocity(particles.vel, a)

    # parameters and scale factors are traced: new ones compile nothing
    return jax.jit(start), jax.jit(step), jax.jit(output)


def _configuration(box_size: float, n_particles: int, schedule: list[list[float]]) -> Any:
    """PM++'s configuration of the box, the grids and the steps."""
    from pmpp import Configuration

    a_all = (A_START, *(a for steps in schedule for a in steps))
    return Configuration(
        ptcl_spacing=box_size / n_particles,
        ptcl_grid_shape=(n_particles,) * 3,
        mesh_shape=MESH_PER_PARTICLE,
        a_start=a_all[0],
        a_stop=a_all[-1],
        a_custom=a_all,
        pallas_cic=False,  # kernels for GPUs
    )


def gadget_velocity(momentum: Any, a: Any) -> Any:
    """Velocity as Gadget keeps it, from the canonical momentum of PM++.

    PM++ evolves p = a^2 dx/dt in units of H_0 Mpc/h = 100 km/s.  The peculiar
    velocity is v = a dx/dt = p / a, and Gadget writes u = v / sqrt(a).

    Parameters
    ----------
    momentum : array
        ``(n, 3)`` p in 100 km/s.
    a : float
        Scale factor.

    Returns
    -------
    array
        ``(n, 3)`` float32, u in km/s.
    """
    return (momentum * (100 * a**-1.5)).astype(np.float32)


def _check_state(state: ParticleState, universe: Universe, box_size: float) -> None:
    finite = np.isfinite(state.positions).all() and np.isfinite(state.velocities).all()
    if finite and state.positions.min() >= 0 and state.positions.max() < np.float32(box_size):
        return
    raise SimulationError(
        f"{universe.id} at z = {state.redshift:g}: positions span "
        f"{state.positions.min()} to {state.positions.max()} Mpc/h, expected finite values in "
        f"[0, {box_size:g}); take more time_steps or less extreme parameters than {universe}"
    )
