"""Which layer's word counts: a part of another class takes none of the numbers below, and a run goes on as it was."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from xlab import checkpoints
from xlab.commands.layers import layered
from xlab.commands.lightning_cli import run

MUON = """
model:
  optimizer: {class_path: xlab.training.muon.MuonAdamW, init_args: {lr: 1.6e-2, betas: [0.8, 0.95], eps: 1.0e-10}}
  schedule: {class_path: WarmupStableDecay, init_args: {warmup_steps: 3, decay_fraction: 0.5}}
  d_model: 48
"""


@pytest.mark.parametrize("is_default", [True, False])
def test_another_class_starts_from_its_own_settings(
    is_default: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "defaults.yaml").write_text(MUON)
    if is_default:
        monkeypatch.setattr("xlab.commands.layers.conf_folder", lambda: tmp_path)
    below = [] if is_default else ["-c", str(tmp_path / "defaults.yaml")]
    model = resolved([*below, "--model.optimizer=AdamW", "--model.schedule", "Cosine"], capsys)["model"]
    assert model["optimizer"]["init_args"]["lr"] == 1e-3
    assert model["optimizer"]["init_args"]["betas"] == [0.9, 0.999]
    assert model["schedule"]["init_args"]["decay_fraction"] is None
    assert model["schedule"]["init_args"]["warmup_steps"] is None
    assert model["d_model"] == 48
    model = resolved([*below, "--model.schedule=WarmupStableDecay", "--model.optimizer.lr=0.01"], capsys)["model"]
    assert model["optimizer"]["init_args"]["betas"] == [0.8, 0.95]
    assert model["optimizer"]["init_args"]["lr"] == 0.01
    assert model["schedule"]["init_args"]["decay_fraction"] == 0.5


def test_what_a_later_file_says_of_its_class_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "muon.yaml").write_text(MUON)
    finetune = str(ROOT / "conf" / "extra" / "finetune.yaml")
    model = resolved([f"--config={tmp_path / 'muon.yaml'}", "-c", finetune, "--model.optimizer.lr=1e-3"], capsys)[
        "model"
    ]
    assert model["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert (model["optimizer"]["init_args"]["lr"], model["optimizer"]["init_args"]["eps"]) == (1e-3, 1e-8)
    assert model["schedule"]["init_args"]["warmup_fraction"] == 0.05
    assert model["schedule"]["init_args"]["warmup_steps"] is None


def test_a_resumed_run_goes_on_to_learn_the_same_tokens(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoints.read("logs/version_0")
    data = {**checkpoint.data, "chat": {"prompt_in_loss": False, "max_tokens": 17}, "meta": None}
    monkeypatch.setattr("xlab.checkpoints.read", lambda path, **_: replace(checkpoint, data=data))
    changes = ["--data.chat.prompt_in_loss=true", "--data.document_mask=true", "--data.batch_size=4"]
    given = layered("fit", ["--ckpt_path=logs/version_0", *changes])
    notes = capsys.readouterr().err
    assert "note: data.chat.prompt_in_loss stays False as in the checkpoint, not True\n" in notes
    assert "note: data.document_mask stays False as in the checkpoint, not True\n" in notes
    assert "batch_size" not in notes
    decided = json.loads(given[-1])["data"]
    assert decided["chat"] == {"prompt_in_loss": False}
    assert "meta" not in decided
    layered("validate", ["--ckpt_path=logs/version_0", *changes])  # may be measured in another way
    assert "prompt_in_loss" not in capsys.readouterr().err


def test_a_resumed_run_clips_as_it_did_unless_it_is_told_otherwise(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoints.read("logs/version_0")
    assert checkpoint.info["gradient_clip_val"] is None  # as the default recipe has it
    info = {**checkpoint.info, "gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}
    monkeypatch.setattr("xlab.checkpoints.read", lambda path, **_: replace(checkpoint, info=info))
    trainer = resolved(["--ckpt_path=logs/version_0"], capsys)["trainer"]
    assert (trainer["gradient_clip_val"], trainer["gradient_clip_algorithm"]) == (0.5, "value")
    told = resolved(["--ckpt_path=logs/version_0", "--trainer.gradient_clip_val=2"], capsys)["trainer"]
    assert told["gradient_clip_val"] == 2


def resolved(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        run("fit", [*arguments, "--print_config"])
    settings: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return settings
