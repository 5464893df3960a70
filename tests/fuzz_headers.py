"""A long run of damaged files through every reader, by hand: no crash, no hang, no bombs.

python tests/fuzz_headers.py --minutes 10

Files of every format are written, damaged (bytes, words, cuts, zeros, pieces
copied elsewhere; four times out of five near the beginning, where headers are)
and read whole by a process of their own, which has a limit of memory and of
time.  Each must be refused with a SnapshotError that names the file, or be read
to the number of particles that its header promises.  Counts are printed for
each format; whatever breaks is kept in --keep, with the seed that made it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.errors import SnapshotError  # noqa: E402
from pipeline.readers import open_snapshot  # noqa: E402
from pipeline.snapshot import GridSnapshot, ReadOptions  # noqa: E402
from tests import abacus_made, bigfile_made, formats_made, grids_made, swift_made  # noqa: E402
from tests.snapshots_made import (  # noqa: E402
    random_positions,
    write_gadget_binary,
    write_gadget_hdf5,
)

BOX = 100.0
MEMORY_BYTES = 4 << 30
SECONDS = 20
HEADER_BYTES = 4096
WORDS = [
    *(struct.pack(f"{order}{kind}", value) for order in "<>" for kind, value in (
        ("I", 0), ("I", 1), ("I", 2**31), ("I", 2**32 - 1), ("I", 256), ("Q", 2**40),
        ("Q", 2**63 - 1), ("Q", 2**64 - 1), ("d", float("nan")), ("d", float("inf")),
        ("d", -1.0), ("d", 1e300), ("d", 5e-324), ("f", float("nan")),
    )),
    b"999999999", b"-1", b"../../x", b"\0" * 16, b"/etc/passwd\0",
]  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A good file, or a folder of them, and how to open it."""

    format: str
    write: Callable[[Path], Path]
    options: ReadOptions


def _positions(n: int = 200) -> np.ndarray:
    return random_positions(n, BOX)


def _gadget_hdf5(folder: Path, **options: object) -> Path:
    return write_gadget_hdf5(folder / "snap.hdf5", _positions(), **options)[0]


def _binary(folder: Path, **options: object) -> Path:
    return write_gadget_binary(folder / "snap", _positions(), **options)[0]


def _abacus(folder: Path) -> Path:
    positions = random_positions(300, 32.0) - 16.0
    return abacus_made.write_slices(folder / "z0.000", positions, n_slabs=1)[0]


def _genericio(folder: Path, **options: object) -> Path:
    ranks = formats_made.in_ranks(_positions(), [90])
    return formats_made.write_genericio(folder / "m000.full", ranks, **options)


def _npz(folder: Path) -> Path:
    np.savez(folder / "p.npz", pos=_positions().astype("f4"))
    return folder / "p.npz"


def _npy(folder: Path) -> Path:
    np.save(folder / "p.npy", _positions().astype("f4"))
    return folder / "p.npy"


def _plain_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "p.h5", "w") as file:
        file["pos"] = _positions().astype("f4")
    return folder / "p.h5"


