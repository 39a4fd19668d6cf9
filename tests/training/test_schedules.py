"""Each course against its formula, and against torch's own schedulers."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from xlab.errors import ConfigError
from xlab.training.run_length import RunLength
from xlab.training.schedules import (
    Constant,
    Cosine,
    CosineWithRestarts,
    InverseSquareRoot,
    Linear,
    Polynomial,
    Schedule,
    WarmupStableDecay,
)

DECAYING: list[Callable[..., Schedule]] = [Cosine, Linear, Polynomial, WarmupStableDecay]
ALL = [*DECAYING, Constant, InverseSquareRoot]
TO_THE_END: list[Callable[..., Schedule]] = [Cosine, Linear, Polynomial, CosineWithRestarts]

runs = st.integers(2, 400).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total - 1)))
finals = st.floats(0, 1)


def course(schedule: Schedule) -> list[float]:
    return [schedule(step) for step in range(schedule.total_steps + 1)]


def torch_course(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    """The rates that one of torch's schedulers gives, from a rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ALL)
@given(run=runs)
def test_the_warm_up_rises_in_equal_steps_to_the_full_rate(kind: Callable[..., Schedule], run: tuple[int, int]) -> None:
    total, warmup = run
    rates = course(kind(total, warmup))
    assert rates[warmup] == pytest.approx(1.0)
    for step in range(warmup):
        assert rates[step + 1] - rates[step] == pytest.approx(1 / (warmup + 1))
    assert rates[0] > 0  # a step of rate 0 would be wasted


@pytest.mark.parametrize("kind", DECAYING)
@given(run=runs, final=finals)
def test_the_decay_never_rises_and_ends_where_the_run_ends(
    kind: Callable[..., Schedule], run: tuple[int, int], final: float
) -> None:
    total, warmup = run
    schedule = kind(total, warmup, final)
    rates = course(schedule)[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rates))
    assert rates[-1] == pytest.approx(final)
    assert schedule(total + 5) == pytest.approx(final)


