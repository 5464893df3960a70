"""What a snapshot is to the rest of the pipeline, whatever code wrote it.

A reader (``pipeline/readers``) turns the files of one snapshot into a
:class:`Snapshot`: a checked :class:`SnapshotHeader` and a stream of particle
positions in bounded chunks.  Nothing is allocated from a number in a file
before that number has been compared with the size of the file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.units import LengthUnit, Quantity, mean_matter_density

DARK_MATTER = 1
"""Gadget's particle type of (high-resolution) dark matter."""

DEFAULT_CHUNK_PARTICLES = 1 << 20
"""Particles a chunk: 12 MiB of float32 positions."""

DENSITY_TOLERANCE = 0.1
"""Relative tolerance on the mean matter density (massive neutrinos are a few per cent)."""


@dataclass(frozen=True)
class ReadOptions:
    """What the recipe says of the input files, where they do not say it themselves.

    Attributes
    ----------
    format : str
        Name of a reader, or ``auto`` to sniff.
    particle_types : tuple of int
        Gadget particle types whose positions are read.
    length_unit : LengthUnit or None
        Unit of positions and box; None: as the file says, else as its mass
        density implies, else an error that asks.
    box_size : float or None
        Box side in comoving Mpc/h, in place of the header's.
    redshift, Omega_m, h : float or None
        In place of the header's.
    override : bool
        Whether box size, Omega_m and h may contradict what the header records.
    redshift_pattern : str or None
        Regular expression that finds the redshift in the name of a file
        whose format does not record it.
    positions : str or tuple of str or None
        Array of positions, or the three arrays of x, y and z, in files of plain arrays.
    masses : str or None
        Array of masses in files of plain arrays, 1e10 Msun/h.
    """

    format: str = "auto"
    particle_types: tuple[int, ...] = (DARK_MATTER,)
    length_unit: LengthUnit | None = None
    box_size: float | None = None
    redshift: float | None = None
    Omega_m: float | None = None
    h: float | None = None
    override: bool = False
    redshift_pattern: str | None = None
    positions: str | tuple[str, str, str] | None = None
    masses: str | None = None


@dataclass(frozen=True)
class ReadyGrid:
    """What is known of a grid that the files hold in place of particles.

    Attributes
    ----------
    n_grid : int
        Cells a side.
    quantity : {'counts', 'density'}
        Particles a cell, or density in units of its mean.
    channel : int
        Which grid of the file, where it holds several.
    scheme : str or None
        Mass assignment that made it, if the file tells.
    mean_tolerance : float
        Accepted ``|mean - 1|`` of densities.
    """

    n_grid: int
    quantity: Quantity
    channel: int = 0
    scheme: str | None = None
    mean_tolerance: float = 1e-3


@dataclass(frozen=True)
class SnapshotHeader:
    """Checked facts of one snapshot.

    Attributes
    ----------
    files : tuple of Path
        All parts, in the order in which they are read.
    format : str
        Name of the reader.
    box_size : float
        Comoving box side, Mpc/h.
    redshift : float
        As the file records it, not as it was asked for.
    n_particles : int
        Number of particles of the selected types, over all parts; 0 for a ready grid.
    length_unit : str
        Unit that the files were taken to be in.
    total_mass : float or None
        Mass of all particles of all types, 1e10 Msun/h; None if the file
        does not tell without reading every particle.
    Omega_m, h : float or None
        Of the header, if it has them.
    selected_mass : float or None
        Mass of the particles of the selected types, in the unit of
        ``iter_weighted``; None if the file does not tell without reading it.
    grid : ReadyGrid or None
        The files hold a grid instead of particles.
    parameters : tuple of (str, float)
        Cosmological parameters by name that the file records besides.
    """

    files: tuple[Path, ...]
    format: str
    box_size: float
    redshift: float
    n_particles: int
    length_unit: str
    total_mass: float | None = None
    Omega_m: float | None = None
    h: float | None = None
    selected_mass: float | None = None
    grid: ReadyGrid | None = None
    parameters: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """Path to show for the snapshot: its file, or its first part and their number."""
        more = len(self.files) - 1
        return f"{self.files[0]}" + (f" (+{more} more parts)" if more else "")


