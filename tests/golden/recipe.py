"""The first losses of the default recipe, kept in a file: whoever changes what a step computes sees it.

    python -m tests.golden.recipe

writes them anew, when the recipe is meant to have changed. fp32, uncompiled, one thread, on a text that is made here:
the documentation that the recipe reads is another in each version of Python.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("default_recipe.json")
STEPS = 5
# relative. On one machine the losses are the same bit for bit; another processor's kernels add in another order, which
# moves them by about 1e-6 at first, and Adam's first steps, which divide by what they have just seen, by a little more
TOLERANCE = 1e-4
SETTINGS = {
    "data.source": "TextFiles",
    "data.source.section_chars": 2000,
    "data.vocab_size": 512,
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.precision": "32-true",
    "trainer.logger": "false",
    "trainer.log_every_n_steps": 1,
    "compile": "false",
}


class FirstSteps(Callback):
    """End a run, of whatever length its schedule plans for, after its first steps; Muon's iteration is in fp32, too.

    Elsewhere that is in bf16 where the processor is fast at it, and a processor that is not would have other losses.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        mock.patch("xlab.training.muon.fast_dtype", return_value=torch.float32).start()  # for good: the process is ours

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        trainer.should_stop = trainer.global_step >= STEPS


def text(n_words: int = 60_000) -> str:
    """A text that can be learnt a little: words of syllables, in sentences, by a congruential generator."""
    state, words = 1, []
    for number in range(n_words):
        state = (1103515245 * state + 12345) % 2**31
        word = "".join("bdfgklmnprst"[state >> shift & 7] + "aeiou"[(state >> shift + 3) % 5] for shift in (8, 14, 20))
        words.append(word[: 2 + 2 * (state >> 26 & 1)] + (".\n" if number % 11 == 10 else " "))
    return "".join(words)


def first_losses(folder: Path) -> list[float]:
    """Train the default recipe's first steps in an empty folder, and give the loss of each."""
    (folder / "text.txt").write_text(text(), encoding="utf-8")
    stop = json.dumps({"class_path": f"tests.golden.recipe.{FirstSteps.__name__}"})
    own = {**SETTINGS, "data.source.paths": "text.txt", "data.cache_dir": "cache", "trainer.callbacks+": stop}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "xlab.py"), "fit", *(f"--{key}={value}" for key, value in own.items())]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    lines = (folder / "logs" / "version_0" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [line["train/loss"] for line in map(json.loads, lines) if "train/loss" in line]
    return losses[:STEPS]


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        losses = first_losses(Path(folder))
    reason = "another processor's kernels add in another order; see tests/golden/recipe.py"
    content = {"losses": losses, "tolerance": TOLERANCE, "because": reason}
    FILE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
