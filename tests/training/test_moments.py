"""A run that goes on from a checkpoint is the run that was not stopped."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.tiny import LIGHTNING_NOISE, Recorder, make_data, make_model, make_trainer, write_corpus
from tests.tiny_runs import VALIDATING, assert_equal_weights
from xlab.training.schedules import Cosine

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="module")
def short_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen batches an epoch."""
    return write_corpus(tmp_path_factory.mktemp("short") / "corpus.jsonl", n=60)


class Validations(Callback):
    """Remember at which step a validation gave which loss."""

    def __init__(self) -> None:
        self.losses: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.losses.append((trainer.global_step, float(trainer.callback_metrics["val/loss"])))


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