GZIP = {"dataset_options": {"chunks": (64, 3), "compression": 4, "shuffle": True}}
UNNAMED = ReadOptions(box_size=BOX, redshift=0.0, length_unit="Mpc/h")
ARRAYS = replace(UNNAMED, positions="pos")
SEEDS = {
    "gadget_binary 1": Seed("gadget_binary", _binary, ReadOptions()),
    "gadget_binary 2": Seed(
        "gadget_binary", lambda f: _binary(f, snap_format=2, byte_order=">"), ReadOptions()
    ),
    "gadget_hdf5": Seed("gadget_hdf5", _gadget_hdf5, ReadOptions()),
    "gadget_hdf5 gzip": Seed("gadget_hdf5", lambda f: _gadget_hdf5(f, **GZIP), ReadOptions()),
    "gadget_hdf5 masses": Seed(
        "gadget_hdf5", lambda f: _gadget_hdf5(f, masses="particles"), ReadOptions()
    ),
    "swift": Seed(
        "swift",
        lambda f: swift_made.write_swift(f / "snap.hdf5", _positions(), virtual=False)[0],
        ReadOptions(),
    ),
    "abacus": Seed("abacus", _abacus, ReadOptions()),
    "bigfile": Seed(
        "bigfile",
        lambda f: bigfile_made.write_mp_gadget(f / "PART_000", _positions()),
        ReadOptions(),
    ),
    "genericio": Seed("genericio", _genericio, ReadOptions(redshift=0.5)),
    "genericio blosc": Seed(
        "genericio", lambda f: _genericio(f, blosc=True), ReadOptions(redshift=0.5)
    ),
    "tipsy": Seed(
        "tipsy",
        lambda f: formats_made.write_tipsy(f / "t", {1: _positions() / BOX - 0.5}),
        ReadOptions(box_size=BOX),
    ),
    "nyx_binary": Seed(
        "nyx_binary",
        lambda f: formats_made.write_nyx(f / "n", _positions()),
        ReadOptions(box_size=70.0, h=0.7, redshift=3.0),
    ),
    "arrays npy": Seed("arrays", _npy, UNNAMED),
    "arrays npz": Seed("arrays", _npz, ARRAYS),
    "arrays hdf5": Seed("arrays", _plain_hdf5, ARRAYS),
    "cosmoflow_hdf5": Seed(
        "cosmoflow_hdf5",
        lambda f: grids_made.write_cosmoflow_hdf5(f / "u.hdf5", grids_made.counts()),
        ReadOptions(),
    ),
    "quijote_grid": Seed(
        "quijote_grid",
        lambda f: grids_made.write_quijote_grid(f, grids_made.overdensity()),
        ReadOptions(box_size=1000.0),
    ),
    "nyx_grid": Seed(
        "nyx_grid",
        lambda f: grids_made.write_nyx_grid(f / "g.hdf5", 1 + grids_made.overdensity()),
        ReadOptions(),
    ),
}


# --- damage -------------------------------------------------------------------------------------


def damage(folder: Path, rng: random.Random) -> None:
    """Change one file of a folder in place; bigger changes are rarer."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        rng.choice((_bits, _byte, _word, _word, _zeros, _cut, _copy))(data, rng)
    path.write_bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    near = min(len(data), HEADER_BYTES) if rng.random() < 0.8 else len(data)
    return rng.randrange(max(near, 1))


def _bits(data: bytearray, rng: random.Random) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    if data:
        data[_place(data, rng)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _word(data: bytearray, rng: random.Random) -> None:
    word, place = rng.choice(WORDS), _place(data, rng) & ~rng.choice((0, 3, 7))
    data[place : place + len(word)] = word


def _zeros(data: bytearray, rng: random.Random) -> None:
    place, n = _place(data, rng), rng.choice((4, 16, 64, 512))
    data[place : place + n] = bytes(len(data[place : place + n]))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _copy(data: bytearray, rng: random.Random) -> None:
    source, place, n = _place(data, rng), _place(data, rng), rng.choice((4, 8, 32, 128))
    piece = data[source : source + n]
    data[place : place + len(piece)] = piece


# --- reading, in a process that may die -----------------------------------------------------------


def serve(requests: Connection) -> None:
    """Child: read what it is told to, answer with what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        path, options, root = requests.recv()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        base = _peak()
        outcome, detail = read(path, options, root)
        requests.send((outcome, detail, _peak() - base))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def read(path: Path, options: ReadOptions, root: Path) -> tuple[str, str]:
    """What came of it: read, refused, nameless (no file named), wrong or error; and why."""
    try:
        for snapshot in open_snapshot(path, options).epochs():
            if isinstance(snapshot, GridSnapshot):
                for _ in snapshot.iter_blocks():
                    pass
                continue
            n = sum(len(chunk) for chunk in snapshot.iter_positions(64))
            if n != snapshot.header.n_particles:
                return "wrong", f"{n} particles, header {snapshot.header.n_particles}"
    except SnapshotError as error:
        return ("refused" if str(root) in str(error) else "nameless"), str(error)
    except Exception:  # noqa: BLE001  (what is looked for)
        return "error", traceback.format_exc()
    return "read", ""


