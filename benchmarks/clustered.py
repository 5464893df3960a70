"""Clustered particles for timing: a Zel'dovich-displaced lattice with collapsed haloes.

Particles lie 1 Mpc/h apart before they move, so ``side^3`` of them fill a box of
``side`` Mpc/h.  A Gaussian field with the cold dark matter spectrum of Bardeen
et al. (1986, ApJ 304, 15) displaces them in first order; then cubes of the
lattice where matter converges most, a fifth of all particles, are put into
spherical haloes of 200 times the mean density.  Cells of 1 Mpc/h hold up to
about 2400 particles at 512^3.  The order is that of the lattice, as codes that
number their particles write it, or shuffled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

SIGMA_8 = 0.8
SHAPE = 0.2
"""Omega_m h of the transfer function."""

TRUNCATION = 1.5
"""Mpc/h: waves shorter than this do not displace, their matter is in the haloes."""

HALOES = ((16, 0.05), (8, 0.07), (4, 0.08))
"""Side of the lattice cubes that collapse, and the part of all particles in them."""

OVERDENSITY = 200
STEEPNESS = 1.5
"""Radius ``r_200 u^1.5`` for uniform ``u``: the density falls as ``r^-2.33``."""

BATCH = 1 << 20


def write_clustered(path: Path, side: int, seed: int = 7) -> None:
    """Write ``(side^3, 3)`` float32 positions in ``[0, side)`` in the order of the lattice.

    ``side`` is a multiple of 16.  Memory: about 30 bytes a particle with the file.
    """
    rng = np.random.default_rng(seed)
    lattice = open_memmap(path, "w+", np.float32, (side, side, side, 3))
    _displacements(lattice, rng)
    haloes = _halo_cubes(lattice, rng)
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = side
        lattice[..., axis] += (np.arange(side, dtype="f4") + 0.5).reshape(shape)
    for cube, cells in haloes:
        _collapse(lattice, cube, cells, rng)
    for plane in lattice:
        np.mod(plane, np.float32(side), out=plane)
        # a tiny negative number is rounded to the period itself
        plane[plane >= side] = 0
    lattice.flush()
    del lattice
    flat = np.load(path, mmap_mode="r").reshape(-1, 3)
    _rewrite_header(path, flat.shape)


def write_shuffled(path: Path, ordered: Path, seed: int = 8) -> None:
    """Write the same particles in random order."""
    positions = np.load(ordered, mmap_mode="r")
    order = np.random.default_rng(seed).permutation(len(positions))
    shuffled = open_memmap(path, "w+", np.float32, positions.shape)
    for first in range(0, len(order), BATCH):
        shuffled[first : first + BATCH] = positions[order[first : first + BATCH]]
    shuffled.flush()


def write_few(path: Path, ordered: Path, n_particles: int, scale: float, seed: int = 9) -> None:
    """Write a random few of the particles, in random order, in a box ``scale`` times as large."""
    positions = np.load(ordered)
    few = np.random.default_rng(seed).permutation(len(positions))[:n_particles]
    np.save(path, positions[few] * np.float32(scale))


def _rewrite_header(path: Path, shape: tuple[int, ...]) -> None:
    """Give a file of the same bytes another shape; both headers fill 128 bytes."""
    with path.open("r+b") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
    loaded = np.load(path, mmap_mode="r")
    if loaded.shape != shape:
        raise RuntimeError(f"{path} has the shape {loaded.shape}, expected {shape}")


def _displacements(lattice: np.ndarray, rng: np.random.Generator) -> None:
    """Fill ``(side, side, side, 3)`` with first-order displacements in Mpc/h."""
    side = lattice.shape[0]
    waves = np.fft.rfftn(rng.standard_normal((side, side, side), dtype="f4"))
    k_full = (2 * np.pi * np.fft.fftfreq(side)).astype("f4")
    k_half = (2 * np.pi * np.fft.rfftfreq(side)).astype("f4")
    across = k_full[:, None] ** 2 + k_half[None, :] ** 2
    norm = _normalisation()
    for i, kx in enumerate(k_full):
        k2 = across + kx**2
        k2[k2 == 0] = np.inf
        # white noise has unit power in cells of 1 (Mpc/h)^3: sqrt(P), then i k / k^2
        waves[i] *= 1j * np.sqrt(norm * _spectrum(np.sqrt(k2))) / k2
    for axis, k in enumerate((k_full[:, None, None], k_full[:, None], k_half)):
        lattice[..., axis] = np.fft.irfftn(waves * k, (side,) * 3)


def _spectrum(k: np.ndarray) -> np.ndarray:
    """Power without amplitude, BBKS with ``n_s = 1``, truncated; 0 at infinite ``k``."""
    q = np.minimum(k, 1e3) / SHAPE
    bracket = 1 + 3.89 * q + (16.1 * q) ** 2 + (5.46 * q) ** 3 + (6.71 * q) ** 4
    transfer = np.log(1 + 2.34 * q) / (2.34 * q) * bracket**-0.25
    shape: np.ndarray = q * transfer**2 * np.exp(-((np.minimum(k, 1e3) * TRUNCATION) ** 2))
    return shape.astype("f4")


def _normalisation() -> float:
    """Amplitude that gives spheres of 8 Mpc/h the standard deviation ``SIGMA_8``."""
    k = np.geomspace(1e-4, 20, 4000)
    x = 8 * k
    window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    return float(
        SIGMA_8**2 / np.trapezoid(k**3 * _spectrum(k) * window**2 / (2 * np.pi**2), np.log(k))
    )


def _halo_cubes(displaced: np.ndarray, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
    """Cubes that collapse, largest first: their side, and ``(n, 3)`` numbers of the cubes."""
    chosen = []
    taken = np.zeros((displaced.shape[0] // HALOES[0][0],) * 3, bool)
    for cube, part in HALOES:
        while displaced.shape[0] // cube > taken.shape[0]:
            taken = taken.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        corners = displaced[::cube, ::cube, ::cube]
        converging = sum(corners[..., a] - np.roll(corners[..., a], -1, a) for a in range(3))
        converging += rng.normal(0, converging.std(), converging.shape)
        converging[taken] = -np.inf
        best = np.argsort(converging, axis=None)[::-1][: round(part * taken.size)]
        cells = np.stack(np.unravel_index(best, taken.shape), -1)
        taken[tuple(cells.T)] = True
        chosen.append((cube, cells))
    return chosen


def _collapse(lattice: np.ndarray, cube: int, cells: np.ndarray, rng: np.random.Generator) -> None:
    """Put the particles of each cube into a sphere about the cube's displaced middle."""
    n = lattice.shape[0] // cube
    cubes = lattice.reshape(n, cube, n, cube, n, cube, 3).transpose(0, 2, 4, 1, 3, 5, 6)
    radius = np.float32((3 * cube**3 / (4 * np.pi * OVERDENSITY)) ** (1 / 3))
    step = max(1, BATCH // cube**3)
    for first in range(0, len(cells), step):
        x, y, z = cells[first : first + step].T
        middle = cubes[x, y, z, cube // 2, cube // 2, cube // 2][:, None, None, None]
        shape = (len(x), cube, cube, cube)
        out = rng.standard_normal((*shape, 3), dtype="f4")
        out /= np.sqrt((out**2).sum(-1, keepdims=True))
        out *= radius * rng.random((*shape, 1), dtype="f4") ** np.float32(STEEPNESS)
        cubes[x, y, z] = middle + out
