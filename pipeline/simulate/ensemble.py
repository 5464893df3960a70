"""The resumable loop: an ensemble's folder, what is missing in it, and its making."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError, SimulationError, require
from pipeline.simulate.design import Universe, cosmology_table, draw_universes
from pipeline.simulate.gadget_output import is_whole_snapshot
from pipeline.simulate.spec import EnsembleSpec
from pipeline.simulate.worker import default_processes, simulate_universe, worker_pool
from pipeline.write.atomic import sweep_temporaries, write_atomically

SPEC_FILE = "ensemble.json"
TABLE_FILE = "cosmology.csv"
FORMAT_VERSION = 1

ProgressCallback = Callable[[int, int, str, float], None]
"""Called with (done, total, id, seconds) when a universe is finished."""


@dataclass(frozen=True)
class EnsembleResult:
    """What a run left.

    Attributes
    ----------
    output : Path
        The ensemble's folder.
    universes : tuple of Universe
        All of them.
    simulated : tuple of str
        Identifiers of those that this run made or mended.
    kept : tuple of str
        Identifiers of those that were there already.
    """

    output: Path
    universes: tuple[Universe, ...]
    simulated: tuple[str, ...]
    kept: tuple[str, ...]


def simulate_ensemble(
    spec: EnsembleSpec,
    output: Path,
    progress: ProgressCallback | None = None,
    n_processes: int | None = None,
) -> EnsembleResult:
    """Simulate what an ensemble still lacks, and write it below ``output``.

    Run again after an interruption, it goes on: whole snapshots stay as they
    are, and the ensemble ends with the bytes of an uninterrupted run.

    Parameters
    ----------
    spec : EnsembleSpec
        The ensemble.
    output : Path
        Folder to make or to go on with: ``ensemble.json``, ``cosmology.csv``
        and ``<id>/snapshot_000.hdf5`` (the highest redshift), ...
    progress : callable, optional
        Called with (done, total, id, seconds) for each universe that this run
        makes; ``done`` also counts those that were there.
    n_processes : int, optional
        Simulating processes, one thread and about 0.9 GB (64^3 particles)
        each; the result does not depend on it.  Default: one a core.

    Returns
    -------
    EnsembleResult
        What there is now.

    Raises
    ------
    SimulationError
        If the folder holds another ensemble, or a universe fails.
    OutputError
        If the folder holds other things, is in use by another run, or cannot
        be written.
    MissingDependencyError
        If PM++ or SciPy is not installed.
    """
    if n_processes is not None and n_processes < 1:
        raise SimulationError(f"n_processes is {n_processes}; expected 1 or more")
    output = Path(output)
    universes = draw_universes(spec)
    _open_folder(output, spec)
    with _only_run(output / SPEC_FILE):
        sweep_temporaries(output)
        _write_table(output / TABLE_FILE, universes)
        missing = [universe for universe in universes if not _is_whole(output, spec, universe)]
        workers = min(n_processes or default_processes(spec), len(missing))
        try:
            _simulate(
                spec,
                output,
                missing,
                total=len(universes),
                n_processes=workers,
                progress=progress,
            )
        finally:
            sweep_temporaries(output)
    made = tuple(universe.id for universe in missing)
    kept = tuple(universe.id for universe in universes if universe.id not in set(made))
    return EnsembleResult(output, tuple(universes), made, kept)


def _simulate(
    spec: EnsembleSpec,
    output: Path,
    missing: list[Universe],
    *,
    total: int,
    n_processes: int,
    progress: ProgressCallback | None,
) -> None:
    """Make the missing universes in worker processes, reporting each."""
    if not missing:
        return
    with worker_pool(n_processes) as pool:
        futures = {
            pool.submit(simulate_universe, spec, universe, output / universe.id): universe.id
            for universe in missing
        }
        for finished, future in enumerate(as_completed(futures), start=1):
            seconds = _seconds(future, futures[future], n_processes)
            if progress is not None:
                progress(total - len(missing) + finished, total, futures[future], seconds)


def _seconds(future: Future[float], universe_id: str, n_processes: int) -> float:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise SimulationError(
            f"a simulating process died while {universe_id} waited or ran, perhaps for want of "
            f"memory; run the same command again to go on, with fewer than {n_processes} "
            "processes if there are more than one"
        ) from error


def _is_whole(output: Path, spec: EnsembleSpec, universe: Universe) -> bool:
    return all(
        is_whole_snapshot(output / universe.id, number, spec, universe)
        for number in range(len(spec.redshifts))
    )


def _open_folder(output: Path, spec: EnsembleSpec) -> None:
    """Begin the folder with its specification, or check that it holds the same one."""
    path = output / SPEC_FILE
    record = _record(spec)
    if path.exists():
        _refuse_other(path, _read_record(path), record)
        return
    if output.exists() and any(_foreign(output)):
        raise OutputError(
            f"{output} exists and holds no {SPEC_FILE}: it is not an ensemble of universes; "
            "choose another folder, or empty this one"
        )
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def _foreign(output: Path) -> Iterator[Path]:
    """Entries that are not the temporary file of a run killed at its very start."""
    return (path for path in output.iterdir() if not path.name.startswith(f".{SPEC_FILE}."))


def _record(spec: EnsembleSpec) -> dict[str, Any]:
    """What the universes' bytes follow from: the specification and the simulator's versions."""
    try:
        software = {name: importlib.metadata.version(name) for name in ("pmpp", "jax", "jaxlib")}
    except importlib.metadata.PackageNotFoundError as error:
        raise require(error.name or "pmpp", "simulate") from error
    return {"format_version": FORMAT_VERSION, "spec": spec.as_json(), "software": software}


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise SimulationError(
            f"{path} is not JSON ({error}); expected the specification of an ensemble: "
            "choose another folder"
        ) from error
    if not isinstance(record, dict) or not isinstance(record.get("spec"), dict):
        raise SimulationError(
            f"{path} holds no 'spec'; expected the specification of an ensemble: "
            "choose another folder"
        )
    return record


def _refuse_other(path: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise with each key that differs, what is there and what is asked for."""
    flat_there, flat_asked = _flat(there), _flat(asked)
    lines = [
        f"  {key}: there {_shown(flat_there, key)}, asked {_shown(flat_asked, key)}"
        for key in dict.fromkeys((*flat_asked, *flat_there))
        if _shown(flat_there, key) != _shown(flat_asked, key)
    ]
    if lines:
        raise SimulationError(
            f"{path} describes another ensemble:\n"
            + "\n".join(lines)
            + "\nask for the same one to go on with it, or choose another folder"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = key if not prefix else f"{prefix}.{key}"
        flat.update(_flat(value, name) if isinstance(value, dict) else {name: value})
    return flat


def _shown(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "nothing"


@contextmanager
def _only_run(path: Path) -> Iterator[None]:
    """Hold the ensemble for this run; the lock goes with the process, however it ends."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{path.parent} is being made by another run; wait for its end, or stop it"
            ) from error
        yield


def _write_table(path: Path, universes: list[Universe]) -> None:
    table = cosmology_table(universes).encode()
    if not path.exists():
        write_atomically(path, table)
    elif path.read_bytes() != table:
        raise SimulationError(
            f"{path} is not the table that the specification beside it gives "
            "(edited, or drawn by another version of SciPy); restore it, or choose another folder"
        )
