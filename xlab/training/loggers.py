"""Where a run's figures are written, beside TensorBoard: one JSON object a line."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only


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
