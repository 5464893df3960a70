"""What a training run is: every choice that decides its result, in one frozen record."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import TrainingError

SPEC_NAME = "spec.json"
NETWORK_NAMES = ("cosmoflow", "sc18", "mlperf-kernel2", "mlperf-kernel3")
LOSS_NAMES = ("mse", "mae", "huber")
OPTIMIZER_NAMES = ("adamw", "adam", "sgd")
SCHEDULE_NAMES = ("one-cycle", "warmup-cosine", "constant")
NORM_NAMES = ("none", "group")


@dataclass(frozen=True)
class TrainSpec:
    """Choices of a run; the same spec, data set and machine give the same result.

    Attributes
    ----------
    network : {'cosmoflow', 'sc18', 'mlperf-kernel2', 'mlperf-kernel3'}
        ``cosmoflow`` sizes itself to the cubes; the others are published networks
        for cubes of 128 cells a side.
    width : int
        Channels of the first convolution (``cosmoflow`` only).
    norm : {'none', 'group'}
        Normalisation after each convolution (``cosmoflow`` only).
    dropout : float
        Share of the dense layers' inputs dropped, in [0, 1).
    epochs : int
        Passes over the training split; the schedule spans all of them.
    batch_size : int
        Samples of a global batch, over all ranks.
    learning_rate : float
        The schedule's peak.
    schedule : {'one-cycle', 'warmup-cosine', 'constant'}
    optimizer : {'adamw', 'adam', 'sgd'}
    weight_decay : float
        Of ``adamw``.
    loss : {'mse', 'mae', 'huber'}
        On targets scaled to [-1, 1].
    patience : int
        Epochs without a better validation loss before stopping; 0 never stops early.
    seed : int
        Of the weights, the order, the augmentation and the dropout.
    augment : bool
        Random cube symmetries, and periodic shifts of whole cubes.
    threads : int
        Of TensorFlow; 0 leaves the choice to it.
    cache_bytes : int
        A split is kept in memory when it takes no more than this.
    """

    network: str = "cosmoflow"
    width: int = 16
    norm: str = "none"
    dropout: float = 0.0
    epochs: int = 90
    batch_size: int = 8
    learning_rate: float = 3e-3
    schedule: str = "one-cycle"
    optimizer: str = "adamw"
    weight_decay: float = 1e-3
    loss: str = "mse"
    patience: int = 30
    seed: int = 0
    augment: bool = True
    threads: int = 0
    cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise _wrong(name, getattr(self, name), f"one of {', '.join(known)}")
        for name, low in _MINIMUM.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise _wrong(name, value, f"a whole number of at least {low}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise _wrong("learning_rate", self.learning_rate, "a number above 0")
        if not 0 <= self.dropout < 1:
            raise _wrong("dropout", self.dropout, "at least 0 and below 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise _wrong("weight_decay", self.weight_decay, "a number of at least 0")


_CHOICES = {
    "network": NETWORK_NAMES,
    "norm": NORM_NAMES,
    "schedule": SCHEDULE_NAMES,
    "optimizer": OPTIMIZER_NAMES,
    "loss": LOSS_NAMES,
}
_MINIMUM = {
    "width": 1,
    "epochs": 1,
    "batch_size": 1,
    "patience": 0,
    "seed": 0,
    "threads": 0,
    "cache_bytes": 0,
}


def _wrong(name: str, value: object, expected: str) -> TrainingError:
    return TrainingError(f"{name} is {value!r}; expected {expected}")


@dataclass(frozen=True)
class RunRecord:
    """What ``spec.json`` of a run folder holds.

    Attributes
    ----------
    spec : TrainSpec
    dataset : str
        Absolute path of the data set's folder.
    manifest_digest : str
        Digest of its manifest: a run goes on only with the data it began with.
    """

    spec: TrainSpec
    dataset: str
    manifest_digest: str


def dump_run(record: RunRecord) -> bytes:
    """Bytes of ``spec.json``."""
    return json.dumps(asdict(record), indent=1).encode() + b"\n"


def parse_run(raw: bytes, name: str) -> RunRecord:
    """Record of the bytes of a ``spec.json``; ``name`` is for messages.

    Raises
    ------
    TrainingError
        If they are not what :func:`dump_run` writes.
    """
    try:
        body: dict[str, Any] = json.loads(raw)
        spec = TrainSpec(**body["spec"])
        return RunRecord(spec, str(body["dataset"]), str(body["manifest_digest"]))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{name}: not the record of a run ({error}); name another run folder"
        ) from error


def read_record(run: Path) -> RunRecord:
    """Record of the run in a folder; raises TrainingError if it holds none."""
    path = run / SPEC_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TrainingError(
            f"{run}: no run of cosmoflow-train ({SPEC_NAME}: {error.strerror}); name a folder "
            "that 'cosmoflow-train fit' wrote"
        ) from error
    return parse_run(raw, str(path))


def default_run(dataset: Path | str) -> Path:
    """Folder of a run that is given none: beside the data set."""
    path = Path(dataset).resolve()
    return path.with_name(f"{path.name}-run")


def differences(wanted: TrainSpec, recorded: TrainSpec) -> list[str]:
    """Names of the choices in which two specs differ; ``threads`` and caching may."""
    free = ("threads", "cache_bytes")
    names = [field.name for field in fields(TrainSpec) if field.name not in free]
    return [name for name in names if getattr(wanted, name) != getattr(recorded, name)]
