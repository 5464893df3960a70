"""Small synthetic snapshots as SWIFT writes them, for tests.

Groups, attributes, types and shapes follow ``src/distributed_io.c``,
``src/common_io.c`` and ``src/cosmology.c`` of https://github.com/SWIFTSIM/SWIFT:
attributes are arrays of length 1, texts have a fixed length, everything is in
units without 1/h, each data set has shuffle, deflate and Fletcher-32 filters,
and distributed snapshots have a virtual file over their parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.units import CM_PER_MPC, mean_matter_density
from tests.snapshots_made import Positions, uneven_bounds

N_TYPES = 7
ALIASES = ("Gas", "DM", "DMBackground", "Sink", "Stars", "BH", "Neutrino")
SOLAR_MASS_IN_G = 1.98841e33
AS_SWIFT = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}


def write_swift(
    path: Path,
    positions_mpc_h: Positions,
    *,
    box_size: float = 100.0,
    redshift: float = 0.0,
    Omega_m: float = 0.3,
    Omega_nu: float = 0.0,
    h: float = 0.7,
    n_files: int = 1,
    virtual: bool = True,
    dtype: str = "f8",
    n_types: int = N_TYPES,
    unit_cm: float = CM_PER_MPC,
    unit_g: float = 1e10 * SOLAR_MASS_IN_G,
    physical: bool = False,
    density: float = 1.0,
    masses: bool = True,
    header: Mapping[str, Any] | None = None,
    cosmology: Mapping[str, Any] | None = None,
    field: Mapping[str, Any] | None = None,
    dataset_options: Mapping[str, Any] = AS_SWIFT,
) -> list[Path]:
    """Write a snapshot; returns its parts (the virtual file, ``path``, is not one of them).

    ``header``, ``cosmology`` and ``field`` replace attributes of those groups and
    of ``Coordinates``; a value of None removes one.
    """
    by_type = (
        dict(positions_mpc_h) if isinstance(positions_mpc_h, Mapping) else {1: positions_mpc_h}
    )
    n_all = sum(map(len, by_type.values()))
    length = unit_cm / CM_PER_MPC * h  # one unit in Mpc/h
    mass_mpc_h = density * mean_matter_density(Omega_m + Omega_nu) * box_size**3 / max(n_all, 1)
    mass = mass_mpc_h / h * 1e10 * SOLAR_MASS_IN_G / unit_g
    a = 1 / (1 + redshift)
    path.parent.mkdir(parents=True, exist_ok=True)
    names = (
        [path]
        if n_files == 1
        else [path.with_name(f"{path.stem}.{i}{path.suffix}") for i in range(n_files)]
    )
    pieces = []
    for i, name in enumerate(names):
        piece = {t: _piece(p, i, n_files) for t, p in by_type.items()}
        pieces.append(piece)
        with h5py.File(name, "w") as file:
            counts = [len(piece.get(t, ())) for t in range(n_types)]
            totals = [len(by_type.get(t, ())) for t in range(n_types)]
            attributes = _header(counts, totals, box_size / length, redshift, n_files, i, False)
            _attributes(file, "Header", attributes, header)
            _attributes(file, "Cosmology", _cosmology(Omega_m, Omega_nu, h, redshift), cosmology)
            for group in ("Units", "InternalCodeUnits"):
                _attributes(file, group, _units(unit_cm, unit_g), None)
            _cells(file, counts, box_size / length)
            for t, p in piece.items():
                stored = (p / length * (a if physical else 1.0)).astype(dtype)
                _field(file, t, "Coordinates", stored, physical, field, dataset_options)
                if masses:
                    column = "DynamicalMasses" if t == 5 else "Masses"
                    values = np.full(len(p), mass, "f4")
                    _field(file, t, column, values, False, None, dataset_options)
                file[f"{ALIASES[t]}Particles"] = h5py.SoftLink(f"/PartType{t}")
    if n_files > 1 and virtual:
        _write_virtual(path, names, by_type, pieces, dtype, masses)
    return names


def stored_numbers(
    positions_mpc_h: np.ndarray, h: float, dtype: str, unit_cm: float = CM_PER_MPC
) -> np.ndarray:
    """What :func:`write_swift` stores for comoving positions."""
    return (positions_mpc_h / (unit_cm / CM_PER_MPC * h)).astype(dtype)


def _piece(positions: np.ndarray, i: int, n_files: int) -> np.ndarray:
    bounds = uneven_bounds(len(positions), n_files)
    return positions[bounds[i] : bounds[i + 1]]


def _attributes(
    file: h5py.File, name: str, values: Mapping[str, Any], changes: Mapping[str, Any] | None
) -> None:
    attributes = file.create_group(name).attrs
    for key, value in {**values, **(changes or {})}.items():
        if value is not None:
            attributes[key] = np.bytes_(value) if isinstance(value, str) else np.atleast_1d(value)


def _header(
    counts: Sequence[int],
    totals: Sequence[int],
    box: float,
    redshift: float,
    n_files: int,
    this: int,
    virtual: bool,
) -> dict[str, Any]:
    return {
        "BoxSize": np.full(3, box),
        "Time": 0.0123,  # in internal units, not the scale factor
        "Dimension": np.int32(3),
        "Redshift": float(redshift),
        "Scale-factor": 1 / (1 + redshift),
        "Code": "SWIFT",
        "RunName": "made",
        "NumPartTypes": np.int32(len(counts)),
        "NumPart_ThisFile": np.array(counts, "i8"),
        "NumPart_Total": np.array(totals, "u4"),
        "NumPart_Total_HighWord": np.zeros(len(counts), "u4"),
        "TotalNumberOfParticles": np.array(totals, "i8"),
        "MassTable": np.zeros(len(counts)),
        "InitialMassTable": np.zeros(len(counts)),
        "NumFilesPerSnapshot": np.int32(n_files),
        "ThisFile": np.int32(this),
        "Virtual": np.int32(virtual),
        "OutputType": "FullVolume",
    }


def _cosmology(Omega_m: float, Omega_nu: float, h: float, redshift: float) -> dict[str, Any]:
    return {
        "Cosmological run": np.int32(1),
        "h": h,
        "H0 [internal units]": 100 * h,
        "Omega_m": Omega_m,
        "Omega_b": 0.05,
        "Omega_nu_0": Omega_nu,
        "Omega_lambda": 1 - Omega_m - Omega_nu,
        "Omega_k": 0.0,
        "Omega_r": 0.0,
        "w_0": -1.0,
        "w_a": 0.0,
        "N_eff": 3.046,
        "T_CMB_0 [K]": 2.7255,
        "Redshift": float(redshift),
        "Scale-factor": 1 / (1 + redshift),
    }


def _units(unit_cm: float, unit_g: float) -> dict[str, Any]:
    return {
        "Unit mass in cgs (U_M)": unit_g,
        "Unit length in cgs (U_L)": unit_cm,
        "Unit time in cgs (U_t)": unit_cm / 1e5,
        "Unit current in cgs (U_I)": 1.0,
        "Unit temperature in cgs (U_T)": 1.0,
    }


def _cells(file: h5py.File, counts: Sequence[int], box: float) -> None:
    """One top-level cell that holds all particles."""
    meta = file.create_group("Cells/Meta-data").attrs
    meta["nr_cells"] = np.array([1], "i4")
    meta["dimension"] = np.ones(3, "i4")
    meta["size"] = np.full(3, box)
    file["Cells/Centres"] = np.full((1, 3), box / 2)
    for t, count in enumerate(counts):
        file[f"Cells/Counts/PartType{t}"] = np.array([count], "i8")
        file[f"Cells/OffsetsInFile/PartType{t}"] = np.zeros(1, "i8")
        file[f"Cells/Files/PartType{t}"] = np.zeros(1, "i4")


def _field(
    file: h5py.File,
    t: int,
    name: str,
    values: np.ndarray,
    physical: bool,
    changes: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> None:
    where = f"PartType{t}/{name}"
    if len(values):
        dset = file.create_dataset(where, data=values, **options)
    else:
        dset = file.create_dataset(where, data=h5py.Empty(values.dtype))
    _describe(dset, name, physical, changes)


def _describe(
    dset: h5py.Dataset, name: str, physical: bool, changes: Mapping[str, Any] | None
) -> None:
    of_length = float(name == "Coordinates")
    values = {
        "U_M exponent": 1 - of_length,
        "U_L exponent": of_length,
        "U_t exponent": 0.0,
        "U_I exponent": 0.0,
        "U_T exponent": 0.0,
        "h-scale exponent": 0.0,
        "a-scale exponent": of_length,
        "Value stored as physical": np.int8(physical),
        "Property can be converted to comoving": np.int8(1),
    }
    for key, value in {**values, **(changes or {})}.items():
        if value is not None:
            kind = np.asarray(value).dtype if not isinstance(value, float) else "f4"
            dset.attrs[key] = np.atleast_1d(np.asarray(value, kind))
    dset.attrs["Lossy compression filter"] = np.bytes_("None")
    dset.attrs["Expression for physical CGS units"] = np.bytes_("a U_L [ cm ]")


def _write_virtual(
    path: Path,
    names: Sequence[Path],
    by_type: Mapping[int, np.ndarray],
    pieces: Sequence[Mapping[int, np.ndarray]],
    dtype: str,
    masses: bool,
) -> None:
    """The file over the parts: a header of one file, and virtual data sets."""
    with h5py.File(path, "w") as file, h5py.File(names[0]) as first:
        for group in ("Header", "Cosmology", "Units", "InternalCodeUnits"):
            first.copy(group, file)
        header = file["Header"].attrs
        header["NumFilesPerSnapshot"] = np.array([1], "i4")
        header["Virtual"] = np.array([1], "i4")
        header["NumPart_ThisFile"] = header["TotalNumberOfParticles"]
        for t, positions in by_type.items():
            columns = {"Coordinates": ((3,), dtype)} | ({"Masses": ((), "f4")} if masses else {})
            for name, (row, kind) in columns.items():
                layout = h5py.VirtualLayout((len(positions), *row), kind)
                begin = 0
                for source, piece in zip(names, pieces, strict=True):
                    n = len(piece[t])
                    if n:
                        layout[begin : begin + n] = h5py.VirtualSource(
                            source.name, f"PartType{t}/{name}", (n, *row)
                        )
                    begin += n
                dset = file.create_virtual_dataset(f"PartType{t}/{name}", layout)
                _describe(dset, name, False, None)
