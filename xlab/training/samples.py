"""SampleWriter: what the model writes when it is asked in the midst of its training."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

Continue = Callable[[Trainer, LightningModule, str], str]


class SampleWriter(Callback):
    """Let the model continue given prompts at every validation: to ``generated.jsonl`` and to TensorBoard.

    A line is ``{"step": 100, "prompt": "The", "text": " cat …", "settings": {…}}``, the text without the prompt.

    Args:
        prompts: what is continued.
        continued: gives the text that the model adds to a prompt; it must leave torch's global random state alone. All
            ranks call it, since a sharded model computes with all of them.
        settings: how texts are drawn, written beside each.
    """

    def __init__(self, prompts: Sequence[str], continued: Continue, settings: Mapping[str, Any]) -> None:
        self._prompts = list(prompts)
        self._continued = continued
        self._settings = dict(settings)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Write before the first batch: averaged weights, where there are any, are in place by now, and still."""
        if batch_idx or dataloader_idx or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        texts = [self._continued(trainer, pl_module, prompt) for prompt in self._prompts]
        if not trainer.is_global_zero or trainer.log_dir is None:
            return
        path = Path(trainer.log_dir) / "generated.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            for prompt, text in zip(self._prompts, texts, strict=True):
                line = {"step": trainer.global_step, "prompt": prompt, "text": text, "settings": self._settings}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        # indented by four, Markdown leaves a text as it is
        shown = [
            f"    {(prompt + text)}".replace("\n", "\n    ") for prompt, text in zip(self._prompts, texts, strict=True)
        ]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("generated", "\n\n---\n\n".join(shown), trainer.global_step)