@pytest.mark.parametrize("kind", ALL)
@given(run=runs)
def test_the_factor_stays_between_0_and_1(kind: Callable[..., Schedule], run: tuple[int, int]) -> None:
    assert all(0 <= factor <= 1 + 1e-12 for factor in course(kind(*run)))


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        (Cosine, lambda optimizer, final: lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=final)),
        (Linear, lambda optimizer, final: lr_scheduler.LinearLR(optimizer, 1.0, final, 50)),
    ],
)
def test_the_course_is_that_of_torch_s_scheduler(kind: Callable[..., Schedule], theirs: Any, final: float) -> None:
    expected = torch_course(lambda optimizer: theirs(optimizer, final), 50)
    assert course(kind(50, final_factor=final)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_polynomial_is_torch_s(power: float) -> None:
    expected = torch_course(lambda optimizer: lr_scheduler.PolynomialLR(optimizer, 50, power), 50)
    assert course(Polynomial(50, power=power)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num_cycles", [1, 2, 5])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_restarts_are_torch_s(num_cycles: int, final: float) -> None:
    def theirs(optimizer: torch.optim.Optimizer) -> Any:
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 50 // num_cycles, eta_min=final)

    made = CosineWithRestarts(50, None, final, num_cycles)
    # theirs has no end, and begins again where the run is over
    assert course(made)[:50] == pytest.approx(torch_course(theirs, 50)[:50], abs=1e-9)
    assert made(50) == made(60) == pytest.approx(final)


@given(run=runs, num_cycles=st.integers(1, 7), final=finals)
def test_each_cycle_begins_at_the_full_rate(run: tuple[int, int], num_cycles: int, final: float) -> None:
    total, warmup = run[1] * num_cycles + run[0], run[0]  # cycles of whole steps
    made = CosineWithRestarts(total, warmup, final, num_cycles)
    for cycle in range(num_cycles):
        begin = warmup + cycle * run[1]
        expected = [final + (1 - final) * (1 + math.cos(math.pi * at / run[1])) / 2 for at in range(run[1])]
        # at a cycle's first step, rounding may show the last of the one before
        rates = [made(begin + at) for at in range(run[1])]
        assert rates[1:] == pytest.approx(expected[1:], abs=1e-6)
        assert rates[0] == pytest.approx(1.0, abs=1e-6)


def test_one_cycle_is_the_plain_cosine() -> None:
    assert course(CosineWithRestarts(50, 10, 0.1, 1)) == pytest.approx(course(Cosine(50, 10, 0.1)))


@pytest.mark.parametrize("kind", TO_THE_END)
@given(run=runs, longer=st.integers(0, 100))
def test_a_decay_of_its_own_length_is_that_of_the_run_it_was_meant_for(
    kind: Callable[..., Schedule], run: tuple[int, int], longer: int
) -> None:
    total, warmup = run
    if total - warmup < 2:
        return
    now, meant = kind(total, warmup, decay_steps=total - warmup + longer), kind(total + longer, warmup)
    assert course(now) == course(meant)[: total + 1]


@given(run=runs)
def test_constant_is_constant(run: tuple[int, int]) -> None:
    total, warmup = run
    assert set(course(Constant(total, warmup))[warmup:]) == {1.0}


@given(run=runs, step=st.integers(0, 10_000))
def test_inverse_square_root_halves_when_time_quadruples(run: tuple[int, int], step: int) -> None:
    schedule = InverseSquareRoot(*run)
    late = schedule.warmup_steps + step
    assert schedule(4 * late + 3) == pytest.approx(schedule(late) / 2)


@given(run=runs, fraction=st.floats(0.01, 1))
def test_warmup_stable_decay_is_flat_and_then_a_straight_line(run: tuple[int, int], fraction: float) -> None:
    total, warmup = run
    rates = course(WarmupStableDecay(total, warmup, 0.0, fraction))[warmup:]
    n_flat = rates.count(1.0)
    assert rates[:n_flat] == [1.0] * n_flat
    falling = rates[n_flat - 1 :]
    expected = [1 - at / (len(falling) - 1) for at in range(len(falling))]
    assert falling == pytest.approx(expected, abs=1e-9)
    assert len(falling) - 1 == max(min(round(total * fraction), total - warmup), 1)


@pytest.mark.parametrize("kind", ALL)
@given(run=runs, longer=st.integers(1, 400), seed=st.randoms())
def test_the_factor_depends_on_the_step_and_the_total_alone(
    kind: Callable[..., Schedule], run: tuple[int, int], longer: int, seed: Any
) -> None:
    """So a resumed run that was made longer is on the longer run's course from its first step on."""
    total, warmup = run
    fresh = course(kind(total + longer, warmup))
    used = kind(total + longer, warmup)
    steps = list(range(total + longer + 1))
    seed.shuffle(steps)
    factors = {step: used(step) for step in steps}
    assert [factors[step] for step in sorted(factors)] == fresh


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Cosine(10, 10), "warmup_steps is 10, which does not fit into a run of 10 steps"),
        (lambda: Cosine(10, -1), "warmup_steps is -1"),
        (lambda: Cosine(10, warmup_fraction=1), "warmup_fraction is 1, in steps 10, which does not fit into a run of"),
        (lambda: Cosine(RunLength(10, 8), warmup_tokens=88), "warmup_tokens is 88, in steps 11, which does not fit"),
        (lambda: Cosine(10, 5, warmup_fraction=0.1), "are the same length, given twice; keep one"),
        (lambda: Cosine(10, 2, decay_steps=7), "decay of 7 steps ends at step 9, before the run of 10"),
        (lambda: Linear(10, 2, decay_fraction=0.5), "decay of 5 steps ends at step 7, before the run of 10"),
        (lambda: CosineWithRestarts(10, 2, num_cycles=9), "num_cycles must be between 1 and 8, the decay's steps"),
        (lambda: CosineWithRestarts(10, 2, num_cycles=0), "num_cycles must be between 1 and 8"),
        (lambda: WarmupStableDecay(10, 4, decay_steps=7), "decay of 7 steps does not fit behind a warm-up of 4 into a"),
        (lambda: WarmupStableDecay(10, decay_steps=0), "it must be between 1 and 10"),
        (lambda: Linear(10, 2, 1.5), "final_factor must be between 0 and 1, got 1.5"),
        (lambda: Linear(10, 2, -0.1), "final_factor must be between 0 and 1, got -0.1"),
        (lambda: Polynomial(10, power=0), "power must be above 0, got 0"),
        (lambda: InverseSquareRoot(10, 0), "warmup_steps must be at least 1 for InverseSquareRoot"),
        (lambda: WarmupStableDecay(10, decay_fraction=0), r"decay_fraction must be in (0, 1], got 0"),
        (lambda: WarmupStableDecay(10, decay_fraction=1.1), "decay_fraction must be in (0, 1], got 1.1"),
    ],
)
def test_a_course_that_cannot_be_is_refused(make: Callable[[], Schedule], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make()
    assert says in str(refused.value)


@pytest.mark.parametrize("kind", [*DECAYING, Constant])
def test_a_run_of_one_step_takes_it_at_the_full_rate(kind: Callable[..., Schedule]) -> None:
    assert math.isclose(kind(1)(0), 1.0)
