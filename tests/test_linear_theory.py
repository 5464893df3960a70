"""Linear theory against integrals, the simulator's own, and the power of simulated universes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.linear_theory import Cosmology, cosmology_of, growth, linear_power, transfer
from pipeline.simulate import EnsembleSpec, simulate_ensemble
from pipeline.snapshot_power import Request, measure

QUIJOTE = Cosmology(Omega_m=0.3175, Omega_b=0.049, sigma_8=0.834, n_s=0.9624, h=0.6711)


def test_growth_has_its_known_limits():
    for redshift in (0.0, 0.7, 3.0, 20.0):
        assert growth(1.0, redshift) == pytest.approx(1 / (1 + redshift), rel=1e-12)
    # Omega_m = 0.3: D(0) is 0.779 of what it would be in a universe of matter
    assert 1 / growth(0.3, 1000.0) / 1001 == pytest.approx(0.779, abs=5e-4)
    # Carroll, Press & Turner (1992), equation 29: good to 2 % down to Omega_m = 0.1
    for Omega_m in (0.1, 0.3, 0.5):
        dark = 1 - Omega_m
        fit = Omega_m ** (4 / 7) - dark + (1 + Omega_m / 2) * (1 + dark / 70)
        found = 1 / growth(Omega_m, 1000.0) / 1001
        assert found == pytest.approx(2.5 * Omega_m / fit, rel=0.025)


def test_linear_power_is_normalised_to_sigma_8():
    log_k, step = np.linspace(np.log(1e-5), np.log(30), 400_001, retstep=True)
    k = np.exp(log_k)
    x = 8 * k
    series = 1 - x**2 / 10 + x**4 / 280  # where the closed form loses its digits
    top_hat = np.where(x < 0.1, series, 3 * (np.sin(x) - x * np.cos(x)) / x**3)
    integrand = k**3 * linear_power(k, QUIJOTE) * top_hat**2 / (2 * np.pi**2)
    simpson = step / 3 * (4 * integrand[1::2].sum() + 2 * integrand[2:-1:2].sum())
    assert np.sqrt(simpson) == pytest.approx(QUIJOTE.sigma_8, rel=1e-6)


def test_transfer_and_growth_are_those_of_the_simulator():
    """PM++ has Eisenstein & Hu's formulae and integrates growth as an equation of motion."""
    jax = pytest.importorskip("jax")
    boltzmann = pytest.importorskip("pmpp.cosmology.boltzmann")
    from pmpp import Configuration
    from pmpp.cosmology.models import Cosmology as Theirs

    jax.config.update("jax_enable_x64", True)
    conf = Configuration(
        ptcl_spacing=4.0, ptcl_grid_shape=(16,) * 3, mesh_shape=1, pallas_cic=False
    )
    k = np.geomspace(1e-4, 20, 60)
    for cosmology in (QUIJOTE, Cosmology(0.12, 0.049, 0.7, 1.1, 0.75)):
        named = {"sigma8": cosmology.sigma_8, "n_s": cosmology.n_s, "h": cosmology.h}
        densities = {"Omega_m": cosmology.Omega_m, "Omega_b": cosmology.Omega_b}
        theirs = boltzmann.boltzmann(Theirs.from_sigma8(conf, **named, **densities), conf)
        expected = np.asarray(boltzmann.transfer_fit(k, theirs, conf))
        np.testing.assert_allclose(transfer(k, cosmology), expected, rtol=1e-9)
        for redshift in (0.5, 1.5, 3.0, 9.0):
            grown = boltzmann.growth(1 / (1 + redshift), theirs, conf)
            ratio = float(grown / boltzmann.growth(1.0, theirs, conf))
            # its table is interpolated
            assert growth(cosmology.Omega_m, redshift) == pytest.approx(ratio, rel=5e-3)


def test_cosmology_of_named_parameters():
    named = {"Omega_m": 0.3175, "Omega_b": 0.049, "sigma_8": 0.834, "n_s": 0.9624}
    assert cosmology_of(named | {"h": 0.6711, "w_0": -1.0}) == QUIJOTE
    assert cosmology_of(named | {"H_0": 67.11, "h": 0.6711}) == QUIJOTE
    assert cosmology_of({"Omega_m": 0.3, "H_0": 70.0}) == ("Omega_b", "sigma_8", "n_s")


# a box so large that the lowest modes are linear, with the same cosmology in every universe
SPEC = EnsembleSpec(
    8,
    ranges={"Omega_m": (0.3175, 0.3175), "sigma_8": (0.834, 0.834), "n_s": (0.9624, 0.9624)},
    box_size=640.0,
    n_particles=32,
    redshifts=(3.0, 0.0),
    time_steps=5,
    velocities=False,
    seed=11,
)


@pytest.fixture(scope="module")
def universes(tmp_path_factory):
    pytest.importorskip("pmpp")
    result = simulate_ensemble(SPEC, tmp_path_factory.mktemp("universes"), n_processes=1)
    return [result.output / universe.id for universe in result.universes]


@pytest.mark.parametrize(("number", "tolerance"), [(0, 0.01), (1, 0.03)])
def test_simulated_universes_have_linear_power_on_large_scales(universes, number, tolerance):
    """In the lowest four bins, up to 0.044 h/Mpc, at z = 3 and 0.

    P(k) of a Gaussian field scatters by sqrt(2 / n_modes): one universe by 7 % in the four
    bins together, the mean of eight by 2.5 %.  ``tolerance`` is for what is not linear.
    """
    cosmology = Cosmology(0.3175, SPEC.Omega_b, 0.834, 0.9624, SPEC.h)
    edges_of = Request(n_grid=64, scheme="cic", interlace=True, k_max=0.044)
    powers = []
    for folder in universes:
        (one,) = measure(folder / f"snapshot_{number:03d}.hdf5", edges_of)
        found = one.spectrum
        expected = linear_power(found.k, cosmology, one.redshift)
        scatter = np.sqrt(2 / found.n_modes)
        assert (np.abs(found.power / expected - 1) < 4 * scatter + tolerance).all()
        powers.append(found.power / expected)
    assert found.n_modes.tolist() == [18, 62, 98, 210]
    n_modes = found.n_modes.sum()
    ratio = np.mean(powers, axis=0) @ found.n_modes / n_modes
    scatter_of_mean = np.sqrt(2 / (n_modes * len(universes)))
    assert scatter_of_mean < 0.026
    assert ratio == pytest.approx(1, abs=3 * scatter_of_mean + tolerance)


def test_growth_of_a_simulated_universe_is_linear(universes):
    """Of one universe the ratio of two redshifts has no sample variance to first order."""
    request = Request(n_grid=64, scheme="cic", interlace=True, k_max=0.03)
    expected = 1 / growth(0.3175, 3.0) ** 2
    ratios = []
    for folder in universes:
        early, late = (measure(folder / f"snapshot_00{i}.hdf5", request)[0] for i in (0, 1))
        ratios.append((late.spectrum.power / early.spectrum.power)[:2].mean())
    assert np.mean(ratios) == pytest.approx(expected, rel=0.03)