class Snapshot(ABC):
    """An opened snapshot: a checked header and its particles in chunks."""

    def __init__(self, header: SnapshotHeader) -> None:
        self.header = header

    @abstractmethod
    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Positions of the selected particles, chunk by chunk.

        Parameters
        ----------
        chunk_particles : int
            Most particles in one chunk; peak memory is a small multiple of it.

        Yields
        ------
        numpy.ndarray
            ``(n, 3)`` float32 or float64 as the file has it, comoving Mpc/h,
            not wrapped into the box.  The array is valid until the next chunk.

        Raises
        ------
        SnapshotError
            If a part is truncated or holds other numbers than its header says.
        """

    def iter_weighted(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and masses of the selected particles, chunk by chunk.

        Parameters
        ----------
        chunk_particles : int
            Most particles in one chunk; peak memory is a small multiple of it.

        Yields
        ------
        positions : numpy.ndarray
            As :meth:`iter_positions`, in the same order.
        masses : numpy.ndarray
            ``(n,)`` float64, 1e10 Msun/h, as the file has them: not checked.

        Raises
        ------
        SnapshotError
            If the format gives no masses, or as :meth:`iter_positions`.
        """
        raise SnapshotError(
            f"{self.header.name}: format {self.header.format} gives no masses; "
            "set grid.weight: count in the recipe"
        )

    def sections(self, most: int) -> tuple[Snapshot, ...]:
        """The snapshot in at most so many pieces that can be read apart, in order.

        Each particle is in one of them, in the chunks of the whole; the header of each is that
        of the whole.  In formats of one file it is this one alone.
        """
        del most
        return (self,)

    def epochs(self) -> tuple[Snapshot, ...]:
        """Snapshots of all redshifts that the files hold; in most formats this one alone."""
        return (self,)


Place = tuple[slice, slice, slice]
"""Where a block of a grid is, along x, y and z."""


class GridSnapshot(Snapshot):
    """An opened snapshot that holds a grid (``header.grid``) in place of particles."""

    @abstractmethod
    def iter_blocks(self) -> Iterator[tuple[Place, np.ndarray]]:
        """The grid in bounded blocks, each cell once.

        Yields
        ------
        place : tuple of slice
            Where the block is along x, y and z.
        block : numpy.ndarray
            ``(nx, ny, nz)``: integers for counts, floats for densities.  The
            array is valid until the next block.

        Raises
        ------
        SnapshotError
            If the content contradicts the format.
        """

    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Refuse: there are no particles."""
        raise SnapshotError(
            f"{self.header.name}: holds a grid of {self.header.format}, expected particles; "
            "set grid.scheme: ready in the recipe to take the grid as it is"
        )


def check_header(header: SnapshotHeader) -> None:
    """Refuse a header that no simulation would write.

    Raises
    ------
    SnapshotError
        If the box size or redshift is not plausible, there are no particles,
        or the mean matter density contradicts Omega_m.
    """
    if not (math.isfinite(header.box_size) and header.box_size > 0):
        raise SnapshotError(
            f"{header.name}: the box size is {header.box_size}, expected a positive length; "
            "if the file does not record it, give input.box_size (Mpc/h) in the recipe"
        )
    if not (math.isfinite(header.redshift) and header.redshift > -1):
        raise SnapshotError(
            f"{header.name}: the redshift is {header.redshift}, expected a number above -1; "
            "if the file does not record it, give input.redshift in the recipe"
        )
    if header.n_particles <= 0 and header.grid is None:
        raise SnapshotError(
            f"{header.name}: no particles of the chosen types; "
            "choose others with input.particle_types in the recipe"
        )
    check_mean_density(header)


def check_mean_density(header: SnapshotHeader) -> None:
    """Compare the mass in the box with Omega_m rho_crit, which catches unit slips.

    Raises
    ------
    SnapshotError
        If they differ by more than ``DENSITY_TOLERANCE``; names the likely unit.
    """
    if not header.total_mass or not header.Omega_m:
        return
    expected = mean_matter_density(header.Omega_m)
    ratio = header.total_mass / header.box_size**3 / expected
    if abs(ratio - 1) <= DENSITY_TOLERANCE:
        return
    raise SnapshotError(
        f"{header.name}: read in {header.length_unit}, the box of {header.box_size:g} Mpc/h "
        f"holds {ratio:.3g} times the mean matter density of Omega_m = {header.Omega_m:g}; "
        f"{_likely_cause(ratio, header)}"
    )


def _likely_cause(ratio: float, header: SnapshotHeader) -> str:
    slips = {
        "positions are probably in kpc/h, not Mpc/h: set input.length_unit: kpc/h": 1e-9,
        "positions are probably in Mpc/h, not kpc/h: set input.length_unit: Mpc/h": 1e9,
    }
    if header.h:
        slips["lengths probably lack the 1/h: set input.length_unit: Mpc or kpc"] = header.h**3
        slips["lengths probably have the 1/h already: set input.length_unit to .../h"] = (
            header.h**-3
        )
    for text, factor in slips.items():
        if abs(ratio / factor - 1) <= DENSITY_TOLERANCE:
            return text
    return "check input.length_unit, input.box_size and input.Omega_m in the recipe"
