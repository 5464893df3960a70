"""Loads TensorFlow quietly, and says what is missing or slow."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from pipeline.errors import TrainingError, require


def load(threads: int = 0) -> ModuleType:
    """TensorFlow as the backend of Keras; returns the module ``tensorflow``.

    Parameters
    ----------
    threads : int
        Threads of its operations; 0 leaves the choice to it.

    Raises
    ------
    MissingDependencyError
        If TensorFlow or Keras is not installed.
    TrainingError
        If it already runs with another number of threads.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    _warn_without_onednn()
    with _stderr_of_libraries_silenced():
        tensorflow = _import("tensorflow")
        _set_threads(tensorflow, threads)
        tensorflow.constant(0)  # starts the runtime, which logs too
    _import("keras")
    return tensorflow


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise require(name, "train") from error


def _set_threads(tensorflow: ModuleType, threads: int) -> None:
    threading = tensorflow.config.threading
    if threads == 0 or threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise TrainingError(
            f"threads is {threads}, but TensorFlow already runs with another number in this "
            "process; set it before anything else uses TensorFlow"
        ) from error


def _warn_without_onednn() -> None:
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if is_x86 and os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        warnings.warn(
            "TF_ENABLE_ONEDNN_OPTS=0 switches oneDNN off: 3D convolutions on this CPU will be "
            "about eight times slower; unset it",
            RuntimeWarning,
            stacklevel=3,
        )


@contextmanager
def _stderr_of_libraries_silenced() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: no setting keeps TensorFlow's first lines quiet."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
