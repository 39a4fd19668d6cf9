"""Texts in the midst of training: what is written, and that training does not notice."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny import LIGHTNING_NOISE, Recorder
from tests.training.fitting import fit, lines
from xlab.commands.callbacks import TextSamples
from xlab.errors import ConfigError
from xlab.training.samples import SampleWriter

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


def test_each_validation_writes_a_line_a_prompt(tmp_path: Path) -> None:
    def shout(trainer: Trainer, pl_module: LightningModule, prompt: str) -> str:
        assert not pl_module.training
        return prompt.upper() + " é\n"

    run = fit(tmp_path, SampleWriter(["a", "b"], shout, {"volume": 11}))
    written = lines(run / "generated.jsonl")
    assert [(line["step"], line["prompt"]) for line in written] == [(4, "a"), (4, "b"), (8, "a"), (8, "b")]
    assert written[0] == {"step": 4, "prompt": "a", "text": "A é\n", "settings": {"volume": 11}}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_does_not_notice(tmp_path: Path, precision: Any) -> None:
    plain, sampled = Recorder(), Recorder()
    fit(tmp_path, plain, precision=precision)
    run = fit(tmp_path, sampled, TextSamples(["", "the"], max_new_tokens=40), version=1, precision=precision)
    assert sampled.losses == plain.losses
    written = lines(run / "generated.jsonl")
    assert all(line["settings"]["temperature"] == 0.8 and line["settings"]["seed"] == 0 for line in written)
    assert len({line["text"] for line in written}) > 1


def test_they_go_to_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "logs", "board")
    fit(tmp_path, SampleWriter(["a"], lambda *_: "!\n# b", {}), logger=logger)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload().Tensors("generated/text_summary")
    assert [event.step for event in events] == [4, 8]
    assert events[0].tensor_proto.string_val[0].decode() == "    a!\n    # b"
    assert (Path(logger.log_dir) / "generated.jsonl").is_file()


@pytest.mark.parametrize(
    "settings", [{"prompts": []}, {"prompts": ["a"], "max_new_tokens": 0}, {"prompts": ["a"], "top_p": 2.0}]
)
def test_what_cannot_be_asked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.callbacks: TextSamples"):
        TextSamples(**settings)
