"""Small synthetic snapshots in the format bigfile, as MP-Gadget and FastPM write them, for tests.

Written by hand after ``src/bigfile.c`` of https://github.com/MP-Gadget/bigfile, so that the
tests do without its library; ``tests/test_readers_bigfile.py`` compares with it where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.units import CM_PER_MPC, mean_matter_density
from tests.snapshots_made import Positions, uneven_bounds


def write_mp_gadget(
    root: Path,
    positions_mpc_h: Positions,
    *,
    box_size: float = 100.0,
    redshift: float = 0.0,
    Omega_m: float = 0.3,
    h: float = 0.7,
    n_files: int = 1,
    dtype: str = "<f8",
    unit_cm: float = CM_PER_MPC / 1000,
    masses: str = "particles",
    density: float = 1.0,
    attributes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a snapshot of MP-Gadget; returns its ``Header/attr-v2``.

    ``masses`` is ``particles`` (blocks), ``table`` or ``none``; ``attributes``
    replaces those of the header, None removes one.
    """
    by_type = (
        dict(positions_mpc_h) if isinstance(positions_mpc_h, Mapping) else {1: positions_mpc_h}
    )
    totals = [len(by_type.get(t, ())) for t in range(6)]
    unit = unit_cm / CM_PER_MPC
    mass = density * mean_matter_density(Omega_m) * box_size**3 / max(sum(totals), 1)
    header = {
        "TotNumPart": np.array(totals, "u8"),
        "TotNumPartInit": np.array(totals, "u8"),
        "MassTable": np.array([mass if n and masses == "table" else 0.0 for n in totals]),
        "Time": 1 / (1 + redshift),
        "TimeIC": 0.01,
        "BoxSize": box_size / unit,
        "OmegaLambda": 1 - Omega_m,
        "UsePeculiarVelocity": np.int32(1),
        "Omega0": Omega_m,
        "HubbleParam": h,
        "UnitLength_in_cm": unit_cm,
        "UnitMass_in_g": 1.989e43,
        "UnitVelocity_in_cm_per_s": 1e5,
        "CodeVersion": "5.0 made",
    }
    path = write_attributes(root, {**header, **(attributes or {})})
    for t, p in by_type.items():
        write_block(root / str(t) / "Position", (p / unit).astype(dtype), n_files)
        write_block(root / str(t) / "Velocity", np.zeros((len(p), 3), "<f4"), n_files)
        write_block(root / str(t) / "ID", np.arange(len(p), dtype="<u8"), n_files)
        if masses == "particles":
            # cut elsewhere than positions: bigfile cuts blocks by their bytes
            write_block(root / str(t) / "Mass", np.full(len(p), mass, "<f4"), n_files + 1)
    return path


def write_fastpm(
    root: Path,
    positions_mpc_h: np.ndarray,
    *,
    box_size: float = 100.0,
    redshift: float = 0.0,
    Omega_m: float = 0.3,
    n_files: int = 2,
    attributes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a snapshot of FastPM, which states no units; returns its ``Header/attr-v2``."""
    header = {
        "BoxSize": box_size,
        "ScalingFactor": 1 / (1 + redshift),
        "RSDFactor": 0.01,
        "OmegaM": Omega_m,
        "NC": np.int64(round(len(positions_mpc_h) ** (1 / 3))),
        "M0": mean_matter_density(Omega_m) * box_size**3 / len(positions_mpc_h),
        "ParamFile": "nc = 10\n",
    }
    path = write_attributes(root, {**header, **(attributes or {})})
    write_block(root / "1" / "Position", positions_mpc_h.astype("<f4"), n_files)
    write_block(root / "1" / "ID", np.arange(len(positions_mpc_h), dtype="<i8"), n_files)
    return path


def write_attributes(root: Path, attributes: Mapping[str, Any]) -> Path:
    """``Header/attr-v2`` and the empty block that it belongs to."""
    folder = root / "Header"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [attribute_line(k, v) for k, v in attributes.items() if v is not None]
    (folder / "header").write_text("DTYPE: <i8\nNMEMB: 0\nNFILE: 0\n")
    path = folder / "attr-v2"
    path.write_text("".join(lines))
    return path


def attribute_line(name: str, value: Any) -> str:
    """One attribute: name, type, length, hexadecimal bytes and a text for people."""
    if isinstance(value, str):
        data = value.encode()
        return f"{name} <S1 {len(data)} {data.hex().upper()} #HUMANE [ {value!r} ]\n"
    values = np.atleast_1d(value)
    text = " ".join(map(str, values))
    kind = values.dtype.str
    return f"{name} {kind} {len(values)} {values.tobytes().hex().upper()} #HUMANE [ {text} ]\n"


def write_block(folder: Path, values: np.ndarray, n_files: int = 1) -> None:
    """A block of ``(n,)`` or ``(n, width)`` numbers over ``n_files`` files of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = uneven_bounds(len(values), n_files)
    pieces = [values[bounds[i] : bounds[i + 1]].tobytes() for i in range(n_files)]
    rows = [int(bounds[i + 1] - bounds[i]) for i in range(n_files)]
    width = values.shape[1] if values.ndim == 2 else 1
    for i, piece in enumerate(pieces):
        (folder / f"{i:06X}").write_bytes(piece)
    sums = [sum(piece) % (1 << 32) for piece in pieces]
    (folder / "header").write_text(block_header(values.dtype.str, width, rows, sums))


def block_header(dtype: str, width: int, rows: Sequence[int], sums: Sequence[int]) -> str:
    """Text of a block's header."""
    lines = [f"DTYPE: {dtype}\nNMEMB: {width}\nNFILE: {len(rows)}\n"]
    for i, (n, s) in enumerate(zip(rows, sums, strict=True)):
        r = (s & 0xFFFF) + (s >> 16)
        lines.append(f"{i:06X}: {n} : {s} : {(r & 0xFFFF) + (r >> 16)}\n")
    return "".join(lines)
