"""A grid that no worker could hold: memory, time, and the same bits as on one worker.

Makes one snapshot of ``side^3`` particles in several files, and of it

- data sets with ``--memory-limit`` for each worker, each checked by ``verify``, whose
  particles are counted again; the peak memory of every worker process is measured from outside;
- at smaller grids the same data set by one worker and by several in parts, whose files
  are compared by their digests.

Run from the root of the repository; the largest case needs about 15 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from pipeline.manifest import load
from pipeline.samples import shard_samples
from pipeline.units import mean_matter_density

OMEGA_M = 0.3
FILES = 8
CHUNK = 1 << 21
HALOES = 2000
IN_HALOES = 0.3
RADIUS = 0.5
"""Mpc/h; of a halo, whose density falls as r^-2."""

POLL_SECONDS = 0.02


# ---------------------------------------------------------------- a snapshot


def write_snapshot(folder: Path, side: int) -> None:
    """Gadget binary in ``FILES`` parts: ``side^3`` particles, 1 Mpc/h apart in the mean."""
    folder.mkdir(parents=True)
    n, box = side**3, float(side)
    mass = mean_matter_density(OMEGA_M) * box**3 / n
    counts = np.diff(np.arange(FILES + 1) * n // FILES)
    centres = np.random.default_rng(0).uniform(0, box, (HALOES, 3))
    for part, count in enumerate(counts.tolist()):
        header = struct.pack(
            "<6I6d2d2i6I2i4d2i6I64x",
            *(0, count, 0, 0, 0, 0),
            *(0, mass, 0, 0, 0, 0),
            *(1.0, 0.0, 0, 0),
            *(0, n, 0, 0, 0, 0),
            *(0, FILES, box, OMEGA_M, 1 - OMEGA_M, 0.7),
            *(0,) * 8,
        )
        rng = np.random.default_rng([1, part])
        with (folder / f"snap.{part}").open("wb") as file:
            file.write(_record(header))
            file.write(struct.pack("<I", 12 * count))
            for begin in range(0, count, CHUNK):
                file.write(_particles(rng, min(CHUNK, count - begin), box, centres).tobytes())
            file.write(struct.pack("<I", 12 * count))


def _record(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data + struct.pack("<I", len(data))


def _particles(rng: np.random.Generator, n: int, box: float, centres: np.ndarray) -> np.ndarray:
    """``(n, 3)`` float32 positions: some in haloes, the others anywhere."""
    positions = rng.uniform(0, box, (n, 3))
    bound = int(n * IN_HALOES)
    away = rng.normal(size=(bound, 3))
    away *= RADIUS * rng.uniform(size=(bound, 1)) / np.linalg.norm(away, axis=1)[:, None]
    positions[:bound] = np.mod(centres[rng.integers(0, HALOES, bound)] + away, box)
    return rng.permutation(positions).astype("<f4")


# ---------------------------------------------------------------- builds


def write_recipe(
    root: Path, name: str, n_grid: int, scheme: str, subvolumes: int, per_shard: int
) -> Path:
    recipe = {
        "name": "large-box",
        "input": {
            "universes": "sims/*/",
            "parameters": "cosmology.csv",
            "length_unit": "Mpc/h",
        },
        "grid": {"n_grid": n_grid, "scheme": scheme, "redshifts": [0.0]},
        "split": {"subvolumes": subvolumes, "fractions": {"train": 1.0}},
        "targets": {"Omega_m": [0.1, 0.5]},
        "output": {"path": name, "samples_per_shard": per_shard},
    }
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@dataclass
class Built:
    """One build: seconds, and the peak resident memory of each process by its number."""

    seconds: float
    peaks: dict[int, int]

    @property
    def worker_peak(self) -> int:
        return max(self.peaks.values())


def build(recipe: Path, workers: int, memory_limit: str, *options: str) -> Built:
    """Run ``cosmoflow-prep build`` and watch its processes' memory from outside."""
    command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe)]
    command += ["--workers", str(workers), "--memory-limit", memory_limit, *options]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks: dict[int, int] = {}
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    code = process.wait()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} left with {code}")
    return Built(time.perf_counter() - start, peaks)


