"""What the commands add to a run: the word after Ctrl-C, texts on the way and of documents."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from xlab import inference
from xlab.datamodules import XLabDataModule
from xlab.errors import ConfigError, GenerationError
from xlab.inference.sampling import filters_for
from xlab.training.samples import SampleWriter


class InterruptNotice(Callback):
    """Say, when Ctrl-C or SIGTERM ends a run, how to go on."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if not stopped or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        last = getattr(trainer.checkpoint_callback, "last_model_path", "")
        advice = f"go on with ./xlab.py fit --ckpt_path {shown(last)}" if last else "no checkpoint had been written yet"
        print(f"\ninterrupted at step {trainer.global_step}; {advice}", file=sys.stderr)


class TextSamples(SampleWriter):
    """Let the model continue prompts at every validation; see SampleWriter for where they go.

    Args:
        prompts: what is continued; "" is a text's beginning.
        max_new_tokens: of each text, at most.
        temperature: as in ``xlab.inference.sample``; 0 takes the likeliest tokens.
        top_k: likewise.
        top_p: likewise.
        seed: of the draws: the same at every validation, so that only the model changes.

    Raises:
        ConfigError: without a prompt, or for a setting that sampling cannot take.
    """

    def __init__(
        self,
        prompts: list[str],
        max_new_tokens: int = 100,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> None:
        if not prompts:
            raise ConfigError(
                "trainer.callbacks: TextSamples.prompts is empty; give a text to continue, or leave the callback out"
            )
        if max_new_tokens < 1:
            raise ConfigError(f"trainer.callbacks: TextSamples.max_new_tokens must be at least 1, got {max_new_tokens}")
        self._draw: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        try:
            filters_for(**self._draw)
        except GenerationError as error:
            raise ConfigError(f"trainer.callbacks: TextSamples: {error}") from error
        self._max_new_tokens, self._seed = max_new_tokens, seed
        settings = {"max_new_tokens": max_new_tokens, **self._draw, "seed": seed}
        super().__init__(prompts, self._continue, settings)

    def _continue(self, trainer: Trainer, pl_module: LightningModule, prompt: str) -> str:
        model: Any = pl_module
        tokenizer = trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        ids = torch.tensor([tokenizer[tokenizer.sos_token], *tokenizer.encode(prompt)], device=model.device)
        eos, draws = tokenizer[tokenizer.eos_token], torch.Generator(model.device).manual_seed(self._seed)
        with trainer.precision_plugin.val_step_context():
            new = inference.sample(
                model, ids, self._max_new_tokens, model.max_len, eos_class=eos, generator=draws, **self._draw
            )
        text: str = tokenizer.decode(new)
        return text


class ContinuationWriter(Callback):
    """Write what ``predict`` generates to a file, a JSON line a document, as it comes."""

    def __init__(self, path: str, datamodule: XLabDataModule) -> None:
        self._path = Path(path)
        self._datamodule = datamodule

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("", encoding="utf-8")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        decode = self._datamodule.tokenizer.decode
        line = {
            "document": int(batch["index"]),
            "prompt": decode(batch["prompt"][0]),
            "continuation": decode(outputs),
        }
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def shown(path: str | Path) -> str:
    """Give a path as one would type it here."""
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here
