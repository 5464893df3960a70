"""Small synthetic snapshots in every variant that the readers know, for tests.

Both writers take positions in comoving Mpc/h, store them in the unit that is
asked for, and give the particles the mass that makes the mean density
``Omega_m * rho_crit``, so that the unit check passes on what they write.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from pipeline.units import CM_PER_MPC, LengthUnit, length_in_mpc_h, mean_matter_density

UNIT_MASS_IN_G = 1.989e43
UNIT_VELOCITY_IN_CM_PER_S = 1e5

Positions = np.ndarray | Mapping[int, np.ndarray]
"""``(n, 3)`` of dark matter (type 1), or such an array for each particle type."""

NO_HIGH_WORDS = (0, 0, 0, 0, 0, 0)


def random_positions(n: int = 1000, box_size: float = 100.0, seed: int = 1) -> np.ndarray:
    """``(n, 3)`` float64 positions, uniform in the box, Mpc/h."""
    return np.random.default_rng(seed).uniform(0, box_size, (n, 3))


def grid_positions(n_side: int = 8, box_size: float = 100.0) -> np.ndarray:
    """``(n_side**3, 3)`` float64 positions on a regular grid, Mpc/h."""
    axis = (np.arange(n_side) + 0.5) * box_size / n_side
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def in_file_units(
    positions_mpc_h: np.ndarray, length_unit: LengthUnit, h: float, box_size: float, dtype: str
) -> np.ndarray:
    """Numbers that a file in ``length_unit`` holds for these positions."""
    return (positions_mpc_h / length_in_mpc_h(length_unit, h, box_size)).astype(dtype)


def part_paths(path: Path, n_files: int) -> list[Path]:
    """``path`` itself, or ``base.0.hdf5 .. base.N.hdf5`` (``base.0 ..`` without a suffix)."""
    if n_files == 1:
        return [path]
    if path.suffix in (".hdf5", ".h5"):
        return [path.with_suffix(f".{i}{path.suffix}") for i in range(n_files)]
    return [path.with_name(f"{path.name}.{i}") for i in range(n_files)]


def uneven_bounds(n: int, n_files: int) -> np.ndarray:
    """Bounds of ``n_files`` parts of different sizes, as real multi-file snapshots have them."""
    return np.round(n * np.linspace(0, 1, n_files + 1) ** 1.3).astype(int)


def write_gadget_hdf5(
    path: Path,
    positions_mpc_h: Positions,
    *,
    box_size: float = 100.0,
    redshift: float = 0.0,
    Omega_m: float = 0.3,
    h: float = 0.7,
    n_files: int = 1,
    length_unit: LengthUnit = "kpc/h",
    dtype: str = "f4",
    n_types: int = 2,
    cosmology_in: Literal["Parameters", "Header", "Cosmology", "none"] = "Parameters",
    units_in: Literal["Parameters", "Header", "Units", "to_cgs", "none"] = "Parameters",
    masses: Literal["table", "particles", "none"] = "table",
    high_words: bool = False,
    box_as_array: Literal[0, 1, 3] = 0,
    density: float = 1.0,
    dataset_options: Mapping[str, object] | None = None,
) -> list[Path]:
    """Write a Gadget-4-style HDF5 snapshot; returns the paths of its parts.

    ``cosmology_in="Header"`` is the style of Gadget-2/3, AREPO and Quijote,
    ``high_words`` writes 32-bit totals with their high words, ``density``
    multiplies the mean density (a number other than 1 makes it wrong).
    """
    by_type = _by_type(positions_mpc_h)
    n_all = sum(map(len, by_type.values()))
    mass = density * mean_matter_density(Omega_m) * box_size**3 / max(n_all, 1)
    unit = length_in_mpc_h(length_unit, h, box_size)
    totals = [len(by_type.get(t, ())) for t in range(n_types)]
    paths = part_paths(Path(path), n_files)
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(paths):
        pieces = {t: _piece(p, i, n_files) for t, p in by_type.items()}
        with h5py.File(part, "w") as file:
            header = file.create_group("Header").attrs
            counts = [len(pieces.get(t, ())) for t in range(n_types)]
            header["NumPart_ThisFile"] = np.array(counts, "u4")
            header["NumPart_Total"] = np.array(totals, "u4" if high_words else "u8")
            if high_words:
                header["NumPart_Total_HighWord"] = np.zeros(n_types, "u4")
            table = np.array([mass if masses == "table" and n else 0.0 for n in totals])
            header["MassTable"] = table
            box = box_size / unit
            header["BoxSize"] = np.full(box_as_array, box) if box_as_array else box
            header["Redshift"] = float(redshift)
            header["Time"] = 1.0 / (1.0 + redshift)
            header["NumFilesPerSnapshot"] = np.int32(n_files)
            if cosmology_in != "none":
                cosmology = file.require_group(cosmology_in).attrs
                cosmology["Omega0"] = Omega_m
                cosmology["OmegaLambda"] = 1.0 - Omega_m
                cosmology["HubbleParam"] = h
            if units_in in ("Parameters", "Header", "Units"):
                units = file.require_group(units_in).attrs
                units["UnitLength_in_cm"] = unit * CM_PER_MPC
                units["UnitMass_in_g"] = UNIT_MASS_IN_G
                units["UnitVelocity_in_cm_per_s"] = UNIT_VELOCITY_IN_CM_PER_S
            start = sum(len(by_type[t]) for t in by_type) * i
            for t, piece in pieces.items():
                if not len(piece):
                    continue
                group = file.create_group(f"PartType{t}")
                stored = in_file_units(piece, length_unit, h, box_size, dtype)
                dset = group.create_dataset("Coordinates", data=stored, **(dataset_options or {}))
                if units_in == "to_cgs":
                    dset.attrs["to_cgs"] = unit * CM_PER_MPC
                    dset.attrs["h_scaling"] = -1.0
                group["Velocities"] = np.zeros_like(stored)
                group["ParticleIDs"] = np.arange(start, start + len(piece), dtype="u4")
                if masses == "particles":
                    group["Masses"] = np.full(len(piece), mass, "f4")
    return paths


def write_gadget_binary(
    path: Path,
    positions_mpc_h: Positions,
    *,
    box_size: float = 100.0,
    redshift: float = 0.0,
    Omega_m: float = 0.3,
    h: float = 0.7,
    n_files: int = 1,
    length_unit: LengthUnit = "kpc/h",
    dtype: str = "f4",
    snap_format: Literal[1, 2] = 1,
    byte_order: Literal["<", ">"] = "<",
    zero_header: bool = False,
    high_words: Sequence[int] = NO_HIGH_WORDS,
    density: float = 1.0,
) -> list[Path]:
    """Write a Gadget-2 binary snapshot; returns the paths of its parts.

    ``zero_header`` leaves box size, cosmology and number of files 0, as
    initial-condition generators do; ``high_words`` are written as given.
    """
    by_type = _by_type(positions_mpc_h)
    n_all = sum(map(len, by_type.values()))
    mass = density * mean_matter_density(Omega_m) * box_size**3 / max(n_all, 1)
    totals = [len(by_type.get(t, ())) for t in range(6)]
    box = box_size / length_in_mpc_h(length_unit, h, box_size)
    cosmology = (0.0,) * 4 if zero_header else (box, Omega_m, 1.0 - Omega_m, h)
    paths = part_paths(Path(path), n_files)
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(paths):
        pieces = {t: _piece(p, i, n_files) for t, p in sorted(by_type.items())}
        header = gadget2_header(
            counts=[len(pieces.get(t, ())) for t in range(6)],
            masses=[mass if n else 0.0 for n in totals],
            redshift=redshift,
            totals=totals,
            num_files=0 if zero_header else n_files,
            cosmology=cosmology,
            high_words=high_words,
            byte_order=byte_order,
        )
        stored = np.concatenate(
            [in_file_units(p, length_unit, h, box_size, dtype) for p in pieces.values()]
        ).astype(byte_order + dtype)
        ids = np.arange(len(stored)).astype(byte_order + "u4")
        blocks = {"HEAD": header, "POS ": stored.tobytes()}
        blocks |= {"VEL ": bytes(stored.nbytes), "ID  ": ids.tobytes()}
        part.write_bytes(gadget2_records(blocks, snap_format, byte_order))
    return paths


def gadget2_header(
    *,
    counts: Sequence[int],
    masses: Sequence[float],
    redshift: float,
    totals: Sequence[int],
    num_files: int,
    cosmology: Sequence[float],
    high_words: Sequence[int] = NO_HIGH_WORDS,
    byte_order: str = "<",
) -> bytes:
    """256 bytes of a Gadget-2 header; ``cosmology`` is BoxSize, Omega0, OmegaLambda, h."""
    return struct.pack(
        f"{byte_order}6I6d2d2i6I2i4d2i6I64x",
        *counts,
        *masses,
        1.0 / (1.0 + redshift),
        redshift,
        *(0, 0),
        *totals,
        *(0, num_files),
        *cosmology,
        *(0, 0),
        *high_words,
    )


def gadget2_records(blocks: Mapping[str, bytes], snap_format: int, byte_order: str) -> bytes:
    """The blocks with their record markers, and with their names in format 2."""
    out = []
    for name, data in blocks.items():
        if snap_format == 2:
            label = name.encode() + struct.pack(f"{byte_order}I", len(data) + 8)
            out.append(_record(label, byte_order))
        out.append(_record(data, byte_order))
    return b"".join(out)


def _record(data: bytes, byte_order: str) -> bytes:
    marker = struct.pack(f"{byte_order}I", len(data))
    return marker + data + marker


def _by_type(positions: Positions) -> dict[int, np.ndarray]:
    return dict(positions) if isinstance(positions, Mapping) else {1: np.asarray(positions)}


def _piece(positions: np.ndarray, i: int, n_files: int) -> np.ndarray:
    bounds = uneven_bounds(len(positions), n_files)
    return positions[bounds[i] : bounds[i + 1]]
