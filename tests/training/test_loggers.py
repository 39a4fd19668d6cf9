"""A run's figures, one JSON object a line."""

import json
from pathlib import Path

from xlab.training.loggers import JsonLinesLogger


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
