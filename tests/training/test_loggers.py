"""A run's figures, one JSON object a line, and the other places they go."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xlab.errors import ConfigError
from xlab.training.loggers import CSV, JsonLinesLogger, MLflow, RunLogger, TensorBoard, WeightsAndBiases


def test_each_logged_step_is_a_line(tmp_path: Path) -> None:
    logger = JsonLinesLogger(str(tmp_path / "logs" / "version_3"))
    logger.log_metrics({"train/loss": 5.5, "lr": 0.1}, step=10)
    logger.log_metrics({"val/loss": 4.5}, step=20)
    lines = (tmp_path / "logs" / "version_3" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 10, "train/loss": 5.5, "lr": 0.1},
        {"step": 20, "val/loss": 4.5},
    ]


def test_nothing_is_made_before_the_first_line(tmp_path: Path) -> None:
    logger = JsonLinesLogger(str(tmp_path / "version_0"))
    logger.log_hyperparams({"d_model": 3})
    assert (logger.version, logger.log_dir) == ("version_0", str(tmp_path / "version_0"))
    assert not (tmp_path / "version_0").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder."""
    path = tmp_path / "logs" / "version_3"
    path.mkdir(parents=True)
    return path


def log(logger: RunLogger, folder: Path) -> None:
    """Log as a trainer does."""
    logger.enter(folder)
    logger.log_hyperparams({"d_model": 3})
    logger.log_metrics({"train/loss": 5.5}, step=10)
    logger.log_metrics({"val/loss": 4.5}, step=20)
    logger.save()
    logger.finalize("success")


def test_csv(folder: Path) -> None:
    log(CSV(), folder)
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [(row["step"], row["train/loss"], row["val/loss"]) for row in rows] == [("10", "5.5", ""), ("20", "", "4.5")]


def test_tensorboard(folder: Path) -> None:
    log(TensorBoard(), folder)
    events = EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/loss")] == [(20, 4.5)]


@pytest.mark.filterwarnings("ignore")  # what the package says of itself
def test_weights_and_biases_offline(folder: Path) -> None:
    """Each run has its own, in one process too."""
    pytest.importorskip("wandb", reason="needs wandb: pip install 'xlab[wandb]'")
    for place in (folder, folder.with_name("version_4")):
        log(WeightsAndBiases(offline=True, tags=["a"]), place)
        (written,) = place.glob("wandb/offline-run-*/run-*.wandb")
        assert written.stat().st_size > 0


@pytest.mark.filterwarnings("ignore")  # what the package says of itself
def test_mlflow_writes_files(folder: Path) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow: pip install 'xlab[mlflow]'")
    log(MLflow(), folder)
    (run,) = (folder.parent.parent / "mlruns").glob("*/*/metrics")
    assert (run / "val" / "loss").read_text().split()[1:] == ["4.5", "20"]
    assert (run.parent / "tags" / "mlflow.runName").read_text() == "version_3"


@pytest.mark.parametrize(("logger", "package"), [(WeightsAndBiases, "wandb"), (MLflow, "mlflow")])
def test_a_missing_package_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, logger: type[RunLogger], package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"{logger.__name__} needs the package {package}; pip install 'xlab\["):
        logger().enter(folder)


def test_a_setting_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"CSV\.flush_every must be at least 1, got 0"):
        CSV(flush_every=0)
