"""Every model in conf/model/: its real size is the published one, and made small it trains and writes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import ROOT
from tests.tiny import ADAM
from xlab import checkpoints, inference
from xlab.commands.lightning_cli import run
from xlab.interop.families import family_of
from xlab.models import XLabModel
from xlab.setting_names import PARTS, SIZES
from xlab.transformer.unfilled import unfilled

FOLDER = ROOT / "conf" / "model"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# vocabulary, context, and the parameters that the published checkpoints have
PUBLISHED = {
    "gpt2": (50_257, 1024, 124_439_808),
    "llama": (128_256, 131_072, 1_235_814_400),
    "mistral": (32_000, 32_768, 7_241_732_096),
    "qwen2": (151_936, 131_072, 494_032_768),
    "qwen3": (151_936, 40_960, 596_049_920),
    "olmo2": (100_352, 4096, 1_484_916_736),
    "gemma2": (256_000, 8192, 2_614_341_888),
    "pythia": (50_304, 2048, 162_322_944),
}
MODEL_TYPES = {"pythia": "gpt_neox"}


def settings_of(name: str) -> dict[str, Any]:
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert list(content) == ["model"]  # data and training are other files' matter
    settings: dict[str, Any] = content["model"]
    return settings


def small(name: str, max_len: int = 24) -> dict[str, Any]:
    """The model with the same parts, three layers and heads of 8 numbers."""
    settings = settings_of(name) | {"vocab_size": 61, "max_len": max_len, "n_layers": 3, "d_ff": 40}
    settings |= {"d_model": 32, "n_heads": 4}
    if "embedding_scale" in settings:
        settings["embedding_scale"] = 32**0.5
    arguments = settings["attention"].get("init_args", {}) if isinstance(settings["attention"], dict) else {}
    for part in (settings["attention"], settings["position"]):
        if isinstance(part, dict) and "head_dim" in part["init_args"]:
            part["init_args"]["head_dim"] = 16
    if "n_kv_heads" in arguments:
        arguments["n_kv_heads"] = 2
    if "scale" in arguments:
        arguments["scale"] = 16**-0.5
    if "windows" in arguments:
        arguments["windows"] = [window and 7 for window in arguments["windows"]]
    if settings.get("value_mix") is not None:
        settings["value_mix"]["init_args"]["gate_width"] = 8
    return settings


def test_the_known_models_are_all_there() -> None:
    assert {*PUBLISHED, "nanochat", "xlab"} == set(NAMES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_the_published_size_and_configuration(name: str) -> None:
    vocab_size, max_len, n_parameters = PUBLISHED[name]
    settings = settings_of(name) | {"vocab_size": vocab_size, "max_len": max_len}
    with unfilled():
        decoder = checkpoints.build_decoder(settings)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == n_parameters
    assert family_of(MODEL_TYPES.get(name, name)).config(settings)["vocab_size"] == vocab_size


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_is_the_same_over_one_of_other_parts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["-c", str(FOLDER / f"{name}.yaml")]
    over_another = resolved(["-c", str(FOLDER / "nanochat.yaml"), *own], capsys)
    (tmp_path / "defaults.yaml").write_text("trainer: {max_steps: 1}\n")
    monkeypatch.setattr("xlab.commands.layers.conf_folder", lambda: tmp_path)
    assert over_another == resolved(own, capsys)


def resolved(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a run's saved configuration says of the architecture."""
    with pytest.raises(SystemExit):
        run("fit", [*arguments, "--print_config"])
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    return {key: model[key] for key in SIZES + PARTS if key in model}


def test_the_default_model_is_that_of_the_defaults() -> None:
    defaults = yaml.safe_load((ROOT / "conf" / "defaults.yaml").read_text(encoding="utf-8"))["model"]
    defaults = {key: value for key, value in defaults.items() if key not in ("optimizer", "schedule")}
    # over another model it says the more, what the defaults leave to the class
    assert settings_of("xlab") == {**defaults, "logit_cap": None, "initialisation": "GPT2Initialisation"}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model = XLabModel(**small(name), optimizer=ADAM)
    ids = torch.randint(0, 61, (4, 24))
    batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:], "n_bytes": torch.tensor(92)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(4):  # of zero output projections only the last layer learns in the first step
        optimizer.zero_grad()
        loss = model.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_writing_with_a_cache_is_writing_without(name: str) -> None:
    torch.manual_seed(0)
    model = XLabModel(**small(name)).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():  # also what begins with zeros
            parameter.add_(torch.randn_like(parameter) * 0.1)
    prompt = torch.randint(0, 61, (9,))  # longer than the windows
    new = inference.greedy_search(model, prompt, 15, 24)
    ids = prompt
    for token in new:
        logits = model(ids[None])[0, -1]
        assert logits[token] > logits.max() - 1e-4
        ids = torch.cat([ids, token[None]])
    cache = model.make_cache(1)
    stepped = torch.cat([model(ids[None, :5], cache)] + [model(ids[None, i : i + 1], cache) for i in range(5, 24)], 1)
    torch.testing.assert_close(stepped, model(ids[None]), rtol=1e-4, atol=1e-5)


def test_a_model_goes_on_top_of_any_run(tmp_path: Path) -> None:
    from xlab.commands.data_settings import settings_only

    config = settings_only(["-c", str(FOLDER / "gemma2.yaml"), "--data.seq_len=64"]).config["fit"]
    assert config["model"]["attention"]["init_args"]["windows"] == [4096, None]
    assert config["model"]["max_len"] == 64
