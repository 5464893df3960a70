"""Linear theory of structure in a flat universe with a cosmological constant.

Transfer function of Eisenstein & Hu (1998, ApJ 496, 605; "EH" below), baryons and their
oscillations included; growth factor of Heath (1977, MNRAS 179, 351); normalised to sigma_8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

T_CMB = 2.7255
"""Temperature of the microwave background, K (Fixsen 2009, ApJ 707, 916)."""


@dataclass(frozen=True)
class Cosmology:
    """What linear theory needs.

    Attributes
    ----------
    Omega_m, Omega_b : float
        Densities of matter and of baryons today, over the critical one.
    sigma_8 : float
        RMS of the linear overdensity in spheres of 8 Mpc/h today.
    n_s : float
        Primordial spectral index.
    h : float
        H_0 / (100 km/s/Mpc).
    """

    Omega_m: float
    Omega_b: float
    sigma_8: float
    n_s: float
    h: float


def cosmology_of(parameters: Mapping[str, float]) -> Cosmology | tuple[str, ...]:
    """Cosmology of named parameters (``H_0`` in place of ``h`` will do), or the missing names."""
    known = dict(parameters)
    if "H_0" in known:
        known.setdefault("h", known["H_0"] / 100)
    names = [field.name for field in fields(Cosmology)]
    missing = tuple(name for name in names if name not in known)
    return missing or Cosmology(**{name: float(known[name]) for name in names})


def linear_power(k: np.ndarray, cosmology: Cosmology, redshift: float = 0.0) -> np.ndarray:
    """Linear P(k) in (Mpc/h)^3 at wavenumbers ``k > 0`` in h/Mpc, the same shape."""
    amplitude = cosmology.sigma_8**2 / _variance_8(cosmology)
    return amplitude * growth(cosmology.Omega_m, redshift) ** 2 * _shape(k, cosmology)


def growth(Omega_m: float, redshift: float) -> float:
    """Linear growth factor D(z) / D(0): D = H(a) times the integral of (a' H(a'))^-3 da' to a."""
    return _growing_mode(Omega_m, 1 / (1 + redshift)) / _growing_mode(Omega_m, 1.0)


def transfer(k: np.ndarray, cosmology: Cosmology) -> np.ndarray:
    """Transfer function of matter, 1 at low ``k`` (h/Mpc)."""
    theta2 = (T_CMB / 2.7) ** 2
    w_m, w_b = cosmology.Omega_m * cosmology.h**2, cosmology.Omega_b * cosmology.h**2
    baryons = cosmology.Omega_b / cosmology.Omega_m
    k = np.asarray(k, dtype=np.float64) * cosmology.h  # EH count in 1/Mpc
    z_eq, k_eq = 2.5e4 * w_m / theta2**2, 0.0746 * w_m / theta2  # EH 2, 3
    z_d = _drag_redshift(w_m, w_b)
    R_d, R_eq = (31.5 * w_b / theta2**2 * 1000 / z for z in (z_d, z_eq))  # EH 5
    roots = (np.sqrt(1 + R_d) + np.sqrt(R_d + R_eq)) / (1 + np.sqrt(R_eq))
    s = 2 / (3 * k_eq) * np.sqrt(6 / R_eq) * np.log(roots)  # EH 6
    q = k / (13.41 * k_eq)  # EH 10
    cold = _cold_transfer(q, k * s, w_m, baryons)
    silk = 1.6 * w_b**0.52 * w_m**0.73 * (1 + (10.4 * w_m) ** -0.95)  # EH 7
    y = (1 + z_eq) / (1 + z_d)
    alpha = 2.07 * k_eq * s * (1 + R_d) ** -0.75 * _suppression(y)  # EH 14
    beta = 0.5 + baryons + (3 - 2 * baryons) * np.sqrt((17.2 * w_m) ** 2 + 1)  # EH 24
    node = 8.41 * w_m**0.435  # EH 23
    # EH 21, 22; written with (k s)^3 so that k = 0 is no division by 0
    ks = k * s
    damped = alpha * ks**3 / (beta**3 + ks**3) * np.exp(-((k / silk) ** 1.4))
    phase = ks**2 / np.cbrt(node**3 + ks**3)
    sound = (_cold_only(q, 1, 1) / (1 + (ks / 5.2) ** 2) + damped) * np.sinc(phase / np.pi)
    return np.asarray(baryons * sound + (1 - baryons) * cold)  # EH 16


def _drag_redshift(w_m: float, w_b: float) -> float:
    """EH 4."""
    b1 = 0.313 * w_m**-0.419 * (1 + 0.607 * w_m**0.674)
    b2 = 0.238 * w_m**0.223
    return float(1291 * w_m**0.251 / (1 + 0.659 * w_m**0.828) * (1 + b1 * w_b**b2))


def _cold_transfer(q: np.ndarray, ks: np.ndarray, w_m: float, baryons: float) -> np.ndarray:
    """EH 11, 12, 17, 18."""
    a1 = (46.9 * w_m) ** 0.670 * (1 + (32.1 * w_m) ** -0.532)
    a2 = (12.0 * w_m) ** 0.424 * (1 + (45.0 * w_m) ** -0.582)
    alpha = a1**-baryons * a2 ** -(baryons**3)
    b1 = 0.944 / (1 + (458 * w_m) ** -0.708)
    b2 = (0.395 * w_m) ** -0.0266
    beta = 1 / (1 + b1 * ((1 - baryons) ** b2 - 1))
    f = 1 / (1 + (ks / 5.4) ** 4)
    return np.asarray(f * _cold_only(q, 1, beta) + (1 - f) * _cold_only(q, alpha, beta))


def _cold_only(q: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """EH 19, 20."""
    low = np.log(np.e + 1.8 * beta * q)
    return np.asarray(low / (low + (14.2 / alpha + 386 / (1 + 69.9 * q**1.08)) * q**2))


def _suppression(y: float) -> float:
    """EH 15."""
    x = np.sqrt(1 + y)
    return float(y * (-6 * x + (2 + 3 * y) * np.log((x + 1) / (x - 1))))


def _shape(k: np.ndarray, cosmology: Cosmology) -> np.ndarray:
    return np.asarray(k**cosmology.n_s * transfer(k, cosmology) ** 2)


def _variance_8(cosmology: Cosmology) -> float:
    """Variance in spheres of 8 Mpc/h of the shape with amplitude 1."""
    k = np.geomspace(1e-5, 50, 8192)
    x = 8 * k
    top_hat = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    integrand = k**3 * _shape(k, cosmology) * top_hat**2 / (2 * np.pi**2)
    return float(np.trapezoid(integrand, np.log(k)))


def _growing_mode(Omega_m: float, a: float) -> float:
    """D(a), not normalised; with a' = t^2 the integrand is a smooth function of t."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    t = (nodes + 1) / 2 * np.sqrt(a)
    integrand = 2 * t**4 / (Omega_m + (1 - Omega_m) * t**6) ** 1.5
    integral = float(weights @ integrand) * np.sqrt(a) / 2
    return float(np.sqrt(Omega_m / a**3 + 1 - Omega_m)) * float(integral)
