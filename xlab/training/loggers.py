"""Where a run's figures are written: metrics.jsonl, and what else is chosen by trainer.logger.

A logger of a run's folder is made before the folder is: it holds its settings until ``enter`` tells it where.
"""

import importlib.util
import json
import os
from abc import abstractmethod
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from xlab.errors import ConfigError


class JsonLinesLogger(Logger):
    """Append every logged step to ``metrics.jsonl``: ``{"step": 10, "train/loss": 5.1, ...}``.

    Args:
        folder: the run's folder; made when the first line is written.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = Path(folder)

    @property
    def name(self) -> str:
        return self._folder.parent.name

    @property
    def version(self) -> str:
        return self._folder.name

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    @property
    def log_dir(self) -> str:
        return str(self._folder)

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / "metrics.jsonl"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with open(self.experiment, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's config.yaml holds the settings."""


class RunLogger(Logger):
    """A logger that learns from the command which folder the run has."""

    @abstractmethod
    def enter(self, folder: Path) -> None:
        """Log for the run of ``folder``, such as ``logs/version_0``; called once, before anything is logged.

        Raises:
            ConfigError: if a package is missing.
        """


class TensorBoard(RunLogger, TensorBoardLogger):
    """TensorBoard's event files, in the run's folder: ``tensorboard --logdir logs``. What a run has if none is chosen.

    Args:
        flush_secs: seconds after which figures are on the disk.
    """

    def __init__(self, flush_secs: int = 120) -> None:
        self._flush_secs = flush_secs

    def enter(self, folder: Path) -> None:
        root, name, version = _parts(folder)
        TensorBoardLogger.__init__(self, root, name, version, default_hp_metric=False, flush_secs=self._flush_secs)


class CSV(RunLogger, CSVLogger):
    """``metrics.csv`` in the run's folder: a column for each figure, a row for each logged step.

    Args:
        flush_every: rows that are held back before the file is written.
    """

    def __init__(self, flush_every: int = 10) -> None:
        if flush_every < 1:
            raise ConfigError(f"trainer.logger: CSV.flush_every must be at least 1, got {flush_every}")
        self._flush_every = flush_every

    def enter(self, folder: Path) -> None:
        root, name, version = _parts(folder)
        CSVLogger.__init__(self, root, name, version, flush_logs_every_n_steps=self._flush_every)


class WeightsAndBiases(RunLogger, WandbLogger):
    """Weights & Biases. The run is called as its folder, and what is not sent yet lies in it.

    Args:
        project: of the service.
        offline: whether nothing is sent; ``wandb sync logs/version_0/wandb/offline-run-*`` does it later.
        entity: user or team; None: your own.
        tags: of the run.
    """

    def __init__(
        self, project: str = "xlab", offline: bool = False, entity: str | None = None, tags: list[str] | None = None
    ) -> None:
        self._settings: dict[str, Any] = {"project": project, "offline": offline, "entity": entity, "tags": tags}

    def enter(self, folder: Path) -> None:
        _need("wandb", self)
        import wandb

        if wandb.run is not None:  # of a run before, in this process: this one's figures would join it
            wandb.finish()
        folder.mkdir(parents=True, exist_ok=True)  # it would take a temporary folder else
        WandbLogger.__init__(self, name=folder.name, save_dir=str(folder), **self._settings)


class MLflow(RunLogger, MLFlowLogger):
    """MLflow: a server's, or a store of files beside the runs' folders. The run is called as its folder.

    Args:
        experiment: that runs belong to.
        tracking_uri: of the server; None: the folder ``mlruns`` beside ``logs``.
    """

    def __init__(self, experiment: str = "xlab", tracking_uri: str | None = None) -> None:
        self._experiment, self._uri = experiment, tracking_uri

    def enter(self, folder: Path) -> None:
        _need("mlflow", self)
        store = self._uri or f"file:{(folder.parent.parent / 'mlruns').resolve()}"
        if store.startswith("file:"):  # MLflow 3 would rather have a data base, and wants to be told that it is meant
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        MLFlowLogger.__init__(self, self._experiment, run_name=folder.name, tracking_uri=store)


def _parts(folder: Path) -> tuple[str, str, str]:
    return str(folder.parent.parent), folder.parent.name, folder.name


def _need(package: str, logger: RunLogger) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"trainer.logger: {type(logger).__name__} needs the package {package}; pip install 'xlab[{package}]'"
        )
