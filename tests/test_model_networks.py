"""Parameter counts as published, sizes, losses, schedules, specs."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from cosmoflow_model.losses import loss
from cosmoflow_model.networks import PUBLISHED, build_network, cosmoflow_network
from cosmoflow_model.schedules import OneCycle, schedule
from cosmoflow_model.spec import LOSS_NAMES, NETWORK_NAMES, SCHEDULE_NAMES, TrainSpec
from pipeline.errors import TrainingError


@pytest.mark.parametrize(
    ("network", "channels", "targets", "weights"),
    [
        ("sc18", 1, 3, 7_041_443),
        ("mlperf-kernel2", 4, 4, 5_597_604),
        ("mlperf-kernel3", 4, 4, 8_907_556),
    ],
)
def test_published_parameter_counts(
    network: str, channels: int, targets: int, weights: int
) -> None:
    model = build_network(TrainSpec(network=network), (128, 128, 128, channels), targets)
    assert model.count_params() == weights
    assert model.output_shape == (None, targets)


def test_published_networks_refuse_other_sizes() -> None:
    for name in PUBLISHED:
        with pytest.raises(TrainingError, match="128 cells a side, these have 64"):
            build_network(TrainSpec(network=name), (64, 64, 64, 4), 3)


@pytest.mark.parametrize("side", [8, 16, 24, 32, 48, 64, 128, 256])
@pytest.mark.parametrize("norm", ["none", "group"])
def test_cosmoflow_sizes_itself_to_the_cubes(side: int, norm: str) -> None:
    model = cosmoflow_network((side, side, side, 4), 3, norm=norm, dropout=0.1)
    assert model.output_shape == (None, 3)
    last = [layer for layer in model.layers if "pooling" in layer.name][-2]
    assert last.output.shape[1] in {2, 3}
    assert model.count_params() < 800_000


def test_cosmoflow_at_the_demo_size() -> None:
    assert cosmoflow_network((32, 32, 32, 4), 3).count_params() == 185_971


def test_too_small_cubes_are_refused() -> None:
    with pytest.raises(TrainingError, match="cubes are 4 cells a side"):
        cosmoflow_network((4, 4, 4, 1), 2)


def test_names_of_the_spec_are_those_there_are() -> None:
    assert set(NETWORK_NAMES) == {"cosmoflow", *PUBLISHED}
    for name in LOSS_NAMES:
        assert loss(name) is not None
    for name in SCHEDULE_NAMES:
        assert schedule(name, 1e-3, 10) is not None
    with pytest.raises(TrainingError, match="expected one of mse, mae, huber"):
        loss("mes")
    with pytest.raises(TrainingError, match="expected one of one-cycle"):
        schedule("cosine", 1e-3, 10)


def test_losses_against_numpy() -> None:
    truth, guess = np.array([[0.0, 1.0]], "f4"), np.array([[0.1, 0.0]], "f4")
    assert float(loss("mse")(truth, guess)) == pytest.approx((0.01 + 1) / 2)
    assert float(loss("mae")(truth, guess)) == pytest.approx((0.1 + 1) / 2)
    huber = (0.5 * 0.01 + 0.3 * (1 - 0.15)) / 2
    assert float(loss("huber")(truth, guess)) == pytest.approx(huber)


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing() -> None:
    rates = np.array([float(OneCycle(1e-2, 100)(step)) for step in range(100)])
    assert rates[0] == pytest.approx(1e-2 / 25, rel=1e-4)
    assert rates.argmax() == 30
    assert rates.max() == pytest.approx(1e-2)
    assert rates[-1] < 1e-7
    assert (np.diff(rates[:30]) > 0).all()
    assert (np.diff(rates[30:]) < 0).all()
    assert np.isfinite([float(OneCycle(1.0, 1)(step)) for step in range(3)]).all()


def test_warmup_cosine_peaks_after_the_warmup() -> None:
    rate = schedule("warmup-cosine", 1e-2, 200)
    rates = np.array([float(rate(step)) for step in range(200)])
    assert rates.argmax() == 10
    assert rates.max() == pytest.approx(1e-2)
    assert rates[-1] < 1e-5


def test_one_cycle_survives_saving() -> None:
    config = keras.saving.serialize_keras_object(OneCycle(0.1, 7))
    again = keras.saving.deserialize_keras_object(config)
    assert (again.peak, again.steps) == (0.1, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "cosmoflo"}, "network is 'cosmoflo'; expected one of cosmoflow"),
        ({"epochs": 0}, "epochs is 0; expected a whole number of at least 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": -1.0}, "expected a number above 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
    ],
)
def test_wrong_choices_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        replace(TrainSpec(), **change)
