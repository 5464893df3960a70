"""The power spectra of what a path holds: a snapshot, a ready grid, or a cube of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.deposit import assign, get_scheme
from pipeline.errors import InputError
from pipeline.field import check_read
from pipeline.linear_theory import Cosmology, cosmology_of, linear_power
from pipeline.manifest import MANIFEST_NAME, Manifest, Universe, load
from pipeline.power_spectrum import (
    Estimator,
    PowerSpectrum,
    bin_edges,
    fourier_modes,
    interlace,
    power_of_modes,
)
from pipeline.read_ahead import ahead
from pipeline.readers import open_snapshot
from pipeline.readers.registry import entry_file
from pipeline.ready_field import fill_ready
from pipeline.samples import universe_cube
from pipeline.snapshot import GridSnapshot, ReadOptions, Snapshot, SnapshotHeader
from pipeline.threads import cores
from pipeline.write.store import Store
from pipeline.write.stores import open_store

DEFAULT_SCHEME = "tsc"
DEFAULT_N_GRID = (32, 512)
"""The grid has as many cells as there are particles, but no fewer or more than these a side."""

REDSHIFT_TOLERANCE = 0.01
"""In 1 + z: outputs of simulations are not at round redshifts exactly."""


@dataclass(frozen=True)
class Request:
    """What to measure, and how.

    Attributes
    ----------
    n_grid : int or None
        Cells a side for particles; None: about one for each particle.
    scheme : str or None
        Mass assignment for particles (None: TSC); of a grid that does not tell what made
        it, what did.
    interlace : bool
        Whether to use two grids, half a cell apart; for particles only.
    compensate : bool
        Whether to divide the window of the mass assignment out.
    subtract_shot_noise : bool
        Whether to take the shot noise of equal particles off.
    k_max, bin_width : float or None
        h/Mpc, as for :func:`pipeline.power_spectrum.bin_edges`.
    """

    n_grid: int | None = None
    scheme: str | None = None
    interlace: bool = False
    compensate: bool = True
    subtract_shot_noise: bool = False
    k_max: float | None = None
    bin_width: float | None = None


@dataclass(frozen=True)
class Measurement:
    """One measured power spectrum and what it is of.

    Attributes
    ----------
    source : str
        Path of the snapshot, or of the data set and the universe's id.
    redshift : float
        Redshift.
    spectrum : PowerSpectrum
        What was measured.
    n_grid : int
        Cells a side.
    scheme : str or None
        Mass assignment, if known.
    compensated, interlaced : bool
        What was done about window and aliasing.
    n_particles : int or None
        Particles of equal weight in the box, if known.
    parameters : dict
        Cosmological parameters by name, those that are known.
    """

    source: str
    redshift: float
    spectrum: PowerSpectrum
    n_grid: int
    scheme: str | None
    compensated: bool
    interlaced: bool
    n_particles: int | None
    parameters: dict[str, float] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """Parameters that linear theory would need besides."""
        found = cosmology_of(self.parameters)
        return () if isinstance(found, Cosmology) else found

    def linear(self, k: np.ndarray) -> np.ndarray | None:
        """Linear P(k) in (Mpc/h)^3 at ``k`` in h/Mpc, if all parameters are known."""
        cosmology = cosmology_of(self.parameters)
        if not isinstance(cosmology, Cosmology):
            return None
        return linear_power(k, cosmology, self.redshift)


@dataclass(frozen=True)
class _Source:
    """What the spectrum is of, before it is measured."""

    name: str
    redshift: float
    box_size: float
    n_particles: int | None
    parameters: dict[str, float]


def measure(
    place: Path | str,
    request: Request,
    options: ReadOptions | None = None,
    universe: str | None = None,
    redshift: float | None = None,
) -> list[Measurement]:
    """Power spectra of a snapshot, a ready grid or a universe of a data set.

    Parameters
    ----------
    place : Path or str
        Data set's folder or URL, or snapshot: one of its files, or the folder of a bigfile
        or Zarr snapshot.
    request : Request
        What to measure.
    options : ReadOptions, optional
        For a snapshot that does not tell its units or box.
    universe : str, optional
        Of a data set; may be left out if there is one only.
    redshift : float, optional
        Of a file or data set that holds several.  [default: all of them]

    Returns
    -------
    list of Measurement
        One for each redshift.

    Raises
    ------
    CosmoflowError
        If there is no such thing to measure, or it is damaged.
    """
    store = open_store(place)
    if store.exists(MANIFEST_NAME):
        return _of_dataset(store, load(store), request, universe, redshift)
    path = store.local
    if path is None or entry_file(path).is_dir():
        raise InputError(
            f"{store}: neither a data set ({MANIFEST_NAME} is missing) nor a snapshot; name a "
            "data set's folder or one file of a snapshot"
        )
    if universe is not None:
        raise InputError(f"{path}: is a snapshot, universes are chosen of data sets; drop it")
    epochs = open_snapshot(path, options).epochs()
    chosen = _at_redshift(f"{path}", [e.header.redshift for e in epochs], redshift)
    return [_of_snapshot(path, epochs[number], request) for number in chosen]


def overdensity_of(
    snapshot: Snapshot, n_grid: int, scheme: str, shift_cells: float = 0.0
) -> np.ndarray:
    """Overdensity of the particles of a snapshot, each counting 1.

    Parameters
    ----------
    snapshot : Snapshot
        Of particles.
    n_grid : int
        Cells a side.
    scheme : str
        Mass assignment.
    shift_cells : float
        Added to every position along each axis, in cells.

    Returns
    -------
    numpy.ndarray
        ``(n_grid, n_grid, n_grid)`` float32, of mean 0.

    Raises
    ------
    SnapshotError
        If positions are not finite, or other numbers of particles arrive than
        the header promised.
    """
    header, cells = snapshot.header, np.empty((n_grid,) * 3, dtype=np.float32)
    with ahead(snapshot.iter_positions()) as chunks:
        assigned = assign(
            chunks,
            cells,
            header.box_size,
            get_scheme(scheme),
            shift=shift_cells,
            n_particles=header.n_particles,
            threads=cores(),
        )
    check_read(header, assigned.n_particles, assigned.not_finite)
    return _overdensity(cells, header.n_particles)


def _overdensity(cells: np.ndarray, total: float) -> np.ndarray:
    """Cells over their mean, minus 1, as float32; a slab at a time, to need no third grid."""
    result = np.empty(cells.shape, dtype=np.float32)
    for slab, out in zip(cells, result, strict=True):
        out[...] = slab * (cells.size / total) - 1
    return result


def _of_snapshot(path: Path, snapshot: Snapshot, request: Request) -> Measurement:
    header = snapshot.header
    if isinstance(snapshot, GridSnapshot) and header.grid is not None:
        cells = np.empty((header.grid.n_grid,) * 3, dtype=np.float32)
        filled = fill_ready(snapshot, cells)
        source = _source_of(path, header, filled.n_particles or None)
        return _of_cells(source, header.grid.scheme, cells, request)
    source = _source_of(path, header, header.n_particles)
    n_grid = request.n_grid or _default_n_grid(header.n_particles)
    scheme = request.scheme or DEFAULT_SCHEME
    edges = _edges(source, n_grid, request)  # before anything is read
    modes = fourier_modes(overdensity_of(snapshot, n_grid, scheme))
    if request.interlace:
        interlace(modes, fourier_modes(overdensity_of(snapshot, n_grid, scheme, 0.5)))
    return _measured(source, modes, edges, scheme, request)


def _source_of(path: Path, header: SnapshotHeader, n_particles: int | None) -> _Source:
    known = {"Omega_m": header.Omega_m, "h": header.h}
    parameters = {name: value for name, value in known.items() if value is not None}
    return _Source(
        str(path),
        header.redshift,
        header.box_size,
        n_particles,
        dict(header.parameters) | parameters,
    )


def _default_n_grid(n_particles: int) -> int:
    lowest, highest = DEFAULT_N_GRID
    side: float = n_particles ** (1 / 3)
    return min(max(lowest, 2 * round(side / 2)), highest)


def _of_dataset(
    store: Store, manifest: Manifest, request: Request, universe: str | None, redshift: float | None
) -> list[Measurement]:
    member = _universe(f"{store}", manifest, universe)
    channels = _at_redshift(f"{store}", manifest.layout.redshifts, redshift)
    cube = universe_cube(store, manifest, member.id)
    return [
        _of_cells(*_channel_source(store, manifest, member, channel), cube[..., channel], request)
        for channel in channels
    ]


def _channel_source(
    store: Store, manifest: Manifest, member: Universe, channel: int
) -> tuple[_Source, str | None]:
    """What a channel of a universe is, and the mass assignment that made it."""
    layout = manifest.layout
    record = next(s for s in member.snapshots if s.channel == channel)
    # particles of different masses have another shot noise than their number says
    counted = layout.quantity == "counts" and record.n_particles > 0
    source = _Source(
        f"{store}: {member.id}",
        layout.redshifts[channel],
        record.box_size,
        record.n_particles if counted else None,
        dict(member.parameters),
    )
    return source, record.scheme if layout.scheme == "ready" else layout.scheme


def _universe(name: str, manifest: Manifest, wanted: str | None) -> Universe:
    names = [universe.id for universe in manifest.universes]
    if wanted is None and len(names) == 1:
        return manifest.universes[0]
    found = [universe for universe in manifest.universes if universe.id == wanted]
    if not found:
        some = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        asked = "no universe is named" if wanted is None else f"there is no universe {wanted!r}"
        raise InputError(
            f"{name}: {asked}; choose one of its {len(names)} ({some}) with --universe"
        )
    return found[0]


def _at_redshift(name: str, there: Sequence[float], wanted: float | None) -> list[int]:
    """Numbers of the redshifts to measure: the nearest one to that wanted, or all."""
    if wanted is None:
        return list(range(len(there)))
    nearest = min(range(len(there)), key=lambda number: abs(there[number] - wanted))
    if abs(there[nearest] - wanted) > REDSHIFT_TOLERANCE * (1 + wanted):
        raise InputError(
            f"{name}: has no redshift {wanted:g}, only {', '.join(f'{z:.4g}' for z in there)}; "
            "choose one of these with --redshift"
        )
    return [nearest]


def _of_cells(
    source: _Source, scheme: str | None, cells: np.ndarray, request: Request
) -> Measurement:
    n_grid = len(cells)
    _check_grid_request(source, n_grid, scheme, request)
    edges = _edges(source, n_grid, request)
    total = sum(float(slab.sum(dtype=np.float64)) for slab in cells)
    if total <= 0:
        raise InputError(f"{source.name}: all cells are 0, expected matter")
    modes = fourier_modes(_overdensity(cells, total))
    return _measured(source, modes, edges, scheme or request.scheme, request)


def _check_grid_request(source: _Source, n_grid: int, scheme: str | None, request: Request) -> None:
    """Refuse what cannot be done with cells that are there already."""
    if request.interlace:
        raise InputError(
            f"{source.name}: is a grid, and interlacing deposits particles twice; drop "
            "--interlace, or give the snapshot of the particles"
        )
    if request.n_grid not in (None, n_grid):
        raise InputError(
            f"{source.name}: is a grid of {n_grid} cells a side, not {request.n_grid}; "
            "drop --n-grid, or give the snapshot of the particles"
        )
    if scheme is not None and request.scheme not in (None, scheme):
        raise InputError(
            f"{source.name}: was made by {scheme} mass assignment, not {request.scheme}; drop "
            "--scheme, or give the snapshot of the particles"
        )


def _edges(source: _Source, n_grid: int, request: Request) -> np.ndarray:
    try:
        return bin_edges(n_grid, source.box_size, request.bin_width, request.k_max)
    except ValueError as error:
        raise InputError(
            f"{source.name}: {error}; choose another --bin-width, --k-max or --n-grid"
        ) from error


def _measured(
    source: _Source, modes: np.ndarray, edges: np.ndarray, scheme: str | None, request: Request
) -> Measurement:
    if request.subtract_shot_noise and (source.n_particles is None or scheme is None):
        lacking = "number of equal particles" if scheme else "mass assignment (give --scheme)"
        raise InputError(
            f"{source.name}: the shot noise cannot be subtracted, as the {lacking} is not known; "
            "use --shot-noise keep"
        )
    estimator = Estimator(
        order=get_scheme(scheme).support if scheme else None,
        compensate=request.compensate,
        interlaced=request.interlace,
        subtract_shot_noise=request.subtract_shot_noise,
    )
    return Measurement(
        source=source.name,
        redshift=source.redshift,
        spectrum=power_of_modes(modes, source.box_size, edges, estimator, source.n_particles),
        n_grid=len(modes),
        scheme=scheme,
        compensated=request.compensate and scheme is not None,
        interlaced=request.interlace,
        n_particles=source.n_particles,
        parameters=source.parameters,
    )
