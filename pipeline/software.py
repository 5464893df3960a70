"""Versions of what determines the bytes of a data set."""

from __future__ import annotations

from importlib.metadata import version

PACKAGES = ("cosmoflow-prep", "numpy", "numba", "h5py", "zarr", "numcodecs")


def software_versions() -> dict[str, str]:
    """Installed version of each of :data:`PACKAGES`."""
    return {name: version(name) for name in PACKAGES}
