"""Learning-rate schedules: functions of the step, so that a resumed run goes on exactly."""

from __future__ import annotations

import math

import keras
from keras import ops

from cosmoflow_model.spec import SCHEDULE_NAMES
from pipeline.errors import TrainingError

RISE = 0.3
"""Share of a one-cycle run in which the rate rises."""

START_DIVISOR = 25.0
END_DIVISOR = 1e4
WARMUP_SHARE = 0.05


@keras.saving.register_keras_serializable("cosmoflow")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Cosine rise to the peak, then cosine fall to nearly nothing (Smith & Topin 2017).

    Parameters
    ----------
    peak : float
        Highest learning rate; it starts at ``peak / 25`` and ends at ``peak / 25e4``.
    steps : int
        Steps of the whole run.
    """

    def __init__(self, peak: float, steps: int) -> None:
        self.peak = peak
        self.steps = steps

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """Learning rate of a step."""
        start = self.peak / START_DIVISOR
        turn = max(1.0, RISE * self.steps)
        step = ops.cast(step, "float32")
        rising = _cosine(start, self.peak, step / turn)
        fall = max(1.0, self.steps - 1 - turn)
        falling = _cosine(self.peak, start / END_DIVISOR, (step - turn) / fall)
        return ops.where(step < turn, rising, falling)

    def get_config(self) -> dict[str, float | int]:
        """Arguments that make this schedule again."""
        return {"peak": self.peak, "steps": self.steps}


def schedule(name: str, peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Schedule of a name over the ``steps`` of a whole run, or ``peak`` itself if constant.

    Raises
    ------
    TrainingError
        If there is none of that name.
    """
    if name == "one-cycle":
        return OneCycle(peak, steps)
    if name == "warmup-cosine":
        warmup = max(1, round(WARMUP_SHARE * steps))
        return keras.optimizers.schedules.CosineDecay(
            peak / START_DIVISOR, max(1, steps - warmup), warmup_target=peak, warmup_steps=warmup
        )
    if name == "constant":
        return peak
    raise TrainingError(f"schedule is {name!r}; expected one of {', '.join(SCHEDULE_NAMES)}")


def _cosine(first: float, last: float, share: keras.KerasTensor) -> keras.KerasTensor:
    share = ops.clip(share, 0.0, 1.0)
    return last + (first - last) * 0.5 * (1.0 + ops.cos(math.pi * share))
