"""What fit chooses for speed: told in a line, saved with the run, and taken over by whoever reads its settings."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from commands_setup import small

from xlab import checkpoints
from xlab.commands.fast import CompiledAlike, choose, compile_where_it_pays, line, uncompiled_seconds
from xlab.commands.lightning_cli import run
from xlab.commands.trial_settings import settings_of
from xlab.errors import XLabError
from xlab.models import XLabModel
from xlab.training.compiling import EAGER_SHARE, CompiledPass
from xlab.transformer.flops import flops_per_token

UNSAID = {
    "trainer.precision": "null",
    "compile": "auto",
    "model.optimizer": "torch.optim.AdamW",
    "model.optimizer.lr": 0.003,
}


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has bf16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


def newest_run() -> Path:
    return max(Path("logs").glob("version_*"), key=lambda path: int(path.name.partition("_")[2]))


def test_what_is_chosen_is_told_saved_and_gone_on_with(
    bf16: None, there: Path, corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("fit", small(corpus, **UNSAID))
    told = [text for text in capsys.readouterr().err.splitlines() if text.startswith("fast: ")]
    assert len(told) == 1
    assert told[0].startswith("fast: bf16-mixed, fused AdamW, not compiled: a run of about 1 s is over too soon")
    first = newest_run()
    saved = yaml.safe_load((first / "config.yaml").read_text())
    assert saved["trainer"]["precision"] == "bf16-mixed"
    assert saved["model"]["optimizer"]["init_args"]["fused"] is True
    assert saved["compile"] is False
    assert checkpoints.read(first).info["precision"] == "bf16-mixed"
    assert json.loads((first / "run.json").read_text())["precision"] == "bf16-mixed"
    monkeypatch.setattr("xlab.commands.fast.pays", lambda *_, **__: True)  # what was chosen once stays
    more = [
        option
        for option in small(corpus, trainer__max_steps=7)
        if "precision" not in option and "compile" not in option
    ]
    run("fit", [*more, f"--ckpt_path={first}"])
    assert "fast: bf16-mixed, fused AdamW, not compiled\n" in capsys.readouterr().err


def test_compiled_runs_are_told_saved_and_resumed_compiled(
    there: Path, corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[CompiledPass] = []

    def traced(*args: Any, **settings: Any) -> CompiledPass:
        torch._dynamo.reset()
        made.append(CompiledPass(*args, **settings, backend="eager"))
        return made[-1]

    monkeypatch.setattr("xlab.commands.fast.CompiledPass", traced)
    run("fit", small(corpus, compile="true"))
    assert "fused MuonAdamW, compiled\n" in capsys.readouterr().err
    first = newest_run()
    assert yaml.safe_load((first / "config.yaml").read_text())["compile"] is True
    assert checkpoints.read(first / "checkpoints" / "last.ckpt").info["compiled"] is True
    more = [option for option in small(corpus, trainer__max_steps=7) if "compile" not in option]
    run("fit", [*more, f"--ckpt_path={first}"])
    assert "fused MuonAdamW, compiled\n" in capsys.readouterr().err
    assert len(made) == 2
    run("validate", ["-c", str(first / "config.yaml"), f"--ckpt_path={first}"])


@pytest.mark.parametrize(
    ("precision", "says"),
    [("16-mixed", "a processor trains in no fp16"), ("transformer-engine", "fp8"), ("bf16-mixed", "no instructions")],
)
def test_a_precision_that_the_processor_lacks_is_one_line(
    there: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, precision: str, says: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    before = set(Path("logs").iterdir())
    with pytest.raises(XLabError, match=says):
        run("fit", small(corpus, **{"trainer.accelerator": "cpu", "trainer.precision": precision}))
    assert set(Path("logs").iterdir()) == before


def test_whoever_reads_the_settings_reads_what_was_chosen(bf16: None, there: Path, corpus: Path) -> None:
    settings = settings_of(small(corpus, **UNSAID))
    assert settings["trainer"]["precision"] == "bf16-mixed"
    assert settings["model"]["optimizer"]["init_args"]["fused"] is True
    assert settings["compile"] == "auto"  # each trial has its own length


def chosen(monkeypatch: pytest.MonkeyPatch, trainer: dict[str, Any], optimizer: Any, **more: Any) -> dict[str, Any]:
    trainer = {"accelerator": "cpu", "precision": "32-true", "plugins": None, **trainer}
    config = {"trainer": trainer, "model": {"optimizer": optimizer}, **more}
    choose(config)
    return config


def test_what_the_user_says_stays(bf16: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(kind: str, **arguments: Any) -> Any:
        optimizer = {"class_path": kind, "init_args": {"fused": None, **arguments}}
        return chosen(monkeypatch, {}, optimizer)["model"]["optimizer"]["init_args"]["fused"]

    assert fused("torch.optim.AdamW") is fused("torch.optim.sgd.SGD") is True
    assert fused("torch.optim.AdamW", fused=False) is False
    assert fused("torch.optim.AdamW", foreach=True) is None
    assert fused("torch.optim.Adagrad") is fused("mine.AdamW") is None
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"fused": None}}
    resumed = chosen(monkeypatch, {}, optimizer, ckpt_path="logs/version_0")
    assert resumed["model"]["optimizer"]["init_args"]["fused"] is None
    assert chosen(monkeypatch, {"precision": "64-true"}, None)["trainer"]["precision"] == "64-true"
    assert chosen(monkeypatch, {"precision": None}, None)["trainer"]["precision"] == "bf16-mixed"
    plugin = {"class_path": "lightning.pytorch.plugins.MixedPrecision"}
    assert chosen(monkeypatch, {"precision": None, "plugins": [plugin]}, None)["trainer"]["precision"] is None
    unknown = chosen(monkeypatch, {"precision": None, "accelerator": "tpu"}, None)
    assert unknown["trainer"]["precision"] is None


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_steps": 40, "max_epochs": -1}, 40),
        ({"max_steps": -1, "max_epochs": 2}, 2 * 12 / 3),
        ({"max_steps": 5, "max_epochs": 2}, 5),
        ({"max_steps": -1, "max_epochs": 1, "limit_train_batches": 6}, 2),
        ({"max_steps": -1, "max_epochs": 1, "limit_train_batches": 0.5}, 2),
    ],
)
def test_the_length_of_a_run(limits: dict[str, Any], steps: float) -> None:
    from tests.tiny import make_model

    settings = {"seq_len": 16, "batch_size": 4, "packing": "ContiguousWindows"}
    data: Any = SimpleNamespace(hparams=settings, windows=lambda split: range(50))
    own = {"limit_train_batches": 1.0, "accumulate_grad_batches": 3, "world_size": 1, "callbacks": [], **limits}
    trainer: Any = SimpleNamespace(**own)
    model = make_model()
    flops = steps * 3 * 4 * 16 * flops_per_token(model.decoder, 16)
    assert uncompiled_seconds(trainer, model, data, 1e9) == pytest.approx(flops / (1e9 * EAGER_SHARE))


def test_a_step_of_one_s_own_is_not_compiled() -> None:
    from tests.tiny import make_model

    class Own(XLabModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx)

    nothing: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    model = make_model()
    model.__class__ = Own
    reason = compile_where_it_pays(True, nothing, model, nothing, nothing)
    assert reason == "Own has a training_step of its own"
    assert not model.training_pass.is_compiled


def test_the_line() -> None:
    adam = {"class_path": "torch.optim.adamw.AdamW", "init_args": {"fused": True}}
    assert line("bf16-mixed", adam, compiled=True, reason=None) == "fast: bf16-mixed, fused AdamW, compiled"
    own = line("32-true", "mine.Own", compiled=False, reason="there is no C++ compiler; install g++")
    assert own == "fast: 32-true, Own, not compiled: there is no C++ compiler; install g++"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*deprecated")  # inductor's own imports
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_ranks_compile_as_the_first_does(first: bool, own: bool) -> None:
    data: Any = SimpleNamespace(hparams={"packing": "ContiguousWindows"})
    model = XLabModel(vocab_size=11, max_len=8, d_model=8, n_layers=1, n_heads=1)
    if own:
        model.training_pass = CompiledPass(model.decoder, model.objective)
    asked = []
    strategy = SimpleNamespace(broadcast=lambda found: asked.append(found) or first)
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    CompiledAlike(data).on_fit_start(trainer, model)
    assert asked == [own]
    assert model.training_pass.is_compiled is first
    alone: Any = SimpleNamespace(world_size=1, strategy=None)
    CompiledAlike(data).on_fit_start(alone, model)
