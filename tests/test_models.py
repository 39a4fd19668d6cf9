"""The model as Lightning trains it: what a step computes, and what is measured."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
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
from tests.tiny_runs import fit, joined, ragged, weights
from xlab import checkpoints, inference
from xlab.data.packing import IGNORED, Batch
from xlab.data.sources import TextFiles
from xlab.datamodules import XLabDataModule
from xlab.errors import ConfigError, DataError
from xlab.models import XLabModel
from xlab.training.schedules import Linear
from xlab.transformer.decoder import Decoder

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


def mean_loss(decoder: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(decoder(batch["inputs"]).flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED)


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


# --- generating, and what a run needs beside a model


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
