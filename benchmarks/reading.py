"""How fast positions are read, beside a plain read of the same bytes and other libraries.

python benchmarks/reading.py --side 256 --rounds 7

Files of ``side^3`` particles are made in a temporary folder.  Every reader
runs in a process of its own, so that its peak memory is its own; the rounds of
all readers alternate, with a warm cache, and each round's time is divided by
that of the plain read beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.readers import open_snapshot

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.snapshots_made import gadget2_header, gadget2_records  # noqa: E402

BOX = 256_000.0
OMEGA_M, H = 0.3, 0.7
PARTICLE_BYTES = 12
PLAIN = "plain read"
LAYOUTS = {
    "binary": {},
    "hdf5": {},
    "hdf5-gzip": {"chunks": (1 << 18, 3), "compression": 4},
    "hdf5-gzip-shuffle": {"chunks": (1 << 18, 3), "compression": 4, "shuffle": True},
}


def positions(side: int) -> np.ndarray:
    """``(side^3, 3)`` float32: a lattice in kpc/h, displaced, as a code writes it."""
    cells = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    moved = cells + np.random.default_rng(0).normal(0, 0.3, cells.shape)
    return (moved % side * (BOX / side)).astype("f4")


def write(folder: Path, side: int) -> dict[str, Path]:
    """One file in each layout."""
    stored = positions(side)
    mass = OMEGA_M * 27.75366 * (BOX / 1000) ** 3 / len(stored)
    paths = {name: folder / f"{name}.{'dat' if name == 'binary' else 'hdf5'}" for name in LAYOUTS}
    counts, masses = [0, len(stored), 0, 0, 0, 0], [0, mass, 0, 0, 0, 0]
    header = gadget2_header(
        counts=counts,
        masses=masses,
        redshift=0.0,
        totals=counts,
        num_files=1,
        cosmology=(BOX, OMEGA_M, 1 - OMEGA_M, H),
    )
    blocks = {"HEAD": header, "POS ": stored.tobytes()}
    paths["binary"].write_bytes(gadget2_records(blocks, 1, "<"))
    for name, options in LAYOUTS.items():
        if name != "binary":
            _write_hdf5(paths[name], stored, mass, options)
    (folder / "plain").write_bytes(stored.tobytes())
    return paths


def _write_hdf5(path: Path, stored: np.ndarray, mass: float, options: dict[str, object]) -> None:
    with h5py.File(path, "w") as file:
        header = file.create_group("Header").attrs
        header["NumPart_ThisFile"] = header["NumPart_Total"] = np.array([0, len(stored)], "u4")
        header["MassTable"] = np.array([0, mass])
        header["BoxSize"], header["Redshift"], header["Time"] = BOX, 0.0, 1.0
        header["NumFilesPerSnapshot"] = 1
        header["Omega0"], header["OmegaLambda"], header["HubbleParam"] = OMEGA_M, 1 - OMEGA_M, H
        header["UnitLength_in_cm"] = 3.085678e21
        file.create_dataset("PartType1/Coordinates", data=stored, **options)
        file["PartType1/ParticleIDs"] = np.arange(len(stored), dtype="u4")


def ours(path: Path) -> None:
    """Open, check and read in chunks, scaled to Mpc/h."""
    for _ in open_snapshot(path).iter_positions():
        pass


def plain(path: Path) -> None:
    """The same bytes of the same file, as they are, into one reused buffer of 12 MiB.

    For compressed files the bytes that they hold when decompressed, from another file.
    """
    start, size = _where(path)
    source = path.parent / "plain" if start is None else path
    buffer = memoryview(bytearray(PARTICLE_BYTES << 20))
    with source.open("rb", buffering=0) as stream:
        stream.seek(start or 0)
        while size > 0:
            size -= stream.readinto(buffer[:size]) or size


@cache
def _where(path: Path) -> tuple[int | None, int]:
    """Offset of the positions (None: compressed) and their bytes."""
    if path.suffix == ".dat":
        return 8 + 256 + 4, path.stat().st_size - 272
    with h5py.File(path) as file:
        dset = file["PartType1/Coordinates"]
        return dset.id.get_offset(), dset.nbytes


def h5py_whole(path: Path) -> None:
    """The usual line; not scaled, the whole array in memory."""
    with h5py.File(path) as file:
        file["PartType1/Coordinates"][:]


def pynbody_whole(path: Path) -> None:
    import pynbody  # noqa: PLC0415

    pynbody.load(str(path)).dm["pos"]


def yt_whole(path: Path) -> None:
    import yt  # noqa: PLC0415

    yt.set_log_level("error")
    yt.load(str(path)).all_data()["PartType1", "Coordinates"]


READERS: dict[str, Callable[[Path], None]] = {
    PLAIN: plain,
    "ours": ours,
    "h5py [:]": h5py_whole,
    "pynbody": pynbody_whole,
    "yt": yt_whole,
}


def readers_for(layout: str) -> list[str]:
    """Readers that read a layout and are installed."""
    names = [PLAIN, "ours"] + ["h5py [:]"] * (layout != "binary")
    return names + [n for n in ("pynbody", "yt") if importlib.util.find_spec(n)]


def serve(reader: str, path: Path) -> None:
    """Child process: read once for each line on standard input; answer seconds and memory."""
    base = _peak()
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        try:
            READERS[reader](path)
        except Exception as error:  # noqa: BLE001  (another library's failure is a result)
            answer: dict[str, object] = {"error": f"{type(error).__name__}: {error}"[:60]}
        else:
            answer = {
                "seconds": time.perf_counter() - start,
                "cpu": time.process_time() - cpu,
                "bytes": _peak() - base,
            }
        print("ANSWER", json.dumps(answer), flush=True)


def _peak() -> int:
    """Peak resident memory of this process; ru_maxrss would count the parent's before exec."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def measure(path: Path, layout: str, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Answers of every reader; the first round, which compiles and fills caches, is left out."""
    names = readers_for(layout)
    command = [sys.executable, __file__, "--serve"]
    children = {
        name: subprocess.Popen(
            [*command, name, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in names
    }
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, child in children.items():
            answer = _ask(child)
            if number:
                answers[name].append(answer)
    for child in children.values():
        child.communicate()
    return answers


def _ask(child: subprocess.Popen[str]) -> dict[str, float]:
    assert child.stdin
    assert child.stdout
    child.stdin.write("go\n")
    child.stdin.flush()
    for line in child.stdout:
        if line.startswith("ANSWER"):
            return dict(json.loads(line.removeprefix("ANSWER")))
    return {"error": float("nan")}


def add_rows(table: Table, layout: str, answers: dict[str, list[dict[str, float]]], n: int) -> None:
    reference = answers[PLAIN]
    for name, rows in answers.items():
        if any("error" in row for row in rows):
            table.add_row(layout, name, f"failed: {rows[0].get('error')}", "", "", "")
            continue
        seconds = [row["seconds"] for row in rows]
        table.add_row(
            layout,
            name,
            f"{n * PARTICLE_BYTES / statistics.median(seconds) / 1e9:.2f}",
            f"{_ratio(reference, rows, 'seconds'):.2f}",
            f"{_ratio(reference, rows, 'cpu'):.2f}",
            f"{max(row['bytes'] for row in rows) / 2**20:.0f}",
        )


def _ratio(reference: list[dict[str, float]], rows: list[dict[str, float]], what: str) -> float:
    """Median over rounds of the plain read's time over this one's."""
    return statistics.median(r[what] / s[what] for r, s in zip(reference, rows, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=256, help="particles a side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve[0], Path(arguments.serve[1]))
        return
    table = Table(title=f"{arguments.side}^3 float32 positions, {arguments.rounds} rounds, medians")
    for column in ("layout", "reader", "GB/s", "of plain", "of plain, CPU", "peak [MiB]"):
        table.add_column(column, justify="left" if column in ("layout", "reader") else "right")
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), arguments.side)
        for layout in arguments.layouts:
            answers = measure(paths[layout], layout, arguments.rounds)
            add_rows(table, layout, answers, arguments.side**3)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
