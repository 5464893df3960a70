"""Every byte of a small data set is changed, one at a time: ``verify`` has to find every one.

python tests/proof_corruption.py [--stride N] [--every-bit] [--formats F] [--processes N]

The data sets, one of Zarr and one of TFRecord, are built from scratch.  The files are those that
the manifest lists, the manifest itself, and the ledger (its journals and what the build began
with; ``ledger/plan.json`` only tells how far a build is and is left out).  One bit of each byte
is changed, or with ``--every-bit`` each of the eight; ``verify`` runs whole on every change, and
once more on the restored data set after some.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from pipeline.build import build  # noqa: E402
from pipeline.cluster import ClusterChoice  # noqa: E402
from pipeline.errors import DatasetError  # noqa: E402
from pipeline.manifest import load  # noqa: E402
from pipeline.verify import listed, verify  # noqa: E402
from tests.ensembles_made import write_ensemble, write_recipe  # noqa: E402

FORMATS = ("zarr", "tfrecord")
NOT_COVERED = ("plan.json",)


@dataclass(frozen=True)
class Tried:
    """Bytes of one kind of file that were changed, and those changes that were not found."""

    kind: str
    changes: int
    undetected: tuple[str, ...]


def make(root: Path, format: str, choice: ClusterChoice) -> Path:
    """A data set of four universes, as small as they come."""
    write_ensemble(root, n_universes=4, n_particles=16, redshifts=(0.0,))
    recipe = write_recipe(
        root,
        grid={"n_grid": 4, "scheme": "ngp", "redshifts": [0.0]},
        split={"subvolumes": 1, "fractions": {"train": 0.5, "test": 0.5}, "seed": 7},
        targets={"Omega_m": [0.1, 0.5]},
        output={"path": "out", "format": format, "samples_per_shard": 1},
    )
    return Path(build(recipe, choice).output)


def files(dataset: Path) -> list[str]:
    """All that is covered."""
    ledger = [p.relative_to(dataset).as_posix() for p in (dataset / "ledger").rglob("*")]
    kept = [p for p in sorted(ledger) if not p.endswith(NOT_COVERED) and (dataset / p).is_file()]
    return ["manifest.json", *(file.path for file in listed(load(dataset))), *kept]


def is_found(dataset: Path) -> bool:
    """Whether ``verify`` says that something is wrong."""
    try:
        return not verify(dataset, choice=ClusterChoice(workers=1)).passed
    except DatasetError:  # the manifest itself
        return True


def damage(dataset: Path, path: str, places: Iterable[int], every_bit: bool = False) -> Tried:
    """Change bytes of a file, one at a time."""
    target = dataset / path
    raw = target.read_bytes()
    missed, changes = [], 0
    for place in places:
        for bit in range(8) if every_bit else (place % 8,):
            changed = bytearray(raw)
            changed[place] ^= 1 << bit
            target.write_bytes(changed)
            changes += 1
            if not is_found(dataset):
                missed.append(f"{path} byte {place} bit {bit}")
    target.write_bytes(raw)
    if is_found(dataset):
        missed.append(f"{path}: restored, and yet a fault is found")
    return Tried(kind_of(path), changes, tuple(missed))


def kind_of(path: str) -> str:
    """What a file is, for the table."""
    if path.startswith("ledger/"):
        return "ledger"
    if path == "manifest.json":
        return "manifest"
    if path == "recipe.yaml":
        return "recipe"
    shard = "/density/c/" in path or path.endswith(".tfrecord")
    return "shards" if shard else "metadata, tables, indices"


def _damage_copy(source: Path, path: str, places: range, every_bit: bool) -> Tried:
    """:func:`damage` on a copy of its own: several run at once."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(source, Path(folder) / "out"))
        return damage(copy, path, places, every_bit)


def pieces(dataset: Path, stride: int, length: int = 1000) -> Iterator[tuple[str, range]]:
    """Files, long ones in runs of places."""
    for path in files(dataset):
        size = (dataset / path).stat().st_size
        for start in range(0, size, length * stride):
            yield path, range(start, min(start + length * stride, size), stride)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1, help="every N-th byte of each file")
    parser.add_argument("--every-bit", action="store_true", help="eight changes of each byte")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    undetected = 0
    for format in arguments.formats:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            dataset = make(Path(folder), format, ClusterChoice(workers=1))
            work = list(pieces(dataset, arguments.stride))
            with ProcessPoolExecutor(arguments.processes) as pool:
                done = [pool.submit(_damage_copy, dataset, *p, arguments.every_bit) for p in work]
                tried = [future.result() for future in done]
        undetected += _print(format, tried, time.monotonic() - started)
    return 1 if undetected else 0


def _print(format: str, tried: list[Tried], seconds: float) -> int:
    changes: Counter[str] = Counter()
    for one in tried:
        changes[one.kind] += one.changes
    missed = [line for one in tried for line in one.undetected]
    shown = ", ".join(f"{kind} {number}" for kind, number in changes.most_common())
    click.echo(
        f"{format}: {sum(changes.values())} changes ({shown}), {len(missed)} undetected, "
        f"{seconds:.0f} s"
    )
    for line in missed:
        click.echo(f"  undetected: {line}")
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
