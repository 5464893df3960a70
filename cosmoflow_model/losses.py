"""Losses by name, on targets scaled to [-1, 1]."""

from __future__ import annotations

import keras

from cosmoflow_model.spec import LOSS_NAMES
from pipeline.errors import TrainingError

HUBER_DELTA = 0.3
"""Scaled error at which the Huber loss turns from square to straight."""


def loss(name: str) -> keras.losses.Loss:
    """Loss of a name: ``mse``, ``mae`` or ``huber``.

    Raises
    ------
    TrainingError
        If there is none of that name.
    """
    makers = {
        "mse": keras.losses.MeanSquaredError,
        "mae": keras.losses.MeanAbsoluteError,
        "huber": lambda: keras.losses.Huber(delta=HUBER_DELTA),
    }
    if name not in makers:
        raise TrainingError(f"loss is {name!r}; expected one of {', '.join(LOSS_NAMES)}")
    return makers[name]()
