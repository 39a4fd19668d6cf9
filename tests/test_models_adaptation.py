"""Training a part of a model, corrections of it, or experts: what moves, what is saved, and what resumes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.tiny import LIGHTNING_NOISE, VOCAB_SIZE, Recorder, make_data, make_model, make_trainer, write_corpus
from tests.tiny_runs import VALIDATING, assert_equal_weights, fit, joined, ragged, weights
from xlab import checkpoints, inference
from xlab.errors import CheckpointError, ConfigError
from xlab.models import XLabModel
from xlab.transformer.lora import LoRALinear

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

LORA = {"class_path": "LoRA", "init_args": {"rank": 2, "dropout": 0.1}}
EXPERTS = {
    "class_path": "MixtureOfExperts",
    "init_args": {"n_experts": 4, "capacity_factor": 1.0, "balance": 0.5, "z": 0.1},
}
MUP = {"class_path": "MuPInitialisation", "init_args": {"base_width": 8}}
IDS = torch.randint(VOCAB_SIZE, (2, 16), generator=torch.Generator().manual_seed(0))
WAYS: dict[str, dict[str, Any]] = {
    "frozen": {"freeze": ["embedding*", "blocks.0.*"], "learning_rates": {"*norm*": 0.1}},
    "lora": {"lora": LORA, "learning_rates": {"*.lora_b": 4.0}},
    "experts": {"feed_forward": EXPERTS, "dropout": 0.1},
    "mup": {"initialisation": MUP, "tie_embeddings": False},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("adapted") / "corpus.jsonl", n=60)


class Figures(Recorder):
    """Also what was logged of each optimiser step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        n_steps = len(self.losses)
        super().on_train_batch_end(trainer, *args)
        if len(self.losses) > n_steps:
            self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


# --- frozen, and at rates of their own


def test_what_is_frozen_stays_and_has_no_state(tmp_path: Path) -> None:
    model = make_model(freeze=["embedding*", "blocks.0.*"])
    before = weights(model)
    fit(tmp_path, model, ragged(6))
    for name, weight in weights(model).items():
        is_frozen = name.startswith(("embedding", "blocks.0."))
        assert torch.equal(weight, before[name]) == is_frozen, name
    held = {id(parameter) for group in model.trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(model.trainer.optimizers[0].state) == len(held)
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)


