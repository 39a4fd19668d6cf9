"""Each rule of the lint finds what it is there for, says a value and a remedy, and is silent on a sound run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import ADAM, LIGHTNING_NOISE, SEQ_LEN, VOCAB_SIZE, Run, make_data, train, write_corpus

from xlab.data.packing import BestFit, ContiguousWindows, OneDocument
from xlab.datamodules import Splits
from xlab.lab.plan import Plan, make_plan
from xlab.lab.plan_course import Settings
from xlab.lab.plan_data import DataPlan, SplitSize
from xlab.lab.plan_lint import Finding, lint
from xlab.lab.plan_memory import StepMemory
from xlab.lab.plan_time import Spread, StepTimes

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

MODEL = {
    **{"vocab_size": VOCAB_SIZE, "max_len": SEQ_LEN, "d_model": 16, "n_layers": 2, "n_heads": 2, "dropout": 0.0},
    **{"attention": "MultiHeadAttention", "norm": "RMSNorm", "feed_forward": "SwiGLU", "position": "RotaryPosition"},
    **{"block": "PreNormBlock", "objective": "NextToken", "optimizer": ADAM, "schedule": "Cosine"},
}
TRAINER = {"max_steps": 100, "val_check_interval": 20, "check_val_every_n_epoch": None}
# as if it were prepared: sound in every respect
DATA = DataPlan("prepared", "", {"train": SplitSize(50_000, 150_000, 3125, 0.0), "val": SplitSize(800, 2400, 50, 0.0)})


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("trained"), max_steps=2)


def plan(
    corpus: Path,
    *,
    model: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    data: DataPlan = DATA,
    times: StepTimes | None = None,
    **settings: Any,
) -> Plan:
    """Plan a small run as if its data were ``data``, and its steps had taken ``times``."""
    datamodule = make_data(corpus, **{"prompt_len": 4, "max_new_tokens": 4, **settings})
    own = {**TRAINER, "default_root_dir": str(corpus.parent), **(trainer or {})}
    given = Settings([], {**MODEL, **(model or {})}, own, datamodule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xlab.lab.plan.data_plan", lambda datamodule, root: data)
        patch.setattr(
            "xlab.lab.plan.step_memory", lambda *_: StepMemory(1 << 10, 1 << 10, 1 << 11, 1 << 12, 1 << 14, 1)
        )
        patch.setattr("xlab.lab.plan.measure", lambda arguments, seconds, modules: times)
        return make_plan(given, seconds=None if times is None else 1.0)


def of(what: str, made: Plan, **asked: Any) -> Finding:
    """Give the one finding about something."""
    (finding,) = (finding for finding in lint(made, **asked) if finding.what == what)
    assert finding.value
    assert finding.remedy
    return finding


def step_times(*, step: float = 0.1, validation: float = 0.01, peak: int | None = 1 << 20) -> StepTimes:
    def spread(seconds: float) -> Spread:
        return Spread(seconds, seconds, seconds, 5)

    return StepTimes(spread(step), 64, spread(validation), 0.01, 1000, 2.0, peak, "cpu", 1)


def test_a_sound_run_has_nothing_to_remark(corpus: Path) -> None:
    assert plan(corpus, times=step_times()).findings == []


def test_a_run_without_an_end(corpus: Path) -> None:
    found = of("end of the run", plan(corpus, trainer={"max_steps": -1, "max_time": "00:01:00:00"}))
    assert found.severity == "error"
    assert "00:01:00:00" in found.value


def test_a_warm_up_longer_than_the_run(corpus: Path) -> None:
    schedule = {"class_path": "Cosine", "init_args": {"warmup_steps": 100}}
    found = of("model.schedule", plan(corpus, model={"schedule": schedule}))
    assert found.severity == "error"
    assert "100" in found.value


@pytest.mark.parametrize(("warm_up", "is_found"), [(20, False), (21, True), (60, True)])
def test_a_warm_up_of_much_of_the_run(corpus: Path, warm_up: int, is_found: bool) -> None:
    schedule = {"class_path": "Cosine", "init_args": {"warmup_steps": warm_up}}
    found = [line.what for line in plan(corpus, model={"schedule": schedule}).findings]
    assert found == (["model.schedule.warmup_steps"] if is_found else [])


def test_a_schedule_that_max_time_cuts(corpus: Path) -> None:
    made = plan(corpus, trainer={"max_time": {"seconds": 4}}, times=step_times())
    found = of("model.schedule", made)
    assert found.severity == "warning"
    assert made.course.scheduled_steps == 100
    assert made.course.steps is not None
    assert 30 < made.course.steps < 40  # validations take their share of the 4 s
    assert f"trainer.max_steps to {made.course.steps}" in found.remedy


def test_a_warm_up_that_max_time_cuts(corpus: Path) -> None:
    schedule = {"class_path": "Cosine", "init_args": {"warmup_steps": 50}}
    made = plan(corpus, model={"schedule": schedule}, trainer={"max_time": "00:00:00:04"}, times=step_times())
    assert "max_time ends the run" in of("model.schedule.warmup_steps", made).value


def test_a_schedule_that_stays_high(corpus: Path) -> None:
    schedule = {"class_path": "Linear", "init_args": {"final_factor": 0.8}}
    assert of("model.schedule", plan(corpus, model={"schedule": schedule})).value.startswith("at 80% of its peak")


def test_a_constant_rate_is_only_noted(corpus: Path) -> None:
    assert of("model.schedule", plan(corpus, model={"schedule": "Constant"})).severity == "note"


def test_a_vocabulary_too_large_for_the_corpus(corpus: Path) -> None:
    few = replace(DATA, splits={**DATA.splits, "train": SplitSize(9000, 27_000, 562, 0.0)})
    assert "9,000" in of("data.vocab_size", plan(corpus, data=few, trainer={"max_steps": 10})).value


@pytest.mark.parametrize(
    ("rate", "width", "is_found"),
    [
        (1e-2, 16, False),
        (0.5, 16, True),
        (3e-3, 192, False),  # the default experiment's
        (6e-4, 768, False),
        (6e-3, 768, True),
        (1e-6, 768, True),
    ],
)
def test_a_rate_out_of_range_for_the_width(corpus: Path, rate: float, width: int, is_found: bool) -> None:
    assert rate_is_found(corpus, "torch.optim.AdamW", rate, width) == is_found


def rate_is_found(corpus: Path, kind: str, rate: float, width: int) -> bool:
    optimizer = {"class_path": kind, "init_args": {"lr": rate}}
    made = plan(corpus, model={"optimizer": optimizer, "d_model": width, "n_heads": 4})
    assert {line.what for line in made.findings} <= {"model.optimizer.lr"}
    return bool(made.findings)


@pytest.mark.parametrize(
    ("rate", "width", "is_found"),
    [
        (1.6e-2, 192, False),  # the default experiment's
        (1.6e-2, 768, False),
        (4.2e-4, 2048, False),  # Moonlight's
        (0.1, 192, True),
        (1e-6, 768, True),
    ],
)
def test_muon_bears_higher_rates(corpus: Path, rate: float, width: int, is_found: bool) -> None:
    assert rate_is_found(corpus, "xlab.training.muon.MuonAdamW", rate, width) == is_found


def test_a_rate_that_would_undo_the_weights_a_run_starts_from(corpus: Path, tmp_path: Path) -> None:
    found = of("model.optimizer.lr", plan(corpus, model={"pretrained": str(tmp_path), "optimizer": ADAM}))
    assert found.value == "0.01, and model.pretrained gives weights that are trained"
    assert found.remedy.startswith("-c conf/extra/finetune.yaml")


def test_another_optimiser_has_other_rates(corpus: Path) -> None:
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}
    assert plan(corpus, model={"optimizer": optimizer}).findings == []


def test_another_token_batch_than_asked_for(corpus: Path) -> None:
    made = plan(corpus, trainer={"accumulate_grad_batches": 2, "max_steps": 40})
    assert made.course.tokens_per_step == 2 * 4 * 16
    assert lint(made, token_batch=128) == []
    what = "batch × accumulation × ranks"
    assert of(what, made, token_batch=512).remedy == "set trainer.accumulate_grad_batches to 8"
    assert "gives 192" in of(what, made, token_batch=200).remedy


def test_fewer_windows_than_a_batch(corpus: Path) -> None:
    few = replace(DATA, splits={"train": SplitSize(48, 100, 3, 0.0), "val": DATA.val})
    made = plan(corpus, data=few)
    severities = {finding.what: finding.severity for finding in made.findings}
    assert severities["training data"] == "error"


def test_no_validation_data(corpus: Path) -> None:
    no_share = Splits(train=0.8, val=0.0, test=0.1, predict=0.1)
    assert "data.splits.val" in of("validation data", plan(corpus, splits=no_share)).remedy
    off = plan(corpus, trainer={"limit_val_batches": 0})
    assert "limit_val_batches" in of("validation", off).value


def test_an_evaluation_longer_than_training(corpus: Path) -> None:
    found = of("evaluation", plan(corpus, times=step_times(step=0.1, validation=1.0)))
    assert found.value == "5 validations take 65 s, and training 10 s"


def test_a_cache_that_is_not_reused(corpus: Path) -> None:
    found = of("data.cache_dir", plan(corpus, data=replace(DATA, cache="my.txt changed")))
    assert (found.severity, found.value) == ("note", "my.txt changed")


def test_too_many_epochs(corpus: Path) -> None:
    assert of("training data", plan(corpus, trainer={"max_steps": 5000})).value == "seen 6.4 times"


def test_wasteful_packing(corpus: Path) -> None:
    wasteful = replace(DATA, splits={**DATA.splits, "train": SplitSize(50_000, 150_000, 3125, 0.31)})
    found = of("data.packing", plan(corpus, data=wasteful, packing=OneDocument()))
    assert found.value.startswith("31%")
    assert "BestFit" in found.remedy
    for packing in (BestFit(), ContiguousWindows()):  # nothing is advised that is done already
        found = of("data.packing", plan(corpus, data=wasteful, packing=packing))
        assert "BestFit" not in found.remedy
        assert "data.seq_len" in found.remedy


def test_another_context_than_the_first_weights(trained: Run, corpus: Path) -> None:
    path = str(trained.exported)
    low = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-4}}
    assert plan(corpus, model={"init_from": path, "optimizer": low}).findings == []
    made = plan(corpus, model={"init_from": path, "max_len": 8}, seq_len=8, prompt_len=2)
    assert "was trained with 16" in of("data.seq_len", made).value


def test_prompts_longer_than_the_context(corpus: Path) -> None:
    assert of("data.max_new_tokens", plan(corpus, max_new_tokens=64)).severity == "note"


@pytest.mark.parametrize(
    ("trainer", "value"),
    [
        ({"enable_checkpointing": False}, "none"),
        ({"val_check_interval": 1000}, "one, at the end"),
        ({"val_check_interval": 1000, "max_steps": -1, "max_epochs": 1}, "longer than the run"),
    ],
)
def test_no_checkpoint_on_the_way(corpus: Path, trainer: dict[str, Any], value: str) -> None:
    assert value in of("checkpoints", plan(corpus, trainer=trainer)).value


def test_an_interval_that_lightning_refuses(corpus: Path) -> None:
    trainer = {"val_check_interval": 1000, "check_val_every_n_epoch": 1}
    assert of("trainer.val_check_interval", plan(corpus, trainer=trainer)).severity == "error"


def test_callbacks_are_not_in_the_figures(corpus: Path) -> None:
    callbacks = [{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {}}]
    made = plan(corpus, trainer={"callbacks": callbacks}, times=step_times())
    found = of("trainer.callbacks", made)
    assert (found.severity, found.value) == ("note", "EMAWeightAveraging")
    assert plan(corpus, trainer={"callbacks": callbacks}).findings == []  # nothing was timed


def test_no_room_in_memory_or_on_the_disk(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "GiB are free" in of("memory", plan(corpus, times=step_times(peak=1 << 60))).value
    usage = shutil.disk_usage(corpus.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    assert "default_root_dir" in of("disk", plan(corpus)).remedy


def test_the_severest_comes_first(corpus: Path) -> None:
    made = plan(corpus, trainer={"max_steps": -1}, splits=Splits(0.9, 0.0, 0.05, 0.05), max_new_tokens=64)
    assert [finding.severity for finding in made.findings] == ["error", "warning", "note"]
