"""The model as Lightning trains it: what a step computes, and what a run that was stopped remembers."""

import copy
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.tiny import (
    ADAM,
    LIGHTNING_NOISE,
    SEQ_LEN,
    VOCAB_SIZE,
    Recorder,
    Run,
    make_data,
    make_model,
    make_trainer,
    train,
    write_corpus,
)
from xlab import checkpoint_writing, checkpoints, inference, trusted_classes
from xlab.data.packing import IGNORED, Batch
from xlab.data.sources import TextFiles
from xlab.datamodules import XLabDataModule
from xlab.errors import CheckpointError, ConfigError, DataError
from xlab.models import XLabModel
from xlab.training.schedules import Cosine, Linear
from xlab.transformer.attention import GroupedQueryAttention
from xlab.transformer.decoder import Decoder
from xlab.transformer.norms import LayerNorm

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

GOLDEN = Path(__file__).parent / "training" / "golden_losses.json"
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def short_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen batches an epoch."""
    return write_corpus(tmp_path_factory.mktemp("short") / "corpus.jsonl", n=60)


def weights(model: XLabModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.decoder.state_dict().items()}


def assert_equal_weights(one: XLabModel, two: XLabModel) -> None:
    mine, other = weights(one), weights(two)
    assert mine.keys() == other.keys()
    assert [name for name in mine if not torch.equal(mine[name], other[name])] == []


def ragged(n: int, rows: int = 2, seed: int = 0) -> list[Batch]:
    """Micro-batches in which between one and all of the places count."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for number in range(n):
        inputs = torch.randint(VOCAB_SIZE, (rows, SEQ_LEN), generator=generator)
        targets = torch.randint(VOCAB_SIZE, (rows, SEQ_LEN), generator=generator)
        n_ignored = number * (rows * SEQ_LEN - 1) // max(n - 1, 1)
        targets.view(-1)[torch.randperm(rows * SEQ_LEN, generator=generator)[:n_ignored]] = IGNORED
        batches.append({"inputs": inputs, "targets": targets, "n_bytes": torch.full((rows,), SEQ_LEN)})
    return batches


