"""An experiment's base, and the stub that stands for fit where the training is not what is tested."""

import sys
from pathlib import Path

import pytest
from commands_setup import ROOT

STUB = [sys.executable, str(ROOT / "tests" / "lab" / "stub_fit.py")]


def write_base(folder: Path, corpus: Path, more: str = "") -> Path:
    """Write the configuration of a run of seconds."""
    path = folder / "base.yaml"
    path.write_text(
        f"data: {{source: {{class_path: JsonLines, init_args: {{paths: {corpus}}}}}, vocab_size: 300, seq_len: 16,\n"
        f"       batch_size: 8, cache_dir: {corpus.parent / 'cache'}}}\n"
        "model: {d_model: 16, n_layers: 1, n_heads: 2, schedule: {class_path: Cosine, init_args: {warmup_steps: 1}}}\n"
        f"trainer: {{accelerator: cpu, val_check_interval: 3{more}}}\n",
        encoding="utf-8",
    )
    return path


def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stub train."""
    monkeypatch.setattr("xlab.commands.verify_resume.fit_command", lambda: STUB)
