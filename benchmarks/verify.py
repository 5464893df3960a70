"""How fast a data set is verified, beside ``sha256sum`` and a plain read of the same bytes.

python benchmarks/verify.py --side 128 --universes 32 --rounds 5

A data set of random counts is made in a temporary folder: ``--universes`` cubes of ``side^3 x 4``
cells.  Each round verifies it, digests its shards with ``sha256sum`` (as many processes at once
as ``verify`` has threads) and reads them; times are divided by those of the same round, wall
time and, as "CPU", that of all threads and processes.  ``--digests`` times digests of one buffer
instead, the optional ones if installed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.cluster import ClusterChoice
from pipeline.manifest import load
from pipeline.verify import verify

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.build import build  # noqa: E402
from tests.ensembles_made import BOX_SIZE, write_recipe  # noqa: E402
from tests.snapshots_made import write_gadget_hdf5  # noqa: E402

REDSHIFTS = [0.0, 0.5, 1.5, 3.0]


def make(root: Path, side: int, universes: int, format: str, codec: str) -> Path:
    """A data set of cubes of ``side`` cells, one sample a universe, eight to a shard."""
    rng = np.random.default_rng(0)
    rows = ["id,Omega_m,sigma_8,n_s"]
    n = (side // 2) ** 3
    for number in range(universes):
        rows.append(f"u{number:03d},0.3,0.8,{0.9 + number / 1000}")
        for channel, redshift in enumerate(REDSHIFTS):
            write_gadget_hdf5(
                root / "sims" / f"u{number:03d}" / f"snap_{channel}.hdf5",
                rng.uniform(0, BOX_SIZE, (n, 3)),
                box_size=BOX_SIZE,
                redshift=redshift,
                Omega_m=0.3,
            )
    (root / "cosmology.csv").write_text("\n".join(rows) + "\n")
    recipe = write_recipe(
        root,
        grid={"n_grid": side, "scheme": "ngp", "redshifts": REDSHIFTS},
        split__subvolumes=1,
        output={"path": "out", "format": format, "samples_per_shard": 8, "codec": codec},
    )
    return Path(build(recipe, ClusterChoice(workers=2)).output)


def read(paths: list[Path], threads: int) -> None:
    """A plain sequential read of files, several at once."""

    def one(path: Path) -> None:
        buffer = bytearray(1 << 22)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, paths))


def sha256sum(paths: list[Path], threads: int) -> None:
    """Coreutils' digest of files, so many processes at once."""

    def some(number: int) -> None:
        part = [str(path) for path in paths[number::threads]]
        if part:
            subprocess.run(["sha256sum", *part], check=True, stdout=subprocess.DEVNULL)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, range(threads)))


def forget(paths: list[Path]) -> None:
    """Ask the kernel to drop files from its cache: the next read is the disk's."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


Times = dict[str, list[tuple[float, float]]]
"""Way to (wall, processor) seconds of each round."""


def processor() -> float:
    """Seconds of all threads of this process and of its children that ended."""
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def compare(dataset: Path, rounds: int, threads: int, cold: bool) -> Times:
    """Seconds of each way, in rounds that alternate."""
    paths = [dataset / shard.path for shard in load(dataset).shards]
    choice = ClusterChoice(workers=threads)

    def verified() -> None:
        if not verify(dataset, choice=choice).passed:
            raise SystemExit(f"{dataset} is not whole")

    ways: dict[str, Callable[[], None]] = {
        "plain read": lambda: read(paths, threads),
        "sha256sum": lambda: sha256sum(paths, threads),
        "verify": verified,
    }
    seconds: Times = {name: [] for name in ways}
    verified()  # compiles
    for _ in range(rounds):
        for name, way in ways.items():
            if cold:
                forget(paths)
            started, used = time.perf_counter(), processor()
            way()
            seconds[name].append((time.perf_counter() - started, processor() - used))
    return seconds


def show(title: str, n_bytes: int, raw: int, seconds: Times) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", "GB/s", "GB/s of samples", "/ plain read", "/ sha256sum", "CPU / sha256sum"):
        table.add_column(column)
    for name, times in seconds.items():
        ratios = [
            statistics.median(
                a[clock] / b[clock] for a, b in zip(times, seconds[other], strict=True)
            )
            for other, clock in (("plain read", 0), ("sha256sum", 0), ("sha256sum", 1))
        ]
        middle = statistics.median(wall for wall, _ in times)
        table.add_row(
            name,
            f"{n_bytes / middle / 1e9:.2f}",
            f"{raw / middle / 1e9:.2f}" if name == "verify" else "",
            *(f"{ratio:.2f}" for ratio in ratios),
        )
    Console(width=100).print(table)


def digests(rounds: int, mebibytes: int) -> None:
    """GB/s of digests of one buffer in one thread."""
    data = os.urandom(mebibytes << 20)
    ways: dict[str, Callable[[], object]] = {
        "sha256": lambda: hashlib.sha256(data).digest(),
        "blake2b": lambda: hashlib.blake2b(data).digest(),
        "sha1": lambda: hashlib.sha1(data).digest(),
        "crc32 (zlib)": lambda: zlib.crc32(data),
    }
    for name, call in (
        ("blake3", lambda m: m.blake3(data).digest()),
        ("xxhash", lambda m: m.xxh3_128(data).digest()),
        ("google_crc32c", lambda m: m.value(data)),
        ("zlib_ng.zlib_ng", lambda m: m.crc32(data)),
    ):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        ways[name] = lambda call=call, module=module: call(module)  # type: ignore[misc]
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            found[name].append(len(data) / (time.perf_counter() - started) / 1e9)
    table = Table(title=f"{mebibytes} MiB, one thread, median of {rounds}", title_justify="left")
    table.add_column("digest")
    table.add_column("GB/s")
    for name, speeds in found.items():
        table.add_row(name, f"{statistics.median(speeds):.2f}")
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--universes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cold", action="store_true", help="drop the files from the cache first")
    parser.add_argument("--digests", action="store_true", help="time digests of one buffer")
    arguments = parser.parse_args()
    if arguments.digests:
        digests(arguments.rounds, 64)
        return
    for format, codec in (("zarr", "auto"), ("zarr", "none"), ("tfrecord", "auto")):
        root = Path(tempfile.mkdtemp())
        try:
            dataset = make(root, arguments.side, arguments.universes, format, codec)
            shards = load(dataset).shards
            n_bytes = sum(shard.bytes for shard in shards)
            raw = sum(shard.samples for shard in shards) * arguments.side**3 * 4 * 2
            for threads in arguments.threads:
                seconds = compare(dataset, arguments.rounds, threads, arguments.cold)
                title = f"{format}, codec {codec}, {n_bytes / 1e9:.2f} GB, {threads} threads"
                show(title, n_bytes, raw, seconds)
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