def joined(batches: Sequence[Batch]) -> Batch:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def mean_loss(decoder: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(decoder(batch["inputs"]).flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED)


def fit(folder: Path, model: XLabModel, batches: Sequence[Batch], **settings: Any) -> Recorder:
    recorder = Recorder()
    trainer = make_trainer(folder, -1, recorder, max_epochs=1, **settings)
    trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return recorder


# --- a step of training


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize(("n", "accumulate"), [(12, 1), (12, 4), (10, 4)])  # the last step of ten takes two
def test_a_step_follows_the_mean_over_all_of_its_tokens(
    tmp_path: Path, n: int, accumulate: int, clip: float | None
) -> None:
    model = make_model(optimizer=SGD, schedule="Constant")
    decoder = copy.deepcopy(model.decoder)
    batches = ragged(n)
    recorder = fit(tmp_path, model, batches, accumulate_grad_batches=accumulate, gradient_clip_val=clip)

    losses = []
    for start in range(0, n, accumulate):
        decoder.zero_grad()
        loss = mean_loss(decoder, joined(batches[start : start + accumulate]))
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(decoder.parameters(), clip)
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter -= 0.5 * parameter.grad
        losses.append(loss.item())
    for name, weight in decoder.state_dict().items():
        # fp32 sums in another order
        torch.testing.assert_close(model.decoder.state_dict()[name], weight, rtol=1e-4, atol=1e-6, msg=name)
    assert recorder.losses == pytest.approx(losses, rel=1e-5)


def test_four_micro_batches_are_one_batch_of_four_times_the_rows(tmp_path: Path) -> None:
    batches = ragged(12)
    small, large = make_model(), make_model()
    fit(tmp_path, small, batches, accumulate_grad_batches=4)
    fit(tmp_path, large, [joined(batches[at : at + 4]) for at in range(0, 12, 4)])
    for name, weight in weights(large).items():
        # fp32 rounding, which Adam's division by tiny second moments magnifies
        torch.testing.assert_close(weights(small)[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_a_batch_with_nothing_to_predict_changes_nothing(tmp_path: Path) -> None:
    batch = ragged(1)[0]
    batch["targets"].fill_(IGNORED)
    model = make_model(optimizer=SGD, schedule="Constant")
    before = weights(model)
    fit(tmp_path, model, [batch])
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())


def test_a_model_learns_a_batch_by_heart(tmp_path: Path, run: Run) -> None:
    batch = next(iter(run.datamodule.val_dataloader()))
    model = make_model(d_model=32, optimizer={"class_path": "AdamW", "init_args": {"lr": 0.02, "weight_decay": 0.0}})
    recorder = fit(tmp_path, model, [batch] * 120)
    assert recorder.losses[0] == pytest.approx(math.log(VOCAB_SIZE), rel=0.1)
    assert recorder.losses[-1] < 0.1
    counted = batch["targets"] != IGNORED
    hits = model.decoder(batch["inputs"]).argmax(-1) == batch["targets"]
    assert hits[counted].float().mean() > 0.98


def test_the_first_losses_are_the_golden_ones(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    recorder = Recorder()
    datamodule = make_data(write_corpus(tmp_path / "corpus.jsonl"))
    make_trainer(tmp_path, 5, recorder).fit(make_model(), datamodule=datamodule)
    assert recorder.losses == pytest.approx(golden["losses"], abs=golden["tolerance"])


def test_weight_decay_and_schedule_reach_the_optimizer(tmp_path: Path) -> None:
    schedule = {"class_path": "Linear", "init_args": {"warmup_steps": 3, "final_factor": 0.2}}
    model = make_model(schedule=schedule)
    recorder = fit(tmp_path, model, ragged(10))
    assert recorder.rates == pytest.approx([0.01 * Linear(10, 3, 0.2)(step) for step in range(10)])
    groups = model.trainer.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert {parameter.ndim for parameter in groups[0]["params"]} == {2}


def test_the_schedule_counts_optimizer_steps_not_micro_batches(tmp_path: Path) -> None:
    recorder = fit(tmp_path, make_model(schedule="Linear"), ragged(8), accumulate_grad_batches=2)
    assert recorder.rates == pytest.approx([0.01 * Linear(4)(at // 2) for at in range(8)])


def test_a_run_without_an_end_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, -1, max_epochs=-1)
    with pytest.raises(ConfigError, match=r"set trainer\.max_steps or max_epochs"):
        trainer.fit(make_model(), DataLoader(ragged(2), batch_size=None))  # type: ignore[arg-type]


# --- evaluation


def by_hand(decoder: Decoder, datamodule: XLabDataModule, split: str) -> dict[str, float]:
    """Loss and bits per byte in float64, from the documents' tokens and their text."""
    store, tokenizer = datamodule.prepared.store(split), datamodule.tokenizer
    texts = [store.document(index).tolist() for index in range(len(store))]
    stream = torch.tensor([token for text in texts for token in text])
    n_windows = math.ceil((len(stream) - 1) / SEQ_LEN)
    padded = torch.full((n_windows * SEQ_LEN + 1,), tokenizer.pad_id)
    padded[: len(stream)] = stream
    with torch.no_grad():
        log_p = decoder(padded[:-1].view(-1, SEQ_LEN)).double().log_softmax(-1).flatten(0, 1)[: len(stream) - 1]
    counted = stream[1:] != tokenizer.sos_id
    nats = -log_p.gather(-1, stream[1:, None])[counted].sum().item()
    n_bytes = sum(len(tokenizer.decode(text).encode()) for text in texts)
    return {"loss": nats / int(counted.sum()), "bits_per_byte": nats / math.log(2) / n_bytes}


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_figures_are_those_of_the_documents(run: Run, tmp_path: Path, split: str) -> None:
    trainer = make_trainer(tmp_path, -1, limit_val_batches=1.0)
    measure = trainer.validate if split == "val" else trainer.test
    logged = measure(run.model, datamodule=run.datamodule, verbose=False)[0]
    for name, value in by_hand(run.model.eval().decoder, run.datamodule, split).items():
        assert logged[f"{split}/{name}"] == pytest.approx(value, rel=1e-5)


def test_a_checkpoint_alone_reproduces_the_figure_that_was_logged(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", n=60)
    trainer = make_trainer(tmp_path, 6, limit_val_batches=1.0, val_check_interval=6)
    trainer.fit(make_model(), datamodule=make_data(corpus))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    exported, _ = checkpoints.export(tmp_path / "a.ckpt", tmp_path)
    for path in (tmp_path / "a.ckpt", exported):
        model, datamodule = XLabModel.load_from_checkpoint(path), XLabDataModule.load_from_checkpoint(path)
        again = make_trainer(tmp_path, -1, limit_val_batches=1.0).validate(model, datamodule=datamodule, verbose=False)
        assert again == [logged]
        assert checkpoints.read(path).info["metrics"]["val/loss"] == logged["val/loss"]


def test_predict_continues_each_document(run: Run, tmp_path: Path) -> None:
    datamodule = XLabDataModule.load_from_checkpoint(run.trained, max_new_tokens=5)
    continued = make_trainer(tmp_path, -1).predict(run.model, datamodule=datamodule)
    assert continued is not None
    assert len(continued) == datamodule.prepared.n_documents("predict")
    assert all(len(ids) <= 5 and datamodule.tokenizer.eos_id not in ids for ids in continued)
    assert any(continued)


def test_a_run_by_hand_learns_something(run: Run) -> None:
    untrained = by_hand(make_model().decoder, run.datamodule, "val")
    assert by_hand(run.model.eval().decoder, run.datamodule, "val")["loss"] < 0.8 * untrained["loss"]


# --- a run that goes on


class Validations(Callback):
    """Remember at which step a validation gave which loss."""

    def __init__(self) -> None:
        self.losses: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.losses.append((trainer.global_step, float(trainer.callback_metrics["val/loss"])))


VALIDATING = {"val_check_interval": 3, "check_val_every_n_epoch": None, "limit_val_batches": 2}


@pytest.mark.parametrize(
    ("settings", "model"),
    [({"accumulate_grad_batches": 2}, {}), ({}, {"dropout": 0.1}), ({"accumulate_grad_batches": 5}, {"dropout": 0.1})],
)
def test_a_validation_in_the_middle_of_a_step_or_under_dropout_resumes_bit_for_bit(
    short_corpus: Path, tmp_path: Path, settings: dict[str, Any], model: dict[str, Any]
) -> None:
    settings = {**VALIDATING, **settings}

    class First(Callback):
        def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
            if not (tmp_path / "a.ckpt").exists():
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    n_steps = 24 // settings.get("accumulate_grad_batches", 1)
    whole, whole_model = Recorder(), make_model(**model)
    trainer = make_trainer(tmp_path, n_steps, whole, First(), **settings)
    trainer.fit(whole_model, datamodule=make_data(short_corpus))

    rest, resumed = Recorder(), make_model(seed=99, **model)
    trainer = make_trainer(tmp_path, n_steps, rest, **settings)
    datamodule = make_data(short_corpus)
    trainer.fit(resumed, datamodule=datamodule, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert rest.losses == whole.losses[-len(rest.losses) :]
    assert_equal_weights(resumed, whole_model)


@pytest.mark.parametrize("stop", [3, 5, 16, 20])  # at a validation, between two, at an epoch's end, in the second
@pytest.mark.parametrize("settings", [{}, VALIDATING, {"accumulate_grad_batches": 2}, {"max_epochs": 2}])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    short_corpus: Path, tmp_path: Path, stop: int, settings: dict[str, Any]
) -> None:
    per_step = settings.get("accumulate_grad_batches", 1)
    n_steps, stop = 24 // per_step, max(stop // per_step, 1)
    if "max_epochs" in settings:  # then Lightning makes the loader before it restores its counters
        n_steps = -1
    whole, whole_validations = Recorder({stop: tmp_path / "a.ckpt"}), Validations()
    model, datamodule = make_model(), make_data(short_corpus)
    make_trainer(tmp_path, n_steps, whole, whole_validations, **settings).fit(model, datamodule=datamodule)

    rest, rest_validations = Recorder(), Validations()
    resumed, datamodule = make_model(seed=99), make_data(short_corpus)
    trainer = make_trainer(tmp_path, n_steps, rest, rest_validations, **settings)
    trainer.fit(resumed, datamodule=datamodule, ckpt_path=tmp_path / "a.ckpt", weights_only=True)

    assert rest.batches == whole.batches[stop * per_step :]
    assert rest.rates == whole.rates[stop * per_step :]
    assert rest.losses == whole.losses[stop:]
    assert rest_validations.losses == [seen for seen in whole_validations.losses if seen[0] > stop]
    assert_equal_weights(resumed, model)


@pytest.mark.parametrize("stop", [6, 15, 18])
def test_a_checkpoint_of_a_validation_resumes_bit_for_bit_too(short_corpus: Path, tmp_path: Path, stop: int) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", monitor="val/loss", save_top_k=-1, save_weights_only=False)
    whole, whole_validations = Recorder(), Validations()
    model = make_model()
    settings = {**VALIDATING, "enable_checkpointing": True}
    make_trainer(tmp_path, 24, whole, whole_validations, keep, **settings).fit(
        model, datamodule=make_data(short_corpus)
    )

    rest, rest_validations = Recorder(), Validations()
    resumed = make_model(seed=99)
    trainer = make_trainer(tmp_path, 24, rest, rest_validations, **VALIDATING)
    path = tmp_path / f"step={stop}.ckpt"
    trainer.fit(resumed, datamodule=make_data(short_corpus), ckpt_path=path, weights_only=True)

    assert rest.batches == whole.batches[stop:]
    assert rest_validations.losses == [seen for seen in whole_validations.losses if seen[0] > stop]
    assert_equal_weights(resumed, model)


def test_a_resumed_run_with_loader_processes_sees_the_same_batches(short_corpus: Path, tmp_path: Path) -> None:
    whole, rest = Recorder({5: tmp_path / "a.ckpt"}), Recorder()
    make_trainer(tmp_path, 20, whole).fit(make_model(), datamodule=make_data(short_corpus))
    trainer = make_trainer(tmp_path, 20, rest)
    datamodule = make_data(short_corpus, num_workers=1)
    trainer.fit(make_model(seed=99), datamodule=datamodule, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert rest.batches == whole.batches[5:]
    assert rest.losses == whole.losses[5:]


def test_epochs_differ_in_order_and_not_in_content(short_corpus: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    make_trainer(tmp_path, 32, recorder).fit(make_model(), datamodule=make_data(short_corpus))
    n = 16
    first, second = recorder.batches[:n], recorder.batches[n : 2 * n]
    assert first != second
    seen = [{tuple(row) for batch in epoch for row in batch} for epoch in (first, second)]
    # an incomplete last batch is dropped, and it is not the same windows each time
    assert len(seen[0] ^ seen[1]) < 2 * 4


def test_a_run_that_is_made_longer_goes_on_at_the_longer_run_s_rate(short_corpus: Path, tmp_path: Path) -> None:
    schedule = {"class_path": "Cosine", "init_args": {"warmup_steps": 2, "final_factor": 0.1}}
    trainer = make_trainer(tmp_path, 10)
    trainer.fit(make_model(schedule=schedule), datamodule=make_data(short_corpus))
    trainer.save_checkpoint(tmp_path / "a.ckpt")

    longer = Recorder()
    trainer = make_trainer(tmp_path, 20, longer)
    model, datamodule = make_model(schedule=schedule), make_data(short_corpus)
    trainer.fit(model, datamodule=datamodule, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert len(longer.rates) == 10
    course = [0.01 * Cosine(20, 2, 0.1)(step) for step in range(10, 20)]
    assert longer.rates[1:] == pytest.approx(course[1:])
    assert longer.rates[0] == pytest.approx(course[0])  # its first step too


# --- settings


def test_the_settings_are_plain_data(run: Run) -> None:
    model = make_model(norm=LayerNorm, optimizer=torch.optim.SGD)
    settings = dict(model.hparams)
    assert json.loads(json.dumps(settings)) == settings
    assert settings["norm"] == {"class_path": "xlab.transformer.norms.LayerNorm"}
    assert settings["d_model"] == 16
    assert isinstance(model.decoder.norm, LayerNorm)


def test_a_training_checkpoint_loads_weights_only(run: Run) -> None:
    whole = torch.load(run.trained, weights_only=True)
    assert whole["xlab"]["model"]["d_model"] == 16
    assert {"optimizer_states", "lr_schedulers", "loops"} <= whole.keys()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attention": lambda d_model, n_heads, layer: None}, r"model\.attention is .*give a class, its path"),
        ({"d_model": 15}, "d_model must be divisible by n_heads, got 15 and 2"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"attention": "MultiHedAttention"}, "did you mean 'MultiHeadAttention'"),
        ({"norm": {"class_path": "RMSNorm", "init_args": {"esp": 1e-5}}}, "no option 'esp'; did you mean 'eps'"),
        ({"n_layers": 0}, "n_layers must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_model(**settings)


@pytest.mark.parametrize(
    "attention",
    [
        {"class_path": "GroupedQueryAttention", "init_args": {"n_kv_heads": 1}},
        "MultiQueryAttention",
        "xlab.transformer.attention.MultiHeadAttention",
    ],
)
@pytest.mark.parametrize("others", [{}, {"norm": LayerNorm, "position": "ALiBi", "block": "PostNormBlock"}])
def test_an_architecture_is_composed_and_survives_a_checkpoint(
    tmp_path: Path, run: Run, attention: Any, others: dict[str, Any]
) -> None:
    model = make_model(attention=attention, tie_embeddings=False, **others).eval()
    tokenizer = run.datamodule.tokenizer.to_json()
    head = checkpoints.header(model=model.hparams, data=run.datamodule.hparams, tokenizer=tokenizer, info={})
    checkpoint_writing.write({"xlab": head, "state_dict": model.state_dict()}, tmp_path / "a.ckpt")
    ids = torch.arange(SEQ_LEN)[None]
    with torch.no_grad():
        assert torch.equal(checkpoints.load(tmp_path / "a.ckpt")[0](ids), model(ids))


OWN_LAYERS = """
from torch import Tensor, nn
from xlab.transformer.attention import Attention, Context


class Average(Attention):
    def __init__(self, d_model: int, n_heads: int, layer_index: int, gain: float = 1.0) -> None:
        super().__init__(d_model, n_heads, layer_index)
        self.gain = gain
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        values = self.value(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        zeros = 0 * values
        return self.gain * self.out(self.attend(zeros, zeros, values, context))
"""


def test_a_user_s_own_class_trains_saves_and_generates(
    short_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_layers.py").write_text(OWN_LAYERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_layers", raising=False)
    monkeypatch.setattr(trusted_classes, "_allowed", set(trusted_classes._allowed))
    model = make_model(attention={"class_path": "my_layers.Average", "init_args": {"gain": 0.5}})
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(model, datamodule=make_data(short_corpus))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="--allow-module my_layers"):
        XLabModel.load_from_checkpoint(tmp_path / "a.ckpt")
    checkpoints.allow_module("my_layers")
    again = XLabModel.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.decoder.blocks[1].attention.gain == 0.5
    assert_equal_weights(again, model)
    prompt = torch.tensor([1, 5, 9])
    greedy = again.eval().generate(prompt, 8, temperature=0)
    # no cache in the loop below: the user's class takes part in the cached one through `attend`
    ids = prompt
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat([ids, again(ids[None])[0, -1].argmax()[None]])
    assert greedy.tolist() == ids[3:].tolist()


def test_a_class_takes_a_factory_s_place(run: Run) -> None:
    model = make_model(attention={"class_path": f"{__name__}.OneKeyHead"})
    assert isinstance(model.decoder.blocks[0].attention, OneKeyHead)
    assert isinstance(make_model(attention=OneKeyHead).decoder.blocks[0].attention, OneKeyHead)


class OneKeyHead(GroupedQueryAttention):
    """A class of the test's own module."""

    def __init__(self, d_model: int, n_heads: int, layer_index: int) -> None:
        super().__init__(d_model, n_heads, layer_index, n_kv_heads=1)


# --- starting from another model, and generating


def test_init_from_starts_with_the_weights_of_a_checkpoint(run: Run, tmp_path: Path) -> None:
    for path in (run.trained, run.exported):
        model = make_model(seed=5, init_from=str(path))
        assert_equal_weights(model, run.model)
        # its own optimiser and schedule start anew
        recorder = fit(tmp_path, model, ragged(3))
        assert recorder.rates[0] == pytest.approx(0.01)


def test_a_run_that_started_from_a_checkpoint_does_not_need_it_any_more(run: Run, tmp_path: Path) -> None:
    start = tmp_path / "start.pt"
    start.write_bytes(run.exported.read_bytes())
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(make_model(init_from=str(start)), datamodule=make_data(run.corpus))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    start.unlink()
    assert XLabModel.load_from_checkpoint(tmp_path / "a.ckpt").hparams["init_from"] is None


def test_init_from_another_shape_is_refused(run: Run) -> None:
    with pytest.raises(CheckpointError, match=r"blocks\.2\..* is missing"):
        make_model(n_layers=3, init_from=str(run.exported))


def test_generate_is_sample(run: Run) -> None:
    model, prompt = run.model.eval(), torch.tensor([1, 40, 50])
    torch.manual_seed(0)
    new = model.generate(prompt, max_new_tokens=12, top_k=20)
    torch.manual_seed(0)
    assert torch.equal(new, inference.sample(model, prompt, 12, SEQ_LEN, top_k=20))
    assert new.shape == (12,)
    assert len(model.generate(prompt)) == 50  # longer than the context: it slides


def test_a_checkpoint_needs_a_tokenizer(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, -1, max_epochs=1)
    trainer.fit(make_model(optimizer=ADAM), DataLoader(ragged(2), batch_size=None))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="train with datamodule=XLabDataModule"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")


def test_plain_text_is_enough_to_train_in_python(tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text("the sea is wide and the ship is small. " * 200)
    datamodule = XLabDataModule(
        source=TextFiles(str(text), section_chars=500), vocab_size=270, seq_len=8, cache_dir=str(tmp_path / "cache")
    )
    model = XLabModel(vocab_size=270, max_len=8, d_model=8, n_layers=1, n_heads=1)
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(model, datamodule=datamodule)
    assert trainer.global_step == 3


def test_a_validation_without_a_target_is_named() -> None:
    model = make_model()
    nothing = {"inputs": torch.zeros(1, 4, dtype=torch.int64), "n_bytes": torch.zeros(1, dtype=torch.int64)}
    model.validation_step({**nothing, "targets": torch.full((1, 4), IGNORED)}, 0)
    with pytest.raises(DataError, match=r"the val batches hold no token to predict; raise trainer\.limit_val_batches"):
        model.on_validation_epoch_end()


def test_a_checkpoint_holds_the_tokenizer_and_not_how_it_was_come_by(run: Run) -> None:
    assert "tokenizer" not in checkpoints.read(run.trained).data