def test_a_rate_of_its_own_is_followed_by_the_schedule(tmp_path: Path) -> None:
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}
    patterns = {"embedding*": 0.25}
    model = make_model(optimizer=sgd, schedule="Linear", learning_rates=patterns)
    decoder = copy.deepcopy(model.decoder)
    batches = ragged(4)
    recorder = Figures()
    trainer = make_trainer(tmp_path, -1, recorder, max_epochs=1)
    trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    for step, batch in enumerate(batches):
        decoder.zero_grad()
        torch.nn.functional.cross_entropy(
            decoder(batch["inputs"]).flatten(0, 1), batch["targets"].flatten(), ignore_index=-100
        ).backward()
        with torch.no_grad():
            for name, parameter in decoder.named_parameters():
                parameter -= 0.5 * (1 - step / 4) * (0.25 if name.startswith("embedding") else 1.0) * parameter.grad
    for name, weight in decoder.state_dict().items():
        torch.testing.assert_close(model.decoder.state_dict()[name], weight, rtol=1e-4, atol=1e-6, msg=name)
    assert [step["lr"] for step in recorder.logged] == pytest.approx([0.5 * (1 - step / 4) for step in range(4)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": ["blocks.9.*"]}, "'blocks.9.*' matches no parameter"),
        ({"freeze": ["*"]}, "leaves nothing to train"),
        ({"learning_rates": {"emb": 2.0}}, "'emb' matches no trained parameter; the nearest are embedding.weight"),
        ({"lora": LORA, "learning_rates": {"embedding*": 2.0}}, "matches no trained parameter"),
        ({"lora": {"class_path": "LoRA", "init_args": {"targets": ["*.up"]}}}, "names no projection"),
        ({"lora": {"class_path": "LoRA", "init_args": {"ranks": 2}}}, "no option 'ranks'; did you mean 'rank'"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_the_model_is_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_model(**settings)
    assert message in str(caught.value)


# --- resuming


@pytest.mark.parametrize("stop", [4, 11])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_run_is_the_uninterrupted_one(
    corpus: Path, tmp_path: Path, way: str, stop: int, accumulated: int
) -> None:
    settings = {**VALIDATING, "accumulate_grad_batches": accumulated}
    n_steps, stop = 16 // accumulated, stop // accumulated
    whole, model = Figures({stop: tmp_path / "a.ckpt"}), make_model(**WAYS[way])
    make_trainer(tmp_path, n_steps, whole, **settings).fit(model, datamodule=make_data(corpus))
    rest, resumed = Figures(), make_model(seed=99, **WAYS[way])
    trainer = make_trainer(tmp_path, n_steps, rest, **settings)
    trainer.fit(resumed, datamodule=make_data(corpus), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert rest.losses == whole.losses[stop:]
    assert rest.rates == whole.rates[stop * accumulated :]
    for one, two in zip(rest.logged, whole.logged[stop:], strict=True):
        assert {name: one[name] for name in one if name.startswith("train/")} == {
            name: two[name] for name in two if name.startswith("train/")
        }
    assert_equal_weights(resumed, model)


@pytest.mark.parametrize("way", ["experts", "lora"])
def test_so_is_one_that_was_saved_amid_a_step(corpus: Path, tmp_path: Path, way: str) -> None:
    settings = {**VALIDATING, "accumulate_grad_batches": 2}  # validated after every third micro-batch

    class First(Callback):
        def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
            if not (tmp_path / "a.ckpt").exists():
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    whole, model = Figures(), make_model(**WAYS[way])
    make_trainer(tmp_path, 6, whole, First(), **settings).fit(model, datamodule=make_data(corpus))
    rest, resumed = Figures(), make_model(seed=99, **WAYS[way])
    trainer = make_trainer(tmp_path, 6, rest, **settings)
    trainer.fit(resumed, datamodule=make_data(corpus), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    ours, theirs = (
        [{name: step[name] for name in step if name.startswith("train/")} for step in logged]
        for logged in (rest.logged, whole.logged[-len(rest.logged) :])
    )
    assert len(ours) == 5
    assert ours == theirs
    assert_equal_weights(resumed, model)


# --- low-rank corrections


@pytest.fixture(scope="module")
def adapted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[XLabModel, Path]:
    """A model whose corrections were trained for some steps, and its checkpoint."""
    folder = tmp_path_factory.mktemp("lora")
    model = make_model(lora=LORA, learning_rates={"*.lora_b": 4.0})
    trainer = make_trainer(folder, 12)
    trainer.fit(model, datamodule=make_data(corpus))
    trainer.save_checkpoint(folder / "a.ckpt")
    return model.eval(), folder / "a.ckpt"


def test_only_corrections_learn_and_they_do(adapted: tuple[XLabModel, Path]) -> None:
    model, _ = adapted
    start = make_model().decoder.state_dict()
    for name, weight in model.decoder.state_dict().items():
        if name.endswith("lora_b"):
            assert weight.abs().max() > 0.01
        elif not name.endswith("lora_a"):
            assert torch.equal(weight, start[name]), name
    assert len(model.trainer.optimizers[0].state) == 8


def test_wherever_it_is_loaded_the_corrections_are_merged(adapted: tuple[XLabModel, Path], tmp_path: Path) -> None:
    model, path = adapted
    exported, _ = checkpoints.export(path, tmp_path)
    expected = model(IDS)
    decoder, _ = checkpoints.load(path)
    started = make_model(init_from=str(path), seed=5)
    again = [XLabModel.load_from_checkpoint(source) for source in (path, exported)]
    for found in (decoder, checkpoints.load(exported)[0], started, *again):
        torch.testing.assert_close(found.eval()(IDS), expected, rtol=1e-4, atol=1e-6)
        assert not any(isinstance(part, LoRALinear) for part in found.modules())
    assert not torch.allclose(make_model()(IDS), expected, atol=1e-4)


def test_an_export_knows_nothing_of_corrections(adapted: tuple[XLabModel, Path], tmp_path: Path) -> None:
    _, path = adapted
    exported, was_there = checkpoints.export(path, tmp_path)
    checkpoint = checkpoints.read(exported)
    assert {checkpoint.model[name] for name in ("lora", "freeze", "learning_rates")} == {None}
    assert checkpoint.weights.keys() == make_model().decoder.state_dict().keys()
    assert not was_there
    assert checkpoints.export(path, tmp_path) == (exported, True)
    assert checkpoints.read(path).model["lora"] == LORA  # the run itself goes on with them


def test_a_model_that_is_being_adapted_can_write(adapted: tuple[XLabModel, Path]) -> None:
    model, path = adapted
    merged = XLabModel.load_from_checkpoint(path).eval()
    ours, theirs = (inference.greedy_search(one, IDS[0, :4], 6, 16) for one in (model, merged))
    assert ours.tolist() == theirs.tolist()


def test_settings_that_are_no_lora_are_refused(adapted: tuple[XLabModel, Path], tmp_path: Path) -> None:
    content = torch.load(adapted[1], weights_only=True)
    for wrong in ({"class_path": "xlab.transformer.norms.RMSNorm", "init_args": {"d_model": 3}}, 3):
        content["xlab"]["model"]["lora"] = wrong
        torch.save(content, tmp_path / "wrong.ckpt")
        with pytest.raises(CheckpointError, match=r"its model\.lora is"):
            checkpoints.load(tmp_path / "wrong.ckpt")


@pytest.mark.parametrize("value", ["os.system", {"class_path": "os.system"}])
def test_what_stands_where_a_rate_should_is_refused(
    adapted: tuple[XLabModel, Path], tmp_path: Path, value: Any
) -> None:
    content = torch.load(adapted[1], weights_only=True)
    content["xlab"]["model"]["learning_rates"] = {"blocks.class_path": value}
    torch.save(content, tmp_path / "wrong.ckpt")
    with pytest.raises(CheckpointError, match=r"no number for learning_rates\.blocks\.class_path"):
        checkpoints.read(tmp_path / "wrong.ckpt")


# --- experts


def test_the_balance_of_experts_is_part_of_what_is_minimised_but_not_of_the_loss(tmp_path: Path) -> None:
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}
    model = make_model(optimizer=sgd, schedule="Constant", feed_forward=EXPERTS)
    decoder = copy.deepcopy(model.decoder)
    batch = joined(ragged(2))
    recorder = Figures()
    trainer = make_trainer(tmp_path, -1, recorder, max_epochs=1)
    trainer.fit(model, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    loss = torch.nn.functional.cross_entropy(
        decoder(batch["inputs"]).flatten(0, 1), batch["targets"].flatten(), ignore_index=-100
    )
    routings = [block.feed_forward.take_routing() for block in decoder.blocks]  # type: ignore[operator]
    total: Tensor = loss + sum(routing.loss for routing in routings)
    total.backward()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter -= 0.5 * parameter.grad
    for name, weight in decoder.state_dict().items():
        torch.testing.assert_close(model.decoder.state_dict()[name], weight, rtol=1e-4, atol=1e-6, msg=name)
    logged = recorder.logged[0]
    assert logged["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert logged["train/balance_loss"] == pytest.approx(sum(float(r.balance) for r in routings) / 2, rel=1e-5)
    assert logged["train/dropped_tokens"] == pytest.approx(sum(float(r.dropped) for r in routings) / 2, rel=1e-5)
    assert 0 < logged["train/dropped_tokens"] < 1


def test_micro_batches_count_by_their_tokens(tmp_path: Path) -> None:
    batches = ragged(4)
    model = make_model(feed_forward=EXPERTS, optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-9}})
    decoder = copy.deepcopy(model.decoder)
    recorder = Figures()
    trainer = make_trainer(tmp_path, -1, recorder, max_epochs=1, accumulate_grad_batches=4)
    trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    total = tokens = 0.0
    for batch in batches:
        decoder(batch["inputs"])
        n = int((batch["targets"] != -100).sum())
        balances = [float(block.feed_forward.take_routing().balance) for block in decoder.blocks]  # type: ignore
        total, tokens = total + n * sum(balances) / 2, tokens + n
    assert recorder.logged[0]["train/balance_loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_without_experts_nothing_of_them_is_logged(tmp_path: Path) -> None:
    recorder = Figures()
    make_trainer(tmp_path, -1, recorder, max_epochs=1).fit(make_model(), DataLoader(ragged(2), batch_size=None))  # type: ignore[arg-type]
    assert not {name for name in recorder.logged[0] if "balance" in name or "dropped" in name}


def test_experts_survive_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    model = make_model(feed_forward=EXPERTS)
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(model, datamodule=make_data(corpus))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    exported, _ = checkpoints.export(tmp_path / "a.ckpt", tmp_path)
    for path in (tmp_path / "a.ckpt", exported):
        torch.testing.assert_close(checkpoints.load(path)[0](IDS), model.eval()(IDS), rtol=0, atol=0)
