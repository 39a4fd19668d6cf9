"""Folders with the files that a run leaves, made in no time."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

SETTINGS: dict[str, Any] = {
    "seed_everything": 0,
    "data": {"source": {"class_path": "PythonDocs"}, "vocab_size": 300, "seq_len": 16, "batch_size": 4, "seed": 0},
    "model": {"d_model": 32, "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}}},
    "trainer": {"max_steps": 100, "accumulate_grad_batches": 1},
}
RECORD = {"status": "finished", "commit": "abc", "data_fingerprint": "same", "flops_per_token": 1000, "first_step": 0}


def write_run(
    folder: Path,
    bits: Sequence[float] = (3.0, 2.5, 2.2),
    *,
    seed: int = 0,
    every: int = 10,
    first_step: int = 0,
    seconds_per_step: float = 0.5,
    record: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a run that was validated every so many steps; ``changes`` are settings, ``__`` between their names."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps(SETTINGS))
    for key, value in {"seed_everything": seed, "data__seed": seed, **changes}.items():
        *path, name = key.split("__")
        place = settings
        for part in path:
            place = place.setdefault(part, {})
        place[name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "run.json").write_text(json.dumps({**RECORD, "first_step": first_step, **(record or {})}))
    lines = []
    for number, value in enumerate(bits, start=1):
        steps = first_step + number * every
        lines.append({"step": steps - 1, "train/loss": 2 * value, "lr": 0.1, "tokens_per_s": 128.0, "epoch": 0})
        figures = {"val/loss": 2 * value, "val/bits_per_byte": value, "val/accuracy": 1 / value}
        spent = {"tokens": 64.0 * steps, "train_seconds": seconds_per_step * steps}
        lines.append({"step": steps - 1, **figures, **spent, "epoch": 0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_trial(root: Path, variant: str, seed: int, bits: Sequence[float], **more: Any) -> Path:
    """Write a trial of an ablation with its run; return the trial's folder."""
    trial = root / variant / f"seed_{seed}"
    write_run(trial / "logs" / "version_0", bits, seed=seed, **more)
    (trial / "trial.json").write_text(json.dumps({"variant": variant, "seed": seed, "status": "finished"}))
    return trial
