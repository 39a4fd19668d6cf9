"""Steps, epochs and validations as they are reckoned are those that Lightning then makes."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from tiny import LIGHTNING_NOISE, make_data, make_model, make_trainer, write_corpus

from xlab.data.packing import OneDocument, TokenBudget
from xlab.lab.plan_course import Settings, make_course
from xlab.lab.plan_data import data_plan
from xlab.lab.plan_time import Spread, StepTimes
from xlab.training.callbacks import ValidateAtEnd

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

EVERY = {"val_check_interval": None, "check_val_every_n_epoch": None, "limit_val_batches": 1.0}


class Counter(Callback):
    """Count validations, and their batches."""

    validations = batches = 0

    def on_validation_epoch_end(self, *_: Any) -> None:
        self.validations += 1

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.batches += 1


@pytest.mark.parametrize(
    ("trainer", "data"),
    [
        ({"max_steps": 7, "val_check_interval": 3}, {}),
        ({"max_steps": 6, "val_check_interval": 3}, {}),
        ({"max_steps": 5, "val_check_interval": 4, "accumulate_grad_batches": 3}, {}),
        ({"max_steps": -1, "max_epochs": 1, "val_check_interval": 10, "limit_train_batches": 25}, {}),
        ({"max_steps": -1, "max_epochs": 2, "check_val_every_n_epoch": 1, "limit_train_batches": 0.2}, {}),
        (
            {
                "max_steps": -1,
                "max_epochs": 2,
                "check_val_every_n_epoch": 1,
                "val_check_interval": 0.5,
                "accumulate_grad_batches": 2,
            },
            {"batch_size": 16},
        ),
        ({"max_steps": 9, "val_check_interval": 4, "limit_val_batches": 2}, {"packing": OneDocument()}),
        ({"max_steps": 9, "val_check_interval": 4, "limit_val_batches": 0.5}, {"packing": TokenBudget(max_tokens=64)}),
        ({"max_steps": 4, "limit_val_batches": 0}, {}),
    ],
)
def test_it_is_what_lightning_does(tmp_path: Path, trainer: dict[str, Any], data: dict[str, Any]) -> None:
    datamodule = make_data(write_corpus(tmp_path / "corpus.jsonl"), **data)
    datamodule.prepare_data()
    settings = Settings(
        [], dict(make_model().hparams), {**EVERY, **trainer}, make_data(tmp_path / "corpus.jsonl", **data)
    )
    course = make_course(settings, data_plan(settings.datamodule, tmp_path), None)
    counter = Counter()
    max_steps = trainer["max_steps"]
    others = {key: value for key, value in {**EVERY, **trainer}.items() if key != "max_steps"}
    made = make_trainer(tmp_path, max_steps, counter, ValidateAtEnd(), **others)
    made.fit(make_model(), datamodule=datamodule)
    assert made.global_step == course.steps == course.scheduled_steps
    assert counter.validations == course.validations
    assert course.validation_batches is not None
    assert counter.batches == counter.validations * course.validation_batches
    assert course.epochs is not None
    assert made.fit_loop.epoch_progress.current.completed == int(course.epochs) or trainer["max_steps"] > 0


def settings(tmp_path: Path, **trainer: Any) -> Settings:
    datamodule = make_data(write_corpus(tmp_path / "corpus.jsonl"))
    return Settings([], dict(make_model().hparams), {"max_steps": 1000, **EVERY, **trainer}, datamodule)


def test_ranks_multiply_the_tokens_of_a_step(tmp_path: Path) -> None:
    for devices, ranks in ((1, 1), (3, 3), ("2", 2), ("0,2,3", 3), ([0, 1], 2)):
        given = settings(tmp_path, devices=devices, accelerator="cpu", accumulate_grad_batches=5)
        assert make_course(given, data_plan(given.datamodule, tmp_path), None).tokens_per_step == ranks * 5 * 4 * 16
    auto = settings(tmp_path, devices="auto", accelerator="cpu", num_nodes=2)
    assert auto.world_size == 2


@pytest.mark.parametrize("limit", ["00:00:00:10", {"seconds": 10}])
def test_time_ends_a_run(tmp_path: Path, limit: Any) -> None:
    step = Spread(0.1, 0.1, 0.1, 5)
    times = StepTimes(step, 64, Spread(0.05, 0.05, 0.05, 5), 0.0, 1000, 1.0, None, "cpu", 1)
    given = settings(tmp_path, max_time=limit, limit_val_batches=10, val_check_interval=10)
    course = make_course(given, data_plan(given.datamodule, tmp_path), times)
    assert course.scheduled_steps == 1000
    assert course.steps == 66  # 10 steps of 0.1 s and a validation of 10 batches of 0.05 s take 1.5 s
    assert course.validations == 7  # with the one at its end


def test_a_run_without_an_end_has_no_steps(tmp_path: Path) -> None:
    given = settings(tmp_path, max_steps=-1)
    course = make_course(given, data_plan(given.datamodule, tmp_path), None)
    assert (course.steps, course.tokens, course.epochs, course.validations) == (None, None, None, None)
