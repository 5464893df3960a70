"""Snapshots as GADGET-4 writes them in HDF5 (Springel et al. 2021, MNRAS 506, 2871).

Lengths are comoving Mpc/h, masses 1e10 Msun/h, velocities km/s times sqrt(a).
A file holds no time, path or user name: equal universes are equal bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.simulate.design import Universe
from pipeline.simulate.nbody import ParticleState
from pipeline.simulate.spec import EnsembleSpec
from pipeline.snapshot import DARK_MATTER
from pipeline.units import mean_matter_density
from pipeline.write.atomic import atomic_path

UNIT_LENGTH_IN_CM = 3.085678e24
UNIT_MASS_IN_G = 1.989e43
UNIT_VELOCITY_IN_CM_PER_S = 1e5
"""GADGET-4's own values for Mpc/h, 1e10 Msun/h and km/s."""

_N_TYPES = 2
_GROUP = f"PartType{DARK_MATTER}"
_SCALINGS = ("a_scaling", "h_scaling", "length_scaling", "mass_scaling", "velocity_scaling")


def snapshot_files(folder: Path, number: int, n_files: int) -> list[Path]:
    """Files of one snapshot, named as GADGET-4 names them.

    Parameters
    ----------
    folder : Path
        The universe's folder.
    number : int
        Number of the snapshot, 0 for the highest redshift.
    n_files : int
        Files that it is spread over.
    """
    name = f"snapshot_{number:03d}"
    if n_files == 1:
        return [folder / f"{name}.hdf5"]
    return [folder / f"snapdir_{number:03d}" / f"{name}.{part}.hdf5" for part in range(n_files)]


def write_snapshot(
    folder: Path, number: int, state: ParticleState, spec: EnsembleSpec, universe: Universe
) -> None:
    """Write one snapshot, each file of it whole or not at all; leaves whole files alone.

    Parameters
    ----------
    folder : Path
        The universe's folder.
    number : int
        Number of the snapshot.
    state : ParticleState
        Its particles.
    spec : EnsembleSpec
        The ensemble: box, number of files, whether velocities are written.
    universe : Universe
        The cosmology.
    """
    parts = _parts(spec)
    for path, part in zip(snapshot_files(folder, number, spec.n_files), parts, strict=True):
        header = _header(spec, universe, state.redshift, len(part))
        if _is_whole_file(path, header, spec):
            continue
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
            _write_attributes(file.create_group("Config"), {"NTYPES": float(_N_TYPES)})
            _write_attributes(file.create_group("Header"), header)
            _write_attributes(file.create_group("Parameters"), _parameters(spec, universe))
            _write_particles(file.create_group(_GROUP), state, part, spec.velocities)


def is_whole_snapshot(folder: Path, number: int, spec: EnsembleSpec, universe: Universe) -> bool:
    """Whether all files of a snapshot are there, open, and hold what they should.

    A file counts if its header is the one that would be written and its data
    sets have the right shapes; a truncated HDF5 file does not open.
    """
    redshift = spec.redshifts[number]
    files = snapshot_files(folder, number, spec.n_files)
    return all(
        _is_whole_file(path, _header(spec, universe, redshift, len(part)), spec)
        for path, part in zip(files, _parts(spec), strict=True)
    )


def _parts(spec: EnsembleSpec) -> Iterator[range]:
    """Ranges of particles for each file, as equal as possible."""
    total = spec.n_particles**3
    ends = [total * part // spec.n_files for part in range(spec.n_files + 1)]
    return (range(start, end) for start, end in itertools.pairwise(ends))


def _header(spec: EnsembleSpec, universe: Universe, redshift: float, n_here: int) -> dict[str, Any]:
    total = spec.n_particles**3
    mass = mean_matter_density(universe.Omega_m) * spec.box_size**3 / total
    return {
        "BoxSize": float(spec.box_size),
        "MassTable": np.array([0.0, mass]),
        "NumFilesPerSnapshot": np.int32(spec.n_files),
        "NumPart_ThisFile": np.array([0, n_here], dtype=np.uint64),
        "NumPart_Total": np.array([0, total], dtype=np.uint64),
        "Redshift": redshift,
        "Time": 1 / (1 + redshift),
        # GADGET-4 has these in /Parameters alone; older readers look here
        "HubbleParam": universe.h,
        "Omega0": universe.Omega_m,
        "OmegaLambda": 1 - universe.Omega_m,
    }


def _parameters(spec: EnsembleSpec, universe: Universe) -> dict[str, Any]:
    return {
        "BoxSize": float(spec.box_size),
        "ComovingIntegrationOn": np.int32(1),
        "Hubble": 100.0,
        "HubbleParam": universe.h,
        "NumFilesPerSnapshot": np.int32(spec.n_files),
        "Omega0": universe.Omega_m,
        "OmegaBaryon": universe.Omega_b,
        "OmegaLambda": 1 - universe.Omega_m,
        "PrimordialIndex": universe.n_s,
        "Seed": np.int32(universe.seed),
        "Sigma8": universe.sigma_8,
        "UnitLength_in_cm": UNIT_LENGTH_IN_CM,
        "UnitMass_in_g": UNIT_MASS_IN_G,
        "UnitVelocity_in_cm_per_s": UNIT_VELOCITY_IN_CM_PER_S,
    }


def _write_particles(
    group: h5py.Group, state: ParticleState, part: range, velocities: bool
) -> None:
    here = slice(part.start, part.stop)
    _write_dataset(group, "Coordinates", state.positions[here], (1, -1, 1, 0, 0), UNIT_LENGTH_IN_CM)
    identifiers = np.arange(part.start + 1, part.stop + 1, dtype=np.uint32)
    _write_dataset(group, "ParticleIDs", identifiers)
    if velocities:
        _write_dataset(
            group,
            "Velocities",
            state.velocities[here],
            (0.5, 0, 0, 0, 1),
            UNIT_VELOCITY_IN_CM_PER_S,
        )


def _write_dataset(
    group: h5py.Group,
    name: str,
    data: np.ndarray,
    scalings: tuple[float, ...] | None = None,
    to_cgs: float = 1.0,
) -> None:
    """One data set, with GADGET-4's exponents of a, h and the units, if it has a unit."""
    # the time of writing would make equal universes different bytes
    dataset = group.create_dataset(name, data=data, track_times=False)
    if scalings is not None:
        exponents = dict(zip(_SCALINGS, map(float, scalings), strict=True))
        _write_attributes(dataset, {**exponents, "to_cgs": to_cgs})


def _write_attributes(node: h5py.Group | h5py.Dataset, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        node.attrs[name] = value


def _is_whole_file(path: Path, header: dict[str, Any], spec: EnsembleSpec) -> bool:
    try:
        with h5py.File(path, "r") as file:
            found = file["Header"].attrs
            same = all(np.array_equal(found[name], value) for name, value in header.items())
            return same and _has_all_particles(file[_GROUP], header, spec)
    except (OSError, KeyError):
        # absent, truncated or not a snapshot: it is made again
        return False


def _has_all_particles(group: h5py.Group, header: dict[str, Any], spec: EnsembleSpec) -> bool:
    n_here = int(header["NumPart_ThisFile"][DARK_MATTER])
    shapes = {"Coordinates": (n_here, 3), "ParticleIDs": (n_here,)}
    if spec.velocities:
        shapes["Velocities"] = (n_here, 3)
    return all(group[name].shape == shape for name, shape in shapes.items())
