"""Small synthetic files that hold grids ready made, as CosmoFlow, Quijote and Nyx write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

PHYSICAL = {"Omega_m": 0.31, "sigma_8": 0.83, "N_spec": 0.97, "H_0": 72.0}
"""Parameters of a CosmoFlow universe under the names that its files have."""


def counts(n_grid: int = 8, channels: int = 4, seed: int = 0) -> np.ndarray:
    """``(n, n, n, channels)`` int16 counts, ``n^3`` particles in each channel."""
    rng = np.random.default_rng(seed)
    n = n_grid**3
    shares = rng.dirichlet(np.full(n, 0.5), channels)
    drawn = [rng.multinomial(n, share) for share in shares]
    return np.stack(drawn, -1).reshape(n_grid, n_grid, n_grid, channels).astype("i2")


def overdensity(n_grid: int = 8, seed: int = 0, dtype: str = "f4") -> np.ndarray:
    """``(n, n, n)`` overdensity of mean 0, none below -1."""
    density = np.random.default_rng(seed).lognormal(0, 1, (n_grid,) * 3)
    return (density / density.mean() - 1).astype(dtype)


def write_cosmoflow_hdf5(
    path: Path,
    full: np.ndarray,
    *,
    redshifts: Sequence[float] = (0.0, 0.5, 1.5, 3.0),
    parameters: Mapping[str, float] = PHYSICAL,
    **options: object,
) -> Path:
    """A universe of the MLPerf data; ``options`` go to h5py for ``full``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("full", data=full, **options)
        file["physPar"] = np.array(list(parameters.values()))
        file["unitPar"] = np.zeros(len(parameters))
        file["namePar"] = np.array([name.encode() for name in parameters])
        file["redshifts"] = np.array(redshifts)
    return path


def write_quijote_grid(
    folder: Path, field: np.ndarray, scheme: str = "CIC", redshift: str = "0"
) -> Path:
    """A density field of Quijote under its own name, e.g. ``df_m_8_CIC_z=0.npy``."""
    folder.mkdir(parents=True, exist_ok=True)
    label = f"_{scheme}" if scheme else ""
    path = folder / f"df_m_{len(field)}{label}_z={redshift}.npy"
    np.save(path, field)
    return path


def write_nyx_grid(
    path: Path,
    density: np.ndarray,
    *,
    box_size: float = 10.0,
    redshift: float = 4.2,
    Omega_m: float = 0.3,
    units: str | None = "(mean)",
    **options: object,
) -> Path:
    """A file of Nyx's converter; ``density`` is that of dark matter, gas is half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["format"] = np.bytes_(b"nyx-lyaf")
        domain = file.create_group("domain").attrs
        domain["shape"] = np.array(density.shape, "i4")
        domain["size"] = np.full(3, box_size)
        universe = file.create_group("universe").attrs
        universe["redshift"], universe["hubble"] = redshift, 0.685
        universe["omega_m"], universe["omega_b"], universe["omega_l"] = Omega_m, 0.047, 1 - Omega_m
        for name, values in (("dark_matter", density), ("baryon", 0.5 + density / 2)):
            dset = file.create_dataset(
                f"native_fields/{name}_density", data=values.astype("f4"), **options
            )
            if units is not None:
                dset.attrs["units"] = units
    return path
