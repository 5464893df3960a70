"""How well a network reads the parameters: errors in physical units.

R² compares with the simplest guess, the mean of the held-out truth: 1 is
perfect, 0 no better than that guess.  The samples of one universe are not
independent, so the numbers that count are those per universe, with the
predictions of all its samples averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cosmoflow_model.catalog import Catalog
from cosmoflow_model.feed import Feed
from cosmoflow_model.spec import RunRecord, read_record
from cosmoflow_model.transform import unscale
from pipeline.errors import TrainingError
from pipeline.manifest import SplitName

MODEL_NAME = "model.keras"

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Errors of one parameter, in its own units.

    Attributes
    ----------
    mae, rmse : float
        Mean absolute and root mean square error.
    r2 : float or None
        1 - squared error / squared scatter of the truth; None if it has no scatter.
    n : int
        Values that went in.
    """

    mae: float
    rmse: float
    r2: float | None
    n: int


@dataclass(frozen=True)
class Evaluation:
    """Predictions on a split beside the truth.

    Attributes
    ----------
    split : str
    ranges : dict
        Target name -> physical (low, high) of the data set's targets.
    universes : list of str
        Of each sample.
    truth, predicted : ndarray, shape (samples, targets)
        Physical values.
    """

    split: str
    ranges: dict[str, tuple[float, float]]
    universes: list[str]
    truth: Values
    predicted: Values

    @property
    def names(self) -> list[str]:
        """Names of the targets."""
        return list(self.ranges)

    def per_sample(self) -> dict[str, Scores]:
        """Scores of each target over the samples."""
        return self._scores(self.truth, self.predicted)

    def per_universe(self) -> dict[str, Scores]:
        """Scores of each target over the universes, their samples' predictions averaged."""
        _, truth, predicted = self.universe_means()
        return self._scores(truth, predicted)

    def universe_means(self) -> tuple[list[str], Values, Values]:
        """Universes in order of their names, and their mean truth and prediction."""
        names, place = np.unique(self.universes, return_inverse=True)
        count = np.bincount(place)[:, None]
        sums = np.zeros((2, len(names), len(self.names)))
        np.add.at(sums[0], place, self.truth)
        np.add.at(sums[1], place, self.predicted)
        return [str(name) for name in names], sums[0] / count, sums[1] / count

    def metrics(self) -> dict[str, Any]:
        """Content of ``metrics.json``."""
        sample, universe = self.per_sample(), self.per_universe()
        return {
            "split": self.split,
            "samples": len(self.universes),
            "universes": len(set(self.universes)),
            "targets": {
                name: {
                    "range": list(self.ranges[name]),
                    "per_universe": vars(universe[name]),
                    "per_sample": vars(sample[name]),
                }
                for name in self.names
            },
        }

    def _scores(self, truth: Values, predicted: Values) -> dict[str, Scores]:
        columns = zip(self.names, truth.T, predicted.T, strict=True)
        return {name: scores(true, guess) for name, true, guess in columns}


def scores(truth: Values, predicted: Values) -> Scores:
    """Scores of one parameter's predictions (n,) against its truth (n,)."""
    error = predicted - truth
    scatter = float(np.sum((truth - truth.mean()) ** 2))
    r2 = 1.0 - float(np.sum(error**2)) / scatter if scatter > 0 else None
    rmse = float(np.sqrt(np.mean(error**2)))
    return Scores(float(np.mean(np.abs(error))), rmse, r2, len(truth))


def predict(model: keras.Model, feed: Feed) -> npt.NDArray[np.float32]:
    """Scaled predictions (sample, target) of a feed that neither shuffles nor augments."""
    batches = [model.predict_on_batch(batch.x) for batch in feed.prefetched(0)]
    return np.concatenate(batches).astype(np.float32)


def evaluation(catalog: Catalog, split: SplitName, scaled: npt.NDArray[np.float32]) -> Evaluation:
    """Evaluation of scaled predictions (sample, target) on a whole split."""
    table = catalog.split(split)
    ranges = dict(zip(catalog.target_names, catalog.target_ranges, strict=True))
    predicted = unscale(scaled, catalog.target_ranges)
    return Evaluation(split, ranges, table.universes, table.parameters, predicted)


def evaluate_run(run: Path, split: SplitName, dataset: Path | None = None) -> Evaluation:
    """Evaluate the finished run in a folder on a split of its data set.

    Parameters
    ----------
    run : Path
        Folder that ``fit`` wrote.
    split : {'train', 'validation', 'test'}
    dataset : Path, optional
        Where the data set is now, if it was moved.

    Raises
    ------
    TrainingError
        If the run is not finished, or the data set is not the one it was trained on.
    """
    record = read_record(run)
    catalog = Catalog.open(dataset or record.dataset)
    require_same_data(catalog, record, run)
    catalog.require(split)
    path = run / MODEL_NAME
    if not path.is_file():
        raise TrainingError(
            f"{run}: no {MODEL_NAME}, the run is not finished; finish it with "
            f"'cosmoflow-train fit {record.dataset} --run {run} --resume'"
        )
    model = keras.saving.load_model(path, compile=False)
    spec = record.spec
    feed = Feed(catalog, split, spec.batch_size, cache_bytes=0)
    return evaluation(catalog, split, predict(model, feed))


def require_same_data(catalog: Catalog, record: RunRecord, run: Path) -> None:
    """Refuse a data set that is not the one the run began with."""
    if catalog.digest != record.manifest_digest:
        raise TrainingError(
            f"{run}: trained on a data set with the manifest {record.manifest_digest[:23]}…, "
            f"but {catalog.root} has {catalog.digest[:23]}…; name the same data, or train again"
        )
