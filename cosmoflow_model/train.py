"""One training run, from a data set to a network and its errors on held-out universes.

A run is a pure function of (data set, spec): weights, order, augmentation and
dropout are seeded, the checkpoint after each epoch holds all state, and so a
run that was stopped goes on to the same end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cosmoflow_model import backend, checkpoint, evaluate, report
from cosmoflow_model.catalog import Catalog
from cosmoflow_model.checkpoint import Checkpoints, Progress
from cosmoflow_model.distribute import Communicator, SingleProcess
from cosmoflow_model.evaluate import Evaluation
from cosmoflow_model.feed import Batch, Feed
from cosmoflow_model.losses import loss
from cosmoflow_model.networks import build_network
from cosmoflow_model.schedules import schedule
from cosmoflow_model.spec import (
    SPEC_NAME,
    RunRecord,
    TrainSpec,
    default_run,
    differences,
    dump_run,
    read_record,
)
from pipeline.errors import TrainingError
from pipeline.manifest import SplitName

CHECKPOINTS = "checkpoints"
WEIGHTS_NAME = "best.weights.h5"
CLIP_NORM = 1.0

Row = dict[str, float]
OnEpoch = Callable[[Row, int], None]


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Attributes
    ----------
    run : Path
        Folder with all files of the run.
    evaluation : Evaluation
        On the test split, or on the validation split if there is no test split.
    history : list of dict
        One row an epoch.
    best_epoch : int
        Epoch (from 1) whose weights were kept.
    samples_per_second : float
        Training speed, median over epochs.
    """

    run: Path
    evaluation: Evaluation
    history: list[Row]
    best_epoch: int
    samples_per_second: float


def fit(
    dataset: Path | str,
    spec: TrainSpec | None = None,
    run: Path | str | None = None,
    *,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
    communicator: Communicator | None = None,
) -> FitResult:
    """Train a network on a data set and evaluate it on universes it never saw.

    Parameters
    ----------
    dataset : path
        Folder of the data set.
    spec : TrainSpec, optional
        Choices of the run; the defaults, or those of the run that is resumed.
    run : path, optional
        Folder for the results, which must not exist; ``<dataset>-run`` by default.
    resume : bool
        Go on with the run in that folder from its last whole epoch.
    on_epoch : callable, optional
        Called with the row of an epoch and the number of epochs planned.
    communicator : Communicator, optional
        Ranks that train together; one process by default.

    Raises
    ------
    DatasetError
        If the data set is damaged, by the file's name.
    TrainingError
        If the run exists, cannot be resumed, or its loss is not finite.
    """
    catalog = Catalog.open(dataset)
    catalog.require("train")
    catalog.require("validation")
    ranks = communicator or SingleProcess()
    folder = Path(run) if run else default_run(dataset)
    spec = _enter(folder, catalog, spec, resume, ranks)
    job = _job(catalog, spec, folder, ranks)
    progress = _train(job, on_epoch)
    return _finish(job, progress)


def _enter(
    folder: Path, catalog: Catalog, spec: TrainSpec | None, resume: bool, ranks: Communicator
) -> TrainSpec:
    """Make the run's folder, or check that the run in it can go on; returns its spec."""
    if resume:
        return _resumed(folder, catalog, spec)
    spec = spec or TrainSpec()
    # built before anything is written, so that a network that does not fit leaves no folder
    build_network(spec, catalog.sample_shape, len(catalog.target_names))
    if ranks.rank == 0:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise TrainingError(
                f"{folder}: cannot be made ({error.strerror}); go on with that run by --resume, "
                "or name another folder with --run"
            ) from error
        record = RunRecord(spec, str(catalog.root.resolve()), catalog.digest)
        path = folder / SPEC_NAME
        checkpoint.save_atomically(path, lambda temporary: temporary.write_bytes(dump_run(record)))
    ranks.barrier()
    return spec


def _resumed(folder: Path, catalog: Catalog, spec: TrainSpec | None) -> TrainSpec:
    record = read_record(folder)
    evaluate.require_same_data(catalog, record, folder)
    wanted = spec or record.spec
    for name in differences(wanted, record.spec):
        raise TrainingError(
            f"{folder}: the run began with {name} {getattr(record.spec, name)!r}, not "
            f"{getattr(wanted, name)!r}; resume it without that option, or begin another run"
        )
    return wanted


@dataclass(frozen=True)
class _Job:
    """All that the epochs of a run share."""

    spec: TrainSpec
    folder: Path
    catalog: Catalog
    ranks: Communicator
    model: keras.Model
    train: Feed
    validation: Feed
    checkpoints: Checkpoints


