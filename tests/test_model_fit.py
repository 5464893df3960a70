"""Whole runs: they learn, stop, go on, refuse, and write what they say."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from cosmoflow_model import cli, train
from cosmoflow_model.catalog import Catalog
from cosmoflow_model.checkpoint import Checkpoints, save_atomically
from cosmoflow_model.evaluate import Evaluation, evaluate_run, scores
from cosmoflow_model.spec import TrainSpec
from pipeline.errors import DatasetError, OutputError, TrainingError
from tests.datasets_made import Made, flip_byte, make_dataset

QUICK = TrainSpec(width=4, epochs=4, batch_size=5, seed=1, dropout=0.2)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_dataset(tmp_path_factory.mktemp("fit") / "set", subvolumes=2, counts=(6, 2, 2))


@pytest.fixture(scope="module")
def done(small: Made, tmp_path_factory: pytest.TempPathFactory) -> train.FitResult:
    return train.fit(small.root, QUICK, tmp_path_factory.mktemp("runs") / "whole")


def _history(run: Path) -> list[dict[str, float]]:
    with (run / "history.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_learns_the_parameters(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set", side=16, counts=(64, 16, 16))
    result = train.fit(made.root, TrainSpec(width=8, epochs=40, seed=1), tmp_path / "run")
    for name, score in result.evaluation.per_universe().items():
        assert score.r2 is not None
        assert score.r2 > 0.5, name
        assert score.n == 16
    assert result.evaluation.split == "test"
    assert result.history[-1]["loss"] < 0.3 * result.history[0]["loss"]


def test_writes_what_it_says(done: train.FitResult, small: Made) -> None:
    written = {path.name for path in done.run.iterdir()}
    assert written == {
        "spec.json", "history.csv", "best.weights.h5", "model.keras", "metrics.json",
        "predictions.csv", "predictions.png", "loss.png", "checkpoints",
    }  # fmt: skip
    metrics = json.loads((done.run / "metrics.json").read_text())
    assert (metrics["split"], metrics["samples"], metrics["universes"]) == ("test", 16, 2)
    assert set(metrics["targets"]) == {"Omega_m", "sigma_8"}
    with (done.run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["universe"] for row in rows] == small.universes["test"]
    truth = [[float(row["Omega_m_true"]), float(row["sigma_8_true"])] for row in rows]
    np.testing.assert_allclose(truth, small.parameters["test"], rtol=1e-6)
    guess = [[float(row["Omega_m_predicted"]), float(row["sigma_8_predicted"])] for row in rows]
    error = np.abs(np.array(guess) - truth).mean(axis=0)
    assert metrics["targets"]["Omega_m"]["per_sample"]["mae"] == pytest.approx(error[0], rel=1e-5)


def test_saved_model_predicts_as_the_run_did(done: train.FitResult) -> None:
    again = evaluate_run(done.run, "test")
    np.testing.assert_allclose(again.predicted, done.evaluation.predicted, rtol=1e-5)
    model = keras.saving.load_model(done.run / "model.keras")
    weights = [weight.copy() for weight in model.get_weights()]
    model.load_weights(done.run / "best.weights.h5")
    for left, right in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_seed_repeats_the_run(done: train.FitResult, small: Made, tmp_path: Path) -> None:
    train.fit(small.root, QUICK, tmp_path / "run")
    assert _history(tmp_path / "run") == _history(done.run)


class _StopError(Exception):
    pass


def test_resumed_run_is_the_uninterrupted_one(
    done: train.FitResult, small: Made, tmp_path: Path
) -> None:
    def stop(row: dict[str, float], planned: int) -> None:
        if row["epoch"] == 2:
            raise _StopError

    run = tmp_path / "run"
    with pytest.raises(_StopError):
        train.fit(small.root, QUICK, run, on_epoch=stop)
    result = train.fit(small.root, None, run, resume=True)
    assert _history(run) == _history(done.run)
    np.testing.assert_array_equal(result.evaluation.predicted, done.evaluation.predicted)


def _start(small: Made, run: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cosmoflow_model.cli", "fit", str(small.root), "--run"]
    return subprocess.Popen(
        [*command, str(run), *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _lines_until(process: subprocess.Popen[str], start: str) -> Iterator[str]:
    assert process.stderr is not None
    for line in process.stderr:
        yield line
        if line.startswith(start):
            return


LONG = ("--epochs", "400", "--width", "4")


def test_killed_process_goes_on_to_the_same_history(small: Made, tmp_path: Path) -> None:
    options = ("--epochs", "60", "--width", "4", "--seed", "5")
    killed = _start(small, tmp_path / "killed", *options)
    list(_lines_until(killed, "epoch 3/"))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = len(_history(tmp_path / "killed"))
    assert 3 <= before < 60
    resumed = _start(small, tmp_path / "killed", "--resume", "--json")
    answer = json.loads(resumed.communicate()[0])
    assert resumed.returncode == 0
    assert answer["epochs"] == 60
    whole = train.fit(small.root, TrainSpec(epochs=60, width=4, seed=5), tmp_path / "whole")
    assert _history(tmp_path / "killed") == _history(whole.run)
    assert not list((tmp_path / "killed").rglob("*.tmp*"))


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_a_run_that_goes_on(
    small: Made, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    process = _start(small, run, *LONG)
    list(_lines_until(process, "epoch 2/"))
    process.send_signal(sent)
    _, errors = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in errors
    assert f"--run {run} --resume" in errors
    assert len(_history(run)) >= 2
    with pytest.raises(TrainingError, match="the run is not finished"):
        evaluate_run(run, "test")


def test_existing_run_folder_is_refused_and_untouched(small: Made, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("mine")
    with pytest.raises(TrainingError, match="cannot be made"):
        train.fit(small.root, QUICK, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]
    with pytest.raises(TrainingError, match=r"no run of cosmoflow-train"):
        train.fit(small.root, None, tmp_path / "run", resume=True)


def test_resume_refuses_other_choices_and_other_data(done: train.FitResult, tmp_path: Path) -> None:
    dataset = json.loads((done.run / "spec.json").read_text())["dataset"]
    with pytest.raises(TrainingError, match="began with epochs 4, not 45"):
        train.fit(dataset, replace(QUICK, epochs=45), done.run, resume=True)
    other = make_dataset(tmp_path / "other", seed=9)
    with pytest.raises(TrainingError, match="trained on a data set with the manifest"):
        train.fit(other.root, None, done.run, resume=True)


def test_damaged_data_are_refused_by_name_before_anything_is_written(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set")
    shard = made.root / Catalog.open(made.root).manifest.shards[0].path
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(DatasetError, match=f"{shard}: missing"):
        train.fit(made.root, QUICK, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    shard.write_bytes(whole)
    flip_byte(shard, 300)
    with pytest.raises(DatasetError, match=f"{shard}: damaged"):
        train.fit(made.root, QUICK, tmp_path / "run")


def test_sets_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set", counts=(4, 0, 2))
    with pytest.raises(TrainingError, match="no validation samples"):
        train.fit(made.root, QUICK, tmp_path / "run")
    made = make_dataset(tmp_path / "tiny", side=4)
    with pytest.raises(TrainingError, match="cubes are 4 cells a side"):
        train.fit(made.root, QUICK, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_loss_that_is_not_finite_stops_with_the_samples(small: Made, tmp_path: Path) -> None:
    spec = TrainSpec(
        width=4, epochs=3, batch_size=5, learning_rate=1e38, optimizer="sgd", schedule="constant"
    )
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) .*lower --learning-rate"):
        train.fit(small.root, spec, tmp_path / "run")


def test_patience_stops_and_the_best_weights_are_kept(small: Made, tmp_path: Path) -> None:
    spec = TrainSpec(
        width=4, epochs=50, patience=3, learning_rate=0.05, schedule="constant", batch_size=5
    )
    result = train.fit(small.root, spec, tmp_path / "run")
    losses = [row["validation_loss"] for row in result.history]
    assert len(losses) < 50
    assert result.best_epoch == len(losses) - 3
    assert losses[result.best_epoch - 1] == min(losses)
    judged = evaluate_run(tmp_path / "run", "validation")
    low, high = np.array(list(judged.ranges.values())).T
    scaled_error = (judged.predicted - judged.truth) * 2 / (high - low)
    assert np.mean(scaled_error**2) == pytest.approx(min(losses), rel=1e-4)


def test_without_a_test_split_validation_is_reported(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set", layout="tfrecord", counts=(6, 2, 0))
    arguments = ["fit", str(made.root), "--epochs", "1", "--width", "2"]
    result = CliRunner().invoke(cli.cli, arguments)
    assert result.exit_code == 0, result.output
    assert "no test split" in result.stdout
    assert "2 held-out universes" in result.stdout
    assert (tmp_path / "set-run" / "metrics.json").is_file()
    result = CliRunner().invoke(
        cli.cli, ["evaluate", str(tmp_path / "set-run"), "--split", "train", "--json"]
    )
    assert json.loads(result.stdout)["universes"] == 6
    assert (tmp_path / "set-run" / "evaluate-train" / "predictions.png").is_file()


def test_damaged_checkpoint_is_named_and_the_one_before_serves(
    small: Made, done: train.FitResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train.fit(small.root, QUICK, run)
    newest = run / "checkpoints" / "epoch-00004.npz"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=f"{newest}: damaged checkpoint"):
        train.fit(small.root, None, run, resume=True)
    newest.unlink()
    result = train.fit(small.root, None, run, resume=True)
    assert _history(run) == _history(done.run)
    np.testing.assert_array_equal(result.evaluation.predicted, done.evaluation.predicted)


def test_full_disk_is_explained_and_the_run_goes_on(
    small: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    whole = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == "epoch-00002.npz":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(source, target)

    arguments = ["fit", str(small.root), "--run", str(run), "--epochs", "3", "--width", "2"]
    with monkeypatch.context() as context:
        context.setattr(os, "replace", full)
        stopped = CliRunner().invoke(cli.cli, arguments)
    assert isinstance(stopped.exception, OutputError)
    assert str(stopped.exception).endswith("epoch-00002.npz: the disk is full; free space")
    assert f"--run {run} --resume" in stopped.stderr
    assert not list(run.rglob("*.tmp*"))
    again = CliRunner().invoke(cli.cli, ["fit", str(small.root), "--run", str(run), "--resume"])
    assert again.exit_code == 0, again.output
    assert len(_history(run)) == 3


def test_no_advice_to_go_on_with_another_run(small: Made, done: train.FitResult) -> None:
    arguments = ["fit", str(small.root), "--run", str(done.run), "--epochs", "1"]
    refused = CliRunner().invoke(cli.cli, arguments)
    assert isinstance(refused.exception, TrainingError)
    assert "--resume" not in refused.stderr


def test_results_that_cannot_be_written_say_why(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")

    def save(temporary: Path) -> None:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x")

    with pytest.raises(OutputError, match=r"a\.csv: the disk is full") as caught:
        save_atomically(tmp_path / "a.csv", save)
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="No such file or directory"):
        save_atomically(tmp_path / "none" / "a.csv", lambda path: path.write_bytes(b"x"))


def test_checkpoint_of_another_network_is_refused(done: train.FitResult) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(TrainingError, match="a checkpoint of another network"):
        Checkpoints(done.run / "checkpoints").restore(model)


def test_scores_against_their_definitions() -> None:
    truth, guess = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 2.0, 2.0, 4.0])
    score = scores(truth, guess)
    assert (score.mae, score.n) == (0.375, 4)
    assert score.rmse == pytest.approx(np.sqrt(1.25 / 4))
    assert score.r2 == pytest.approx(1 - 1.25 / 5.0)
    assert scores(truth, np.full(4, truth.mean())).r2 == pytest.approx(0.0)
    assert scores(truth[:1], guess[:1]).r2 is None


def test_sub_volumes_of_a_universe_are_averaged() -> None:
    judged = Evaluation(
        "test", {"a": (0.0, 1.0)}, ["u", "v", "u", "v"],
        np.array([[0.0], [1.0], [0.0], [1.0]]), np.array([[0.5], [1.0], [-0.5], [1.2]]),
    )  # fmt: skip
    assert judged.per_universe()["a"].mae == pytest.approx(0.05)
    assert judged.per_universe()["a"].n == 2
    assert judged.per_sample()["a"].mae == pytest.approx(0.3)


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", [[], ["fit"], ["evaluate"]])
def test_help_imports_no_tensorflow(command: list[str]) -> None:
    code = (
        "import sys; from cosmoflow_model import cli\n"
        f"try: cli.cli({[*command, '--help']!r})\n"
        "finally: print(sorted({'tensorflow', 'keras', 'jax', 'zarr'} & set(sys.modules)))"
    )
    answer = _python(code)
    assert "Example: cosmoflow-train" in answer.stdout
    assert answer.stdout.endswith("[]\n")


def test_missing_tensorflow_says_what_to_install(small: Made, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        f"sys.argv = ['x', 'fit', {str(small.root)!r}, '--run', {str(tmp_path / 'run')!r}]\n"
        "from cosmoflow_model.cli import main; main()"
    )
    answer = _python(code)
    assert answer.returncode == 7
    assert "pip install 'cosmoflow-prep[train]'" in answer.stderr
    assert not (tmp_path / "run").exists()


def test_switched_off_onednn_is_warned_about(small: Made) -> None:
    code = "from cosmoflow_model import backend; backend._warn_without_onednn()"
    answer = _python(code, TF_ENABLE_ONEDNN_OPTS="0")
    assert answer.returncode == 0
    if os.uname().machine == "x86_64":
        assert "switches oneDNN off" in answer.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--epochs", "0"], 2, "0 is not in the range"),
        (["--network", "vgg"], 2, "is not one of 'cosmoflow'"),
        (["--epoch"], 2, "--epoch"),
        (["--network", "sc18"], 10, "takes cubes of 128 cells a side, these have 8"),
    ],
)
def test_wrong_options_are_refused(
    small: Made,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    message: str,
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["x", "fit", str(small.root), "--run", str(run), *options])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    assert message in capfd.readouterr().err
    assert not run.exists()
