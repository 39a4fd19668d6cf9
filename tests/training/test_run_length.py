"""Steps, shares and tokens say the same length."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlab.errors import ConfigError
from xlab.training.run_length import RunLength, in_steps
from xlab.training.schedules import Cosine, Schedule, WarmupStableDecay


@given(total=st.integers(2, 10_000), share=st.floats(0, 0.9), per_step=st.integers(1, 5_000))
def test_three_ways_of_saying_a_warm_up_give_one_course(total: int, share: float, per_step: int) -> None:
    steps = min(round(total * share), total - 1)
    length = RunLength(total, per_step)
    by_steps, by_tokens = Cosine(total, steps), Cosine(length, warmup_tokens=steps * per_step)
    by_fraction = Cosine(length, warmup_fraction=steps / total)
    assert by_steps.warmup_steps == by_tokens.warmup_steps == by_fraction.warmup_steps == steps
    assert [by_steps(step) for step in (0, steps, total)] == [by_tokens(step) for step in (0, steps, total)]


@given(total=st.integers(10, 10_000), steps=st.integers(1, 10), per_step=st.integers(1, 5_000))
def test_three_ways_of_saying_a_decay_give_one_course(total: int, steps: int, per_step: int) -> None:
    length = RunLength(total, per_step)
    made: list[WarmupStableDecay] = [
        WarmupStableDecay(total, decay_steps=steps),
        WarmupStableDecay(length, decay_tokens=steps * per_step),
        WarmupStableDecay(length, decay_fraction=steps / total),
    ]
    assert {schedule.decay_steps for schedule in made} == {steps}


def test_a_run_s_length_is_its_number_of_steps() -> None:
    class Own(Schedule):
        def after_warmup(self, step: int) -> float:
            return 1 - step / self.total_steps

    assert Own(RunLength(10, 512))(5) == 0.5
    assert RunLength(10) == 10
    assert RunLength(10).tokens_per_step is None


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ({"steps": 5, "fraction": 0.1}, "model.schedule.warmup_steps 5 and model.schedule.warmup_fraction 0.1 are the"),
        ({"steps": 5, "tokens": 1}, "model.schedule.warmup_steps 5 and model.schedule.warmup_tokens 1 are the same"),
        ({"fraction": 1.5}, "model.schedule.warmup_fraction must be between 0 and 1, got 1.5"),
        ({"tokens": -1}, "model.schedule.warmup_tokens must not be negative, got -1"),
        ({"tokens": 1000}, "it is not known here how many tokens a step takes; give warmup_steps or warmup_fraction"),
    ],
)
def test_a_length_that_cannot_be_is_refused(lengths: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        in_steps("warmup", 100, **{"steps": None, "fraction": None, "tokens": None, **lengths})
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