def _job(catalog: Catalog, spec: TrainSpec, folder: Path, ranks: Communicator) -> _Job:
    backend.load(spec.threads)
    keras.utils.set_random_seed(spec.seed % 2**32)
    tf.config.experimental.enable_op_determinism()  # costs nothing measurable on a CPU
    cache = spec.cache_bytes
    train = Feed(
        catalog,
        "train",
        spec.batch_size,
        seed=spec.seed,
        shuffle=True,
        augment=spec.augment,
        rank=ranks.rank,
        size=ranks.size,
        cache_bytes=cache,
    )
    validation = Feed(catalog, "validation", spec.batch_size, cache_bytes=cache)
    model = build_network(spec, catalog.sample_shape, len(catalog.target_names), train.statistics())
    model.compile(_optimizer(spec, train.steps), loss(spec.loss), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return _Job(
        spec, folder, catalog, ranks, model, train, validation, Checkpoints(folder / CHECKPOINTS)
    )


def _optimizer(spec: TrainSpec, steps: int) -> keras.optimizers.Optimizer:
    rate = schedule(spec.schedule, spec.learning_rate, spec.epochs * steps)
    if spec.optimizer == "adamw":
        return keras.optimizers.AdamW(
            rate, weight_decay=spec.weight_decay, global_clipnorm=CLIP_NORM
        )
    if spec.optimizer == "adam":
        return keras.optimizers.Adam(rate, global_clipnorm=CLIP_NORM)
    return keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=CLIP_NORM)


def _train(job: _Job, on_epoch: OnEpoch | None) -> Progress:
    """Run the epochs that are left, a checkpoint after each; returns how it ended."""
    progress = job.checkpoints.restore(job.model)
    while progress.epoch < job.spec.epochs and not _is_patience_spent(job.spec, progress):
        row = _epoch(job, progress.epoch)
        progress = _advanced(progress, row)
        if job.ranks.rank == 0:
            job.checkpoints.save(job.model, progress)
            report.write_history(progress.history, job.folder)
        job.ranks.barrier()
        if on_epoch:
            on_epoch(row, job.spec.epochs)
    return progress


def _is_patience_spent(spec: TrainSpec, progress: Progress) -> bool:
    return spec.patience > 0 and progress.epoch - progress.best_epoch >= spec.patience


def _advanced(progress: Progress, row: Row) -> Progress:
    history = [*progress.history, row]
    after = replace(progress, epoch=progress.epoch + 1, history=history)
    if row["validation_loss"] < progress.best_loss:
        return replace(after, best_epoch=after.epoch, best_loss=row["validation_loss"])
    return after


def _epoch(job: _Job, epoch: int) -> Row:
    """One pass over the training split, then validation; epochs count from 0 here."""
    start = time.perf_counter()
    total = 0.0
    for step, batch in enumerate(job.train.prefetched(epoch)):
        # Keras resets its metrics at each batch: this is the batch's own loss
        logs = job.model.train_on_batch(batch.x, batch.y, batch.weight, return_dict=True)
        value = float(logs["loss"])
        _require_finite(value, epoch, step, batch)
        total += value * job.train.global_length(step)
    seconds = time.perf_counter() - start
    return {
        "epoch": epoch + 1,
        "loss": job.ranks.mean(total / job.train.samples),
        **_validate(job, epoch),
        "learning_rate": float(job.model.optimizer.learning_rate),
        "seconds": round(seconds, 3),
    }


def _validate(job: _Job, epoch: int) -> Row:
    scaled = evaluate.predict(job.model, job.validation)
    truth = job.catalog.split("validation").scaled
    value = float(loss(job.spec.loss)(truth, scaled))
    if not math.isfinite(value):
        raise TrainingError(
            f"the validation loss is {value} after epoch {epoch + 1}; begin another run with a "
            f"lower --learning-rate than {job.spec.learning_rate:g}"
        )
    judged = evaluate.evaluation(job.catalog, "validation", scaled).per_universe()
    r2 = {
        f"validation_r2_{name}": math.nan if score.r2 is None else score.r2
        for name, score in judged.items()
    }
    return {"validation_loss": value, **r2}


def _require_finite(value: float, epoch: int, step: int, batch: Batch) -> None:
    if not math.isfinite(value):
        samples = ", ".join(str(sample) for sample in np.unique(batch.samples)[:16])
        raise TrainingError(
            f"the loss is {value} in epoch {epoch + 1} at batch {step + 1} (training samples "
            f"{samples}); begin another run with a lower --learning-rate"
        )


def _finish(job: _Job, progress: Progress) -> FitResult:
    """Take the best weights, evaluate them on the split that nothing was chosen by, write all."""
    job.checkpoints.restore_best(job.model, progress)
    split: SplitName = "test" if job.catalog.samples("test") else "validation"
    job.catalog.require(split)
    feed = Feed(job.catalog, split, job.spec.batch_size, cache_bytes=0)
    judged = evaluate.evaluation(job.catalog, split, evaluate.predict(job.model, feed))
    if job.ranks.rank == 0:
        checkpoint.save_atomically(job.folder / WEIGHTS_NAME, job.model.save_weights)
        checkpoint.save_atomically(job.folder / evaluate.MODEL_NAME, _bare(job).save)
        report.write_history(progress.history, job.folder)
        report.write_loss_plot(progress.history, job.folder)
        report.write_evaluation(judged, job.folder)
    speed = job.train.samples / float(np.median([row["seconds"] for row in progress.history]))
    return FitResult(job.folder, judged, progress.history, progress.best_epoch, speed)


def _bare(job: _Job) -> keras.Model:
    """The network without its optimizer, as who predicts needs it."""
    bare = keras.models.clone_model(job.model)
    bare.set_weights(job.model.get_weights())
    return bare


def summary(result: FitResult) -> dict[str, Any]:
    """What a program wants to know of a run, for JSON."""
    return {
        "run": str(result.run),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "samples_per_second": round(result.samples_per_second, 2),
        "seconds": round(sum(row["seconds"] for row in result.history), 2),
        **result.evaluation.metrics(),
    }
