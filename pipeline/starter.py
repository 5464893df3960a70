"""A first recipe for ``cosmoflow-prep init``, filled in from what a folder holds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.config import NAME_PATTERN
from pipeline.errors import InputError, OutputError, RecipeError
from pipeline.parameter_table import ParameterTable, open_table
from pipeline.readers import open_snapshot
from pipeline.readers.discover import find_snapshots
from pipeline.snapshot import ReadOptions, SnapshotHeader
from pipeline.write.atomic import write_atomically

_MOST_WIDENED = 1e9
"""Two decimals mean nothing beyond it."""

TARGET_NAMES = ("Omega_m", "sigma_8", "n_s", "H_0", "h", "Omega_b")

_TEMPLATE = """\
# A recipe of cosmoflow-prep: everything that determines a data set.
# Check it with 'cosmoflow-prep check', then 'plan', then 'build'.
name: {name}
input:
  universes: {universes}        # one folder a universe, or a CSV table (id, files, parameters)
  parameters: {parameters}      # CSV table: id, {target_names}
  format: auto
  # length_unit: kpc/h          # only where the files do not say
  # particle_types: [dark_matter]
grid:
  n_grid: {n_grid}              # cells a side of a whole cube
  scheme: {scheme}              # ngp, cic, tsc or pcs; ready: the files hold grids
  redshifts: {redshifts}        # the channels, in this order
split:
  subvolumes: {subvolumes}      # sub-volumes a side: subvolumes^3 samples from each cube
  fractions: {{train: 0.8, validation: 0.1, test: 0.1}}   # of the universes
  seed: 7
augment: {{offline: none}}      # the trainer augments as it reads
targets:                        # parameter: [low, high], scaled to [-1, 1]
{targets}
output:
  path: {output}
  format: zarr                  # or tfrecord
  samples_per_shard: {samples_per_shard}
  codec: auto
"""


@dataclass(frozen=True)
class Found:
    """What a folder of universes holds."""

    folder: Path
    table: ParameterTable | None
    n_universes: int
    headers: list[SnapshotHeader]


def write_recipe(path: Path, simulations: Path | None, name: str) -> Found | None:
    """Write a recipe to ``path``, from the folder ``simulations`` where it is given.

    Raises
    ------
    RecipeError
        If ``name`` cannot be the name of a data set.
    OutputError
        If ``path`` exists.
    InputError
        If ``simulations`` holds no universes, or its table a cell that is no number.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise RecipeError(
            f"--name {name!r} cannot be the name of a data set; expected letters, digits, '.', "
            "'_' and '-' that begin with a letter or digit, e.g. my-universes"
        )
    if path.exists():
        raise OutputError(f"{path}: exists, and is not overwritten; choose another --output")
    found = look_at(simulations) if simulations else None
    write_atomically(path, recipe_text(path, found, name).encode())
    return found


def look_at(folder: Path) -> Found:
    """Look at the universes in ``folder``: the headers of the first, and the table.

    Raises
    ------
    InputError
        If no sub-folder holds a snapshot.
    """
    folders = sorted(p for p in folder.glob("*/") if p.is_dir())
    for first in folders:
        snapshots = find_snapshots(first)
        if snapshots:
            headers = [open_snapshot(parts, ReadOptions()).header for parts in snapshots]
            table = _table(folder)
            return Found(folder, open_table(table) if table else None, len(folders), headers)
    raise InputError(
        f"{folder}: no sub-folder holds a snapshot; each universe is expected to be a folder "
        "inside it"
    )


def _table(folder: Path) -> Path | None:
    for path in sorted([*folder.glob("*.csv"), *folder.parent.glob("*.csv")]):
        with path.open(encoding="utf-8", errors="replace") as file:
            if "id" in [name.strip() for name in file.readline().split(",")]:
                return path
    return None


def recipe_text(path: Path, found: Found | None, name: str) -> str:
    """The recipe as text with comments."""
    root = path.resolve().parent
    n_grid = _n_grid(found)
    values = {
        "name": _quoted(name),  # 123 or true would not be text
        "universes": _quoted(_relative(found.folder, root) + "/*/" if found else "sims/*/"),
        "parameters": _quoted(
            _relative(found.table.path, root) if found and found.table else "cosmology.csv"
        ),
        "target_names": ", ".join(_targets(found)),
        "n_grid": n_grid,
        "scheme": "ready" if found and found.headers[0].grid else "ngp",
        "redshifts": _redshifts(found),
        "subvolumes": max(1, n_grid // 128),
        "targets": "\n".join(f"  {k}: [{lo:g}, {hi:g}]" for k, (lo, hi) in _targets(found).items()),
        "output": _quoted(f"datasets/{name}"),
        "samples_per_shard": max(1, n_grid // 128) ** 3 * (16 if n_grid <= 64 else 1),
    }
    return _TEMPLATE.format(**values)


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"').strip()


def _relative(path: Path, root: Path) -> str:
    resolved = path.resolve()
    return (resolved.relative_to(root) if resolved.is_relative_to(root) else resolved).as_posix()


def _n_grid(found: Found | None) -> int:
    """Cells a side: as many as particles, a power of two, which keeps sub-volumes simple."""
    if found is None:
        return 512
    if found.headers[0].grid is not None:
        return found.headers[0].grid.n_grid
    side = found.headers[0].n_particles ** (1 / 3)
    return max(4, 1 << round(math.log2(side)))


def _redshifts(found: Found | None) -> list[float]:
    if found is None:
        return [0.0, 0.5, 1.5, 3.0]
    return sorted({abs(round(header.redshift, 2)) for header in found.headers})


def _targets(found: Found | None) -> dict[str, tuple[float, float]]:
    defaults = {"Omega_m": (0.1, 0.5), "sigma_8": (0.6, 1.0), "n_s": (0.8, 1.2)}
    if found is None or found.table is None:
        return defaults
    rows = [found.table.parameters(universe) for universe in found.table.rows]
    columns = {name: [row[name] for row in rows if name in row] for name in TARGET_NAMES}
    ranges = {name: _range(values) for name, values in columns.items() if values}
    return {n: r for n, r in ranges.items() if r[0] < r[1]} or defaults


def _range(values: list[float]) -> tuple[float, float]:
    """Range of values, widened to two decimals; empty where all are the same."""
    low, high = min(values), max(values)
    if low == high or max(-low, high) > _MOST_WIDENED:
        return low, high
    return math.floor(low * 100) / 100, math.ceil(high * 100) / 100
