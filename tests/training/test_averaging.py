"""What is validated, saved and exported is the average; what learns on are the weights themselves, bit for bit."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from tests.tiny import LIGHTNING_NOISE, Recorder, make_data, make_model, make_trainer, write_corpus
from xlab import checkpoints
from xlab.errors import CheckpointError, ConfigError
from xlab.models import XLabModel
from xlab.training.ema import EMA

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

FREE = {
    "class_path": "xlab.training.schedule_free.ScheduleFreeAdamW",
    "init_args": {"lr": 0.02, "weight_decay": 0.1},
}
CONSTANT = {"class_path": "Constant", "init_args": {"warmup_steps": 2}}
VALIDATING = {"limit_val_batches": 2, "val_check_interval": 3, "check_val_every_n_epoch": None}


class Seen(Callback):
    """Remember the weights at each step's end and in each validation, and what the validation gave."""

    def __init__(self, save_validated: Path | None = None) -> None:
        self._save_validated = save_validated
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []
        self.figures: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.trained.append(copied(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated.append(copied(pl_module))
        self.figures.append(float(trainer.callback_metrics["val/loss"]))
        if self._save_validated is not None and len(self.figures) == 1:
            trainer.save_checkpoint(self._save_validated)


def copied(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def schedule_free() -> dict[str, Any]:
    pytest.importorskip("schedulefree", reason="schedule-free AdamW is an extra")
    return {"optimizer": FREE, "schedule": CONSTANT}


def settings_of(kind: str) -> tuple[dict[str, Any], Callable[[], list[Callback]]]:
    return ({}, lambda: [EMA(0.8)]) if kind == "ema" else (schedule_free(), list)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("averaging") / "corpus.jsonl", 60)


def test_the_average_is_the_formula_s(corpus: Path, tmp_path: Path) -> None:
    model, seen = make_model(), Seen()
    start = copied(model)
    made = make_trainer(tmp_path, 7, EMA(0.3), seen, accumulate_grad_batches=2, **VALIDATING)
    made.fit(model, datamodule=make_data(corpus))
    expected = {name: weight.double() for name, weight in start.items()}
    for step, weights in enumerate(seen.trained[1::2]):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * weights[name].double() for name in expected}
    for name, weight in copied(model).items():  # after training the model is the average
        torch.testing.assert_close(weight.double(), expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ema", "schedule_free"])
def test_averaging_changes_nothing_of_what_is_learnt_and_all_of_what_is_kept(
    kind: str, corpus: Path, tmp_path: Path
) -> None:
    settings, callbacks = settings_of(kind)
    often, seldom = Seen(), Seen()
    model = make_model(**settings)
    trainer = make_trainer(tmp_path, 7, *callbacks(), often, **VALIDATING)
    trainer.fit(model, datamodule=make_data(corpus))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    make_trainer(tmp_path, 7, *callbacks(), seldom).fit(make_model(**settings), datamodule=make_data(corpus))
    for one, two in zip(often.trained, seldom.trained, strict=True):  # validations leave no trace
        assert_equal(one, two)
    for step, validated in zip((2, 5), often.validated, strict=True):
        assert not torch.equal(validated["decoder.embedding.weight"], often.trained[step]["decoder.embedding.weight"])

    exported, _ = checkpoints.export(tmp_path / "a.ckpt", tmp_path / "exports")
    weights = {"decoder." + name: weight for name, weight in checkpoints.read(exported).weights.items()}
    assert_equal(copied(model), weights)
    assert_equal(copied(XLabModel.load_from_checkpoint(str(tmp_path / "a.ckpt"))), weights)


@pytest.mark.parametrize("kind", ["ema", "schedule_free"])
@pytest.mark.parametrize(("stop", "in_validation"), [(3, True), (3, False), (4, False)])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    kind: str, stop: int, in_validation: bool, corpus: Path, tmp_path: Path
) -> None:
    settings, callbacks = settings_of(kind)
    path = tmp_path / "a.ckpt"
    # the recorder before the average: a checkpoint may be asked for before it has taken in the step
    whole, rest = Recorder({} if in_validation else {stop: path}), Recorder()
    seen, later = Seen(path if in_validation else None), Seen()
    model, resumed = make_model(**settings), make_model(seed=9, **settings)
    trainer = make_trainer(tmp_path, 8, whole, *callbacks(), seen, **VALIDATING)
    trainer.fit(model, datamodule=make_data(corpus))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    again = make_trainer(tmp_path, 8, rest, *callbacks(), later, **VALIDATING)
    again.fit(resumed, datamodule=make_data(corpus), ckpt_path=path, weights_only=True)
    assert rest.losses == whole.losses[stop:]
    assert later.figures[-1] == seen.figures[-1]
    for one, two in zip(later.trained, seen.trained[stop:], strict=True):
        assert_equal(one, two)
    assert_equal(copied(model), copied(resumed))
    # what is saved after the end goes on from the trained weights, too
    assert_equal(torch.load(tmp_path / "end.ckpt", weights_only=True)["trained_weights"], seen.trained[-1])


def test_frozen_weights_are_not_averaged(corpus: Path, tmp_path: Path) -> None:
    model = make_model(freeze=["blocks.0.*"])
    trainer = make_trainer(tmp_path, 3, EMA())
    trainer.fit(model, datamodule=make_data(corpus))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert not any(".blocks.0." in name for name in kept["trained_weights"])
    assert kept["state_dict"].keys() == model.state_dict().keys()


def test_bf16_weights_have_an_average_in_fp32_that_a_checkpoint_holds(corpus: Path, tmp_path: Path) -> None:
    whole, rest = EMA(0.999), EMA(0.999)
    model, saving = make_model(), Recorder({4: tmp_path / "a.ckpt"})
    make_trainer(tmp_path, 6, whole, saving, precision="bf16-true").fit(model, datamodule=make_data(corpus))
    again = make_trainer(tmp_path, 6, rest, precision="bf16-true")
    again.fit(make_model(), datamodule=make_data(corpus), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert {average.dtype for average in whole._average.values()} == {torch.float32}
    assert_equal(whole._average, rest._average)


def test_a_run_that_averaged_is_not_resumed_by_one_that_does_not(corpus: Path, tmp_path: Path) -> None:
    make_trainer(tmp_path, 3, EMA(), Recorder({2: tmp_path / "a.ckpt"})).fit(make_model(), datamodule=make_data(corpus))
    with pytest.raises(CheckpointError, match=r"averaged its weights; resume it with the same -c files"):
        make_trainer(tmp_path, 3).fit(
            make_model(), datamodule=make_data(corpus), ckpt_path=tmp_path / "a.ckpt", weights_only=True
        )


def test_an_average_may_begin_where_a_run_without_one_is_resumed(corpus: Path, tmp_path: Path) -> None:
    make_trainer(tmp_path, 3, Recorder({2: tmp_path / "a.ckpt"})).fit(make_model(), datamodule=make_data(corpus))
    average = EMA()
    trainer = make_trainer(tmp_path, 3, average)
    trainer.fit(make_model(), datamodule=make_data(corpus), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert average._steps == 3


def test_two_averages_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"EMA and model\.optimizer would each average the weights"):
        make_trainer(tmp_path, 3, EMA()).fit(make_model(**schedule_free()), datamodule=make_data(corpus))


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=f"EMA's decay must be between 0 and 1, got {decay}"):
        EMA(decay)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from xlab.training.schedule_free import ScheduleFreeAdamW

    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(
        ConfigError, match=r"needs the package schedulefree; install it with: pip install 'schedulefree"
    ):
        ScheduleFreeAdamW([{"params": [torch.zeros(2, requires_grad=True)]}])


def test_it_is_the_package_s_optimizer() -> None:
    package = pytest.importorskip("schedulefree", reason="schedule-free AdamW is an extra")
    from xlab.training.schedule_free import ScheduleFreeAdamW

    start = torch.randn(4, 3)
    own, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    ours = ScheduleFreeAdamW([{"params": [own]}], lr=0.1, weight_decay=0.1)
    reference = package.AdamWScheduleFree([theirs], lr=0.1, weight_decay=0.1)
    reference.train()
    for seed in range(4):
        gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        own.grad, theirs.grad = gradient.clone(), gradient.clone()
        ours.step()
        reference.step()
    assert torch.equal(own, theirs)
    ours.eval()
    reference.eval()
    assert torch.equal(own, theirs)
