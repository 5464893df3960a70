"""Networks that map cubes (x, y, z, channel) to scaled parameters, in Keras 3.

``cosmoflow`` sizes itself to the cubes.  The published ones keep their layers:
SC18 (Mathuriya et al. 2018) and the MLPerf HPC benchmark with kernels of two
(v0.7) and three cells (since v1.0).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
from keras import layers

from cosmoflow_model.spec import TrainSpec
from cosmoflow_model.transform import ChannelStatistics
from pipeline.errors import TrainingError

Shape = tuple[int, int, int, int]

SMALLEST_SIDE = 8
STRIDED_FROM = 128
"""Cubes of this many cells a side and more are halved by the first convolution already."""

LARGEST_FACTOR = 4
GROUPS = 8
PUBLISHED_SIDE = 128


def build_network(
    spec: TrainSpec,
    input_shape: Shape,
    n_targets: int,
    statistics: ChannelStatistics | None = None,
) -> keras.Model:
    """Network of a spec for cubes of a shape (x, y, z, channel).

    ``statistics`` of the input serve ``cosmoflow``; the published networks take
    log(1 + counts) as it is.

    Raises
    ------
    TrainingError
        If the network does not take cubes of that size.
    """
    if spec.network == "cosmoflow":
        return cosmoflow_network(
            input_shape,
            n_targets,
            width=spec.width,
            norm=spec.norm,
            dropout=spec.dropout,
            statistics=statistics,
        )
    return PUBLISHED[spec.network](input_shape, n_targets)


def cosmoflow_network(
    input_shape: Shape,
    n_targets: int,
    *,
    width: int = 16,
    norm: str = "none",
    dropout: float = 0.0,
    slope: float = 0.1,
    statistics: ChannelStatistics | None = None,
) -> keras.Model:
    """Network sized to the cubes: halve them to two cells a side, then average.

    Parameters
    ----------
    input_shape : tuple of int
        (x, y, z, channel); at least 8 cells a side.
    n_targets : int
        Outputs, linear.
    width : int
        Channels of the first convolution; they double a block, up to four times.
    norm : {'none', 'group'}
        Group normalisation is slower but steadier; batch normalisation is not
        offered: with batches this small its test error swings.
    dropout : float
        In front of the dense layers.
    slope : float
        Of the leaky ReLU below 0.
    statistics : ChannelStatistics, optional
        Each channel is shifted and divided to mean 0 and variance 1, so that the
        zeros that pad a convolution mean average density and not a void.

    Returns
    -------
    keras.Model
        (batch, x, y, z, channel) -> (batch, n_targets); 185,971 weights for
        32^3 x 4, three targets and width 16.
    """
    side = min(input_shape[:3])
    if side < SMALLEST_SIDE:
        raise TrainingError(
            f"cubes are {side} cells a side; the network takes {SMALLEST_SIDE} and more: build "
            "the data set with a larger n_grid or fewer sub-volumes"
        )
    inputs = keras.Input(input_shape)
    x = inputs
    if statistics:
        x = layers.Normalization(mean=statistics.mean, variance=statistics.variance)(x)
    for block in range(int(math.log2(side)) - 1):
        strided = block == 0 and side >= STRIDED_FROM
        x = _convolution(x, width * min(2**block, LARGEST_FACTOR), norm, slope, strided)
    x = layers.GlobalAveragePooling3D()(x)
    x = layers.Dropout(dropout)(x) if dropout else x
    x = layers.LeakyReLU(negative_slope=slope)(layers.Dense(width * LARGEST_FACTOR)(x))
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, layers.Dense(n_targets)(x), name="cosmoflow")


def _convolution(
    x: keras.KerasTensor, channels: int, norm: str, slope: float, strided: bool
) -> keras.KerasTensor:
    x = layers.Conv3D(channels, 3, strides=2 if strided else 1, padding="same")(x)
    if norm == "group":
        x = layers.GroupNormalization(math.gcd(GROUPS, channels))(x)
    x = layers.LeakyReLU(negative_slope=slope)(x)
    return x if strided else layers.AveragePooling3D(2)(x)


def sc18_network(input_shape: Shape, n_targets: int) -> keras.Model:
    """The network of SC18: seven valid convolutions, flattened to 2048.

    Strides as in the code that was run: average pooling after the third
    block and stride 2 in the fourth convolution give the 7,041,443 weights of
    the paper for 128^3 x 1 and three targets.
    """
    _require_published_side(input_shape, "sc18")
    activation = {"negative_slope": 0.01}
    inputs = keras.Input(input_shape)
    x = inputs
    for channels, kernel in ((16, 3), (32, 4), (64, 4)):
        x = layers.LeakyReLU(**activation)(layers.Conv3D(channels, kernel)(x))
        x = layers.AveragePooling3D(2)(x)
    for channels, kernel, stride in ((128, 3, 2), (256, 3, 1), (256, 2, 1), (256, 2, 1)):
        x = layers.LeakyReLU(**activation)(layers.Conv3D(channels, kernel, strides=stride)(x))
    x = layers.Flatten()(x)
    for units in (2048, 256):
        x = layers.LeakyReLU(**activation)(layers.Dense(units)(x))
        x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(n_targets)(x), name="sc18")


def mlperf_network(input_shape: Shape, n_targets: int, kernel: int) -> keras.Model:
    """The network of MLPerf HPC: five same convolutions of 32 to 512 channels, max pooling.

    5,597,604 weights with kernel 2, 8,907,556 with kernel 3, for 128^3 x 4
    and four targets; outputs are 1.2 tanh.
    """
    name = f"mlperf-kernel{kernel}"
    _require_published_side(input_shape, name)
    activation = {"negative_slope": 0.3}
    inputs = keras.Input(input_shape)
    x = inputs
    for block in range(5):
        x = layers.Conv3D(32 * 2**block, kernel, padding="same")(x)
        x = layers.MaxPooling3D(2)(layers.LeakyReLU(**activation)(x))
    x = layers.Flatten()(x)
    for units in (128, 64):
        x = layers.LeakyReLU(**activation)(layers.Dense(units)(x))
        x = layers.Dropout(0.5)(x)
    outputs = layers.Rescaling(1.2)(layers.Dense(n_targets, activation="tanh")(x))
    return keras.Model(inputs, outputs, name=name)


PUBLISHED: dict[str, Callable[[Shape, int], keras.Model]] = {
    "sc18": sc18_network,
    "mlperf-kernel2": lambda shape, n_targets: mlperf_network(shape, n_targets, 2),
    "mlperf-kernel3": lambda shape, n_targets: mlperf_network(shape, n_targets, 3),
}


def _require_published_side(input_shape: Shape, name: str) -> None:
    if set(input_shape[:3]) != {PUBLISHED_SIDE}:
        raise TrainingError(
            f"the network {name} takes cubes of {PUBLISHED_SIDE} cells a side, these have "
            f"{input_shape[0]}; use --network cosmoflow, which sizes itself to the cubes"
        )