@dataclass
class Reader:
    """A child process that reads, started again whenever it dies or hangs."""

    process: multiprocessing.process.BaseProcess | None = None
    connection: Connection | None = None

    def ask(self, path: Path, options: ReadOptions, root: Path) -> tuple[str, str, int]:
        if self.process is None:
            self._start()
        assert self.connection
        self.connection.send((path, options, root))
        try:
            if self.connection.poll(SECONDS):
                outcome, detail, peak = self.connection.recv()
                return outcome, detail, peak
            self.stop()
        except (EOFError, ConnectionResetError):
            assert self.process
            self.process.join()
            code = self.process.exitcode
            self.process = None
            return "crash", f"exit code {code}", 0
        return "hang", f"more than {SECONDS} s", 0

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def stop(self) -> None:
        if self.process is not None and self.process.pid is not None:
            self.process.kill()
            self.process.join()
        self.process = None


# --- the run --------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What came of all inputs of one seed."""

    outcomes: Counter[str] = field(default_factory=Counter)
    biggest: int = 0
    kept: list[str] = field(default_factory=list)


BAD = ("nameless", "wrong", "error", "crash", "hang")


def fuzz(name: str, seconds: float, first: int, keep: Path) -> Tally:
    """Damaged copies of one seed for a while."""
    seed, tally, reader = SEEDS[name], Tally(), Reader()
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as made:
        good, work = Path(made) / "good", Path(made) / "work"
        good.mkdir()
        path = work / seed.write(good).relative_to(good)
        options = replace(seed.options, format=seed.format)
        shutil.copytree(good, work)
        outcome, detail, _ = reader.ask(path, options, work)
        if outcome != "read":
            raise SystemExit(f"{name}: the good file is not read: {outcome}: {detail}")
        number = first
        while time.monotonic() < deadline:
            shutil.rmtree(work)
            shutil.copytree(good, work)
            damage(work, random.Random(f"{name} {number}"))
            outcome, detail, peak = reader.ask(path, options, work)
            tally.outcomes[outcome] += 1
            tally.biggest = max(tally.biggest, peak)
            if outcome in BAD:
                _keep(keep / f"{name.replace(' ', '-')}-{number}", work, outcome, detail)
                tally.kept.append(f"{name} {number}: {outcome}: {detail.strip().splitlines()[-1]}")
            number += 1
    reader.stop()
    return tally


def _keep(folder: Path, work: Path, outcome: str, detail: str) -> None:
    shutil.copytree(work, folder, dirs_exist_ok=True)
    (folder / "outcome.json").write_text(json.dumps({"outcome": outcome, "detail": detail}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--formats", nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    table = Table(title=f"{arguments.minutes:g} minutes")
    columns = ("format", "inputs", "refused", "read", "bad", "crashes", "hangs", "biggest [MiB]")
    for column in columns:
        table.add_column(column, justify="left" if column == "format" else "right")
    total: Counter[str] = Counter()
    findings: list[str] = []
    for name in arguments.formats:
        seconds = 60 * arguments.minutes / len(arguments.formats)
        tally = fuzz(name, seconds, arguments.first, arguments.keep)
        found = tally.outcomes
        bad = found["nameless"] + found["wrong"] + found["error"]
        cells = (found.total(), found["refused"], found["read"], bad, found["crash"], found["hang"])
        table.add_row(name, *map(str, cells), f"{tally.biggest / 2**20:.1f}")
        total.update(found)
        findings += tally.kept
    Console(width=110).print(table)
    print(json.dumps(dict(total)))  # noqa: T201
    for line in findings[:40]:
        print(line)  # noqa: T201
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