def _watch(process: subprocess.Popen[bytes], peaks: dict[int, int]) -> None:
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        for child in _children(driver):
            try:
                peaks[child.pid] = max(peaks.get(child.pid, 0), child.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        time.sleep(POLL_SECONDS)


def _children(driver: psutil.Process) -> list[psutil.Process]:
    try:
        return driver.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def particles_in(output: Path) -> float:
    """Sum over all samples of a data set."""
    manifest = load(output)
    return sum(
        float(sample.cells.sum(dtype=np.float64))
        for shard in manifest.shards
        for sample in shard_samples(output, manifest, shard)
    )


def digests(output: Path) -> dict[str, str]:
    """Of all files but the recipe, which names its own place; and the universes' records."""
    manifest = load(output)
    files = {f.path: f.digest for f in (*manifest.files, *manifest.shards)}
    del files["recipe.yaml"]
    return files | {u.id: u.model_dump_json() for u in manifest.universes}


def gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2f}"


def large_rows(root: Path, given: argparse.Namespace) -> Table:
    """Data sets in bounded memory."""
    columns = ["grid", "scheme", "cube, GiB", "limit a worker", "peak of a worker, GiB"]
    table = Table(*columns, "seconds", "particles", title="In parts, in bounded memory")
    for scheme in given.schemes:
        name = f"large-{scheme}"
        k = max(1, given.grid // 128)
        recipe = write_recipe(root, name, given.grid, scheme, k, min(8, k**3))
        made = build(recipe, given.workers, given.memory_limit, "--split-boxes", "always")
        command = [sys.executable, "-m", "pipeline.cli", "verify", str(root / name)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found, expected = particles_in(root / name), given.side**3
        if abs(found / expected - 1) > (0 if scheme == "ngp" else 1e-6):
            raise SystemExit(f"{name} holds {found} particles, expected {expected}")
        itemsize = 2 if scheme == "ngp" else 4
        table.add_row(
            f"{given.grid}^3",
            scheme,
            gib(itemsize * given.grid**3),
            given.memory_limit,
            gib(made.worker_peak),
            f"{made.seconds:.0f}",
            f"{found:.0f}",
        )
        shutil.rmtree(root / name)
    return table


def equal_rows(root: Path, given: argparse.Namespace) -> Table:
    """The same data sets by one worker and in parts."""
    columns = ["grid", "scheme", "one worker: s", "GiB", "in parts: s", "GiB", "files"]
    table = Table(*columns, title="The same bits as on one worker")
    for n_grid in given.equal:
        for scheme in given.schemes:
            k = max(1, n_grid // 128)
            names = [f"whole-{scheme}-{n_grid}", f"parts-{scheme}-{n_grid}"]
            recipes = [write_recipe(root, name, n_grid, scheme, k, k**3) for name in names]
            whole = build(recipes[0], 1, "0", "--split-boxes", "never")
            parts = build(recipes[1], given.workers, given.memory_limit, "--split-boxes", "always")
            ours, theirs = (digests(root / name) for name in names)
            if ours != theirs:
                raise SystemExit(f"{names[0]} and {names[1]} differ")
            table.add_row(
                f"{n_grid}^3",
                scheme,
                f"{whole.seconds:.0f}",
                gib(whole.worker_peak),
                f"{parts.seconds:.0f}",
                gib(parts.worker_peak),
                f"{len(ours)} equal",
            )
            for name in names:
                shutil.rmtree(root / name)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--side", type=int, default=512, help="cube root of the particles")
    parser.add_argument("--grid", type=int, default=1024)
    parser.add_argument("--equal", type=int, nargs="*", default=[256, 512])
    parser.add_argument("--schemes", nargs="+", default=["ngp", "cic"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory-limit", default="2GiB")
    parser.add_argument("--folder", type=Path, help="for its files; default: a temporary one")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.getcwd()
    out = Console(highlight=False)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        root = Path(name)
        start = time.perf_counter()
        write_snapshot(root / "sims" / "u0", given.side)
        (root / "cosmology.csv").write_text(f"id,Omega_m\nu0,{OMEGA_M}\n")
        out.print(
            f"{given.side}^3 particles in {FILES} files, made in "
            f"{time.perf_counter() - start:.0f} s; {given.workers} workers"
        )
        if given.grid:
            out.print(large_rows(root, given))
        out.print(equal_rows(root, given))


if __name__ == "__main__":
    main()
