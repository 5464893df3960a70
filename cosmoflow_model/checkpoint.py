"""Checkpoints that are there whole or not at all, and restore a run exactly.

A checkpoint holds all variables of the model (with the seed states of its
dropout layers, which Keras' own files leave out), all of the optimizer, and
the history; it names the file with the best weights so far.
"""

from __future__ import annotations

import errno
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError, TrainingError

KEPT = 2
"""Epochs whose checkpoints are kept."""

_STATE = "state"


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    epoch : int
        Epochs done.
    history : list of dict
        One row an epoch.
    best_epoch : int
        Epoch (from 1) with the lowest validation loss; 0 before the first.
    best_loss : float
        That loss.
    """

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = float("inf")


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, model: keras.Model, progress: Progress) -> None:
        """Publish the state after an epoch; older ones go, the best weights stay."""
        if progress.best_epoch == progress.epoch:
            self._write(self._best(progress.epoch), model.variables, {})
        state = {
            "epoch": progress.epoch,
            "history": progress.history,
            "best_epoch": progress.best_epoch,
            "best_loss": progress.best_loss,
        }
        self._write(self._epoch(progress.epoch), _variables(model), state)
        self._prune()

    def restore(self, model: keras.Model) -> Progress:
        """Put the newest checkpoint into a built and compiled model; returns how far it is.

        A run that was stopped before its first checkpoint begins at epoch 0.
        """
        paths = sorted(self._folder.glob("epoch-*.npz"))
        if not paths:
            return Progress()
        state = _read(paths[-1], _variables(model))
        return Progress(**state)

    def restore_best(self, model: keras.Model, progress: Progress) -> None:
        """Put the weights of the best epoch into the model."""
        if progress.best_epoch:
            _read(self._best(progress.best_epoch), model.variables)

    def _epoch(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:05d}.npz"

    def _best(self, epoch: int) -> Path:
        return self._folder / f"best-{epoch:05d}.npz"

    def _write(
        self, path: Path, variables: Sequence[keras.Variable], state: dict[str, Any]
    ) -> None:
        arrays: dict[str, npt.NDArray[Any]] = {
            f"{place:05d}": keras.ops.convert_to_numpy(variable.value)
            for place, variable in enumerate(variables)
        }
        arrays[_STATE] = np.array(json.dumps(state))
        make_folder(self._folder)
        # NumPy appends .npz to names that lack it
        save_atomically(path, lambda temporary: np.savez(temporary, **arrays))  # type: ignore[arg-type]

    def _prune(self) -> None:
        """Keep the newest only; as each epoch adds one best at most, those named are kept."""
        for pattern in ("epoch-*.npz", "best-*.npz"):
            for path in sorted(self._folder.glob(pattern))[:-KEPT]:
                with _explained(path):
                    path.unlink(missing_ok=True)


def save_atomically(path: Path, save: Callable[[Path], object]) -> None:
    """Call ``save`` with a temporary path of the same suffix, then give it its name.

    Raises
    ------
    OutputError
        If the disk is full or the folder cannot be written; nothing is left behind.
    """
    suffix = "".join(path.suffixes)
    temporary = path.with_name(f".{path.name.removesuffix(suffix)}.{os.getpid()}.tmp{suffix}")
    try:
        with _explained(path):
            save(temporary)
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def make_folder(path: Path) -> None:
    """Make a folder for results unless it is there; raises OutputError if it cannot be made."""
    with _explained(path):
        path.mkdir(exist_ok=True)


_ADVICE = {
    errno.ENOSPC: "the disk is full; free space",
    errno.EDQUOT: "the quota is used up; free space",
    errno.EROFS: "the file system is read-only; mount it for writing, or copy the run elsewhere",
    errno.EACCES: "permission denied; mend the rights of its folder",
    errno.EPERM: "permission denied; mend the rights of its folder",
}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the file system refuses for ``path`` into an :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the file system's word: a library's own error
            raise
        reason = _ADVICE.get(error.errno, f"cannot be written: {os.strerror(error.errno)}")
        raise OutputError(f"{path}: {reason}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


def _read(path: Path, variables: Sequence[keras.Variable]) -> dict[str, Any]:
    """Assign the arrays of a checkpoint to variables of the same shapes; returns its state."""
    try:
        with np.load(path, allow_pickle=False) as file:
            state: dict[str, Any] = json.loads(str(file[_STATE]))
            arrays = [file[name] for name in sorted(file.files) if name != _STATE]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(
            f"{path}: damaged checkpoint ({error}); remove it to go on from the one before"
        ) from error
    found = [array.shape for array in arrays]
    expected = [tuple(variable.shape) for variable in variables]
    if found != expected:
        raise TrainingError(
            f"{path}: a checkpoint of another network ({len(found)} arrays, {len(expected)} "
            "expected, or of other shapes); name another run folder"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return state
