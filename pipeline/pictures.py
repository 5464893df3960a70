"""Pictures of a data set: slabs of a cube, its one-point distribution, the parameters covered."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.manifest import Manifest, Universe
from pipeline.samples import universe_cube
from pipeline.write.atomic import write_atomically
from pipeline.write.stores import Place

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def typical_universe(manifest: Manifest) -> Universe:
    """The universe to show: the first one of the test split, or the first one."""
    return min(manifest.universes, key=lambda u: (u.split != "test", u.id))


def write_slabs(dataset: Place, manifest: Manifest, path: Path) -> Universe:
    """Write a PNG of a slab of a typical universe at each redshift; returns the universe."""
    universe = typical_universe(manifest)
    cube = universe_cube(dataset, manifest, universe.id)
    write_atomically(path, png(slab_figure(cube, manifest, universe)))
    return universe


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def slab_figure(cube: np.ndarray, manifest: Manifest, universe: Universe) -> Figure:
    """Projection of a slab along z at each redshift."""
    figure = _new_figure(3.1 * cube.shape[3], 3.4)
    side = universe.snapshots[0].box_size
    slab = cube[:, :, : max(1, cube.shape[2] // 8)].astype(np.float64).sum(axis=2)
    brightest = float(np.log1p(slab).max())
    for channel, redshift in enumerate(manifest.layout.redshifts):
        axes = figure.add_subplot(1, cube.shape[3], channel + 1)
        axes.imshow(
            np.log1p(slab[..., channel]).T,
            origin="lower",
            extent=(0, side, 0, side),
            vmin=0,
            vmax=brightest,
            cmap="magma",
        )
        axes.set_title(f"z = {redshift:g}")
        axes.set_xlabel("x [Mpc/h]")
    return figure


def distribution_figure(cube: np.ndarray, manifest: Manifest) -> Figure:
    """One-point distribution of the cells at each redshift."""
    figure = _new_figure(6, 3.4)
    axes = figure.add_subplot()
    for channel, redshift in enumerate(manifest.layout.redshifts):
        density = cube[..., channel].astype(np.float64)
        values = np.log10(1 + density.ravel() / density.mean())
        axes.hist(values, bins=24, histtype="step", density=True, label=f"z = {redshift:g}")
    axes.set_xlabel("log10(1 + density / mean)")
    axes.set_yscale("log")
    axes.legend()
    return figure


def coverage_figure(manifest: Manifest) -> Figure:
    """Every pair of targets, universes coloured by split."""
    names = list(manifest.targets)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]] or [(names[0], names[0])]
    figure = _new_figure(3.4 * len(pairs), 3.4)
    for number, (a, b) in enumerate(pairs, start=1):
        axes = figure.add_subplot(1, len(pairs), number)
        for split in manifest.splits:
            members = [u.parameters for u in manifest.universes if u.split == split]
            axes.plot([p[a] for p in members], [p[b] for p in members], "o", ms=4, label=split)
        axes.set_xlabel(a)
        axes.set_ylabel(b)
    figure.axes[0].legend()
    return figure


def _new_figure(width: float, height: float) -> Figure:
    # matplotlib without pyplot: no display, no global state
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    return Figure(figsize=(width, height), layout="constrained")
