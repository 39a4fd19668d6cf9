"""Steps that are no good: found, written down, and skipped or the end of the run."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.tiny import LIGHTNING_NOISE, Recorder, make_model
from tests.training.fitting import fit, lines
from xlab.errors import ConfigError, TrainingError
from xlab.training.checkpointing import BestAndLast
from xlab.training.spikes import SkipSpikes, StepFigures, StopAtSpike, gradient_norm

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]
NAN = float("nan")


class Spoil(Callback):
    """Make gradients, or the loss, of some steps useless."""

    def __init__(self, *steps: int, loss: bool = False) -> None:
        self.steps, self.loss = steps, loss
        self.weights: dict[int, Any] = {}

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        self.weights[trainer.global_step] = [weight.detach().clone() for weight in pl_module.parameters()]
        if trainer.global_step not in self.steps:
            return
        if self.loss:
            pl_module.step_sums.loss = pl_module.step_sums.loss * NAN
        else:
            next(pl_module.parameters()).grad[0] = float("inf")

    def changed(self, step: int) -> bool:
        """Whether a step changed the weights."""
        pairs = zip(self.weights[step], self.weights[step + 1], strict=True)
        return not all(before.equal(after) for before, after in pairs)


@pytest.mark.parametrize("loss", [True, False])
@pytest.mark.parametrize("given_one", [True, False])
def test_a_run_stops_at_what_is_no_number(tmp_path: Path, loss: bool, given_one: bool) -> None:
    what = "loss is nan" if loss else "gradient norm is inf"
    with pytest.raises(TrainingError, match=rf"the {what} at step 3; lower the learning rate"):
        fit(tmp_path, Spoil(3, loss=loss), *([StopAtSpike()] if given_one else []))
    assert (tmp_path / "version_0" / "spikes.jsonl").exists() == given_one


@pytest.mark.parametrize("settings", [{}, {"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
@pytest.mark.parametrize("loss", [True, False])
def test_a_skipped_step_changes_nothing_and_is_written_down(
    tmp_path: Path, loss: bool, settings: dict[str, Any]
) -> None:
    spoil, recorder, policy = Spoil(3, 6, loss=loss), Recorder(), SkipSpikes()
    run = fit(tmp_path, spoil, recorder, policy, **settings)
    assert [spoil.changed(step) for step in range(2, 8)] == [True, False, True, True, False, True]
    assert policy.skipped == 2
    written = lines(run / "spikes.jsonl")
    assert [line["step"] for line in written] == [3, 6]
    n = settings.get("accumulate_grad_batches", 1)
    assert written[0]["inputs"] == [row for batch in recorder.batches[3 * n : 4 * n] for row in batch]
    assert written[0]["loss" if loss else "gradient_norm"] == ("nan" if loss else "inf")
    logged = lines(run / "metrics.jsonl")
    counted = {line["step"]: line["skipped_steps"] for line in logged if "skipped_steps" in line}
    assert (counted[3], counted[6], min(counted)) == (1, 2, 3)
    assert all(math.isfinite(line["train/loss"]) for line in logged if "train/loss" in line)


def test_skipped_steps_are_counted_over_resumptions(tmp_path: Path) -> None:
    first = fit(tmp_path, Spoil(1), SkipSpikes(), BestAndLast(), enable_checkpointing=True, max_steps=4)
    policy = SkipSpikes()
    fit(tmp_path, Spoil(5), policy, ckpt_path=first / "checkpoints" / "last.ckpt", max_steps=8, version=1)
    assert policy.skipped == 2


def test_many_bad_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the 2 steps before it were skipped as well"):
        fit(tmp_path, Spoil(2, 4, 5, 6, 7), SkipSpikes(max_in_a_row=2))


class Judge(SkipSpikes):
    """Judge figures that no run has made."""

    def judge(self, losses: list[float], norm: float = 1.0) -> list[bool]:
        return [self._reason_is_none(loss, norm) for loss in losses]

    def _reason_is_none(self, loss: float, norm: float) -> bool:
        figures = StepFigures(0, loss, norm)
        good = self._reason(figures) is None
        if good:
            self._recent.append((loss, norm))
        return good


@given(st.lists(st.floats(1, 2), min_size=8, max_size=30), st.floats(1.5, 9))
def test_a_spike_is_far_above_what_came_before(losses: list[float], jump: float) -> None:
    judge = Judge(deviations=3.0, window=16, max_in_a_row=1000)
    judge.judge([1.0, 2.0] * 8)  # mean 1.5, deviation 0.5
    assert judge.judge([1.5 + 0.5 * jump]) == [jump <= 3]
    assert Judge(window=16).judge([*losses, 1e9]) == [True] * (
        len(losses) + 1
    )  # without deviations nothing is too much
    assert judge.judge([0.1]) == [True]  # less is no spike
    assert Judge(deviations=3.0, window=16).judge([1.0] * 7 + [50.0]) == [True] * 8  # too few to tell


def test_a_gradient_may_spike_alone() -> None:
    judge = Judge(deviations=3.0, window=4)
    judge.judge([1.0, 1.1, 1.0, 1.1])
    assert judge.judge([1.0], norm=30.0) == [False]


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"deviations": 0.0}, "deviations must"), ({"window": 3}, "window must"), ({"max_in_a_row": 0}, "max_in_a_row")],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SkipSpikes(**settings)


def test_the_norm_is_that_of_all_gradients_before_clipping(tmp_path: Path) -> None:
    norms: list[float] = []

    class Norms(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
            norms.append(float(gradient_norm(gradients)))

    # a limit that is never met leaves the gradients as they were logged
    run = fit(tmp_path, Norms(), gradient_clip_val=1e9)
    logged = [line["train/gradient_norm"] for line in lines(run / "metrics.jsonl") if "train/gradient_norm" in line]
    assert len(logged) == 10
    assert norms == pytest.approx(logged)
    tight = fit(tmp_path, version=1, gradient_clip_val=1e-3, max_steps=1)
    assert lines(tight / "metrics.jsonl")[0]["train/gradient_norm"] == logged[0] > 1e-3


def test_clipping_by_the_known_norm_is_torchs_own() -> None:
    models = [make_model(), make_model()]
    for model in models:
        model(torch.arange(8)[None]).square().sum().backward()
    known = gradient_norm([weight.grad for weight in models[0].parameters() if weight.grad is not None])
    torch.nn.utils.clip_grads_with_norm_(models[0].parameters(), 0.5, known)
    torch.nn.utils.clip_grad_norm_(models[1].parameters(), 0.5)
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(one.grad is None or one.grad.equal(other.grad) for one, other in pairs)
