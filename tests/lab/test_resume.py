"""Where a run is killed, what keeps a step's windows on other ranks, and what a difference is."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlab.errors import ConfigError
from xlab.lab.resume import Trial, at_world_size
from xlab.lab.resume_comparison import checkpoint_difference, first_difference, gap, missing_end
from xlab.lab.resume_recorder import PLACES
from xlab.lab.resume_runs import Attempt, Record

SMALL_NUMBERS = st.integers(1, 6)


class TestPlaces:
    @given(st.integers(4, 12), SMALL_NUMBERS, SMALL_NUMBERS, st.integers(0, 99))
    def test_they_follow_each_other_behind_a_checkpoint_and_before_the_end(
        self, steps: int, kills: int, accumulate: int, seed: int
    ) -> None:
        trial = Trial(["fit"], steps, kills, seed, accumulate)
        places = trial.places()
        assert places == trial.places()
        assert len(places) == kills
        assert all(trial.save_every <= kill.at < steps * accumulate for kill in places)
        assert all(one.at <= other.at for one, other in pairwise(places))
        assert {kill.within for kill in places} == set(PLACES) or kills < 3

    @given(st.integers(4, 12), SMALL_NUMBERS)
    def test_an_epoch_ends_within_the_run_and_between_two_checkpoints(self, steps: int, accumulate: int) -> None:
        trial = Trial(["fit"], steps, accumulate=accumulate)
        assert trial.save_every < trial.epoch < steps * accumulate
        assert trial.epoch % trial.save_every

    def test_an_accumulated_step_is_interrupted_in_its_middle(self) -> None:
        assert all(kill.at % 3 for seed in range(9) for kill in Trial(["fit"], seed=seed, accumulate=3).places())

    def test_without_validation_nothing_waits_for_one(self) -> None:
        places = Trial(["fit"], kills=6, val_batches=0).places()
        assert {kill.within for kill in places} == {"batch", "saving"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 2}, "--steps must be at least 4, got 2"),
            ({"kills": 0}, "--kills must be at least 1, got 0"),
            ({"resume_devices": 0}, "--resume-devices must be at least 1, got 0"),
        ],
    )
    def test_what_proves_nothing_is_refused(self, options: dict[str, int], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Trial(["fit"], **options)


class TestAnotherWorldSize:
    @given(SMALL_NUMBERS, SMALL_NUMBERS, SMALL_NUMBERS, SMALL_NUMBERS)
    def test_a_step_keeps_its_windows(self, devices: int, world_size: int, accumulate: int, batch_size: int) -> None:
        try:
            other_accumulate, other_size = at_world_size(devices, world_size, accumulate, batch_size)
        except ConfigError:
            assert accumulate * world_size % devices
            assert batch_size * world_size % devices
        else:
            assert devices * other_accumulate * other_size == world_size * accumulate * batch_size

    def test_checkpoints_and_the_epochs_end_keep_their_places(self) -> None:
        trial = Trial(["fit"], accumulate=4, batch_size=8, resume_devices=2)
        alone, together = trial.fit(4, 8), trial.fit(2, 8, 2)
        for name in ("trainer.val_check_interval", "trainer.limit_train_batches"):
            assert _option(alone, name) == 2 * _option(together, name)
        assert _option(together, "trainer.devices") == _option(together, "trainer.accumulate_grad_batches") == 2


def _option(command: list[str], name: str) -> int:
    (value,) = [option.partition("=")[2] for option in command if option.startswith(f"--{name}=")]
    return int(value)


def attempt(first: int = 0, last: int = 5, *, accumulate: int = 2, ranks: int = 1) -> Attempt:
    """What ranks would have recorded of the micro-batches first … last."""
    records: list[Record] = []
    for n in range(first, last + 1):
        for rank in range(ranks):
            base = {"n": n, "rank": rank}
            place = n * ranks + rank
            if n == first:
                start = {"kind": "start", "world_size": ranks, "accumulate": accumulate}
                records.append({**base, "n": n - 1, **start})
            tensors = {"inputs": f"in {place}", "targets": f"out {place}"}
            batch = {"step": n // accumulate, "tensors": tensors, "rows": [f"row {place}"]}
            records += [{**base, "kind": "batch", **batch}, {**base, "kind": "loss", "value": float(place).hex()}]
            if n % accumulate == accumulate - 1:
                step = {"step": n // accumulate + 1, "loss": (n / 8).hex(), "rate": (0.5).hex()}
                records += [{**base, "kind": "step", **step}, {**base, "kind": "validated", "loss": (1.0 + n).hex()}]
    return Attempt(sorted(records, key=lambda record: (record["n"], record["rank"])), None, False)


def changed(run: Attempt, kind: str, n: int, rank: int = 0, **what: Any) -> Attempt:
    """The same records, one of them tampered with."""
    is_it = [record["kind"] == kind and record["n"] == n and record["rank"] == rank for record in run.records]
    assert sum(is_it) == 1
    records = [{**record, **what} if it else record for record, it in zip(run.records, is_it, strict=True)]
    return replace(run, records=records)


class TestDifferences:
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_the_same_records_have_none(self, ranks: int) -> None:
        whole = attempt(ranks=ranks)
        for first in range(6):
            assert first_difference(whole, attempt(first, ranks=ranks)) is None

    @pytest.mark.parametrize(
        ("kind", "what", "says"),
        [
            (
                "batch",
                {"tensors": {"inputs": "other", "targets": "out 7"}},
                "inputs: other, without the interruption in 7",
            ),
            ("batch", {"step": 4}, "optimiser steps before it: 4, without the interruption 1"),
            ("loss", {"value": (7.5).hex()}, "loss: 7.5, without the interruption 7.0"),
            ("step", {"rate": (0.25).hex()}, "learning rate: 0.25, without the interruption 0.5"),
            ("validated", {"loss": (2.0).hex()}, "validation loss: 2.0, without the interruption 4.0"),
        ],
    )
    def test_the_first_one_is_named_by_step_micro_batch_and_rank(
        self, kind: str, what: dict[str, Any], says: str
    ) -> None:
        later = changed(attempt(2, ranks=2), "loss", 4, value=(0.0).hex())
        found = first_difference(attempt(ranks=2), changed(later, kind, 3, rank=1, **what))
        assert str(found) == f"step 2, micro-batch 4 of the run, rank 1: {says}"

    def test_a_micro_batch_too_many_is_one(self) -> None:
        assert "micro-batch 7 of the run: batch: there" in str(first_difference(attempt(0, 5), attempt(4, 6)))

    def test_steps_that_nobody_made_are_a_gap(self) -> None:
        assert gap(None, attempt(0)) is None
        assert gap(attempt(0, 4), attempt(3)) is None  # killed amid step 3: two are done
        assert gap(attempt(0, 4), attempt(4)) is None
        assert str(gap(attempt(0, 2), attempt(4))).startswith("step 3: steps done: 2")
        assert missing_end(attempt(0, 5), [attempt(0, 3), attempt(2, 5)]) is None
        assert str(missing_end(attempt(0, 5), [attempt(0, 2), attempt(2, 3)])).startswith("the end: last step: 2")


class TestToRounding:
    """At another world size only a step's windows, and its loss to some digits, are the same."""

    def together(self, first: int = 0) -> Attempt:
        """``attempt`` with its two micro-batches a step on two ranks at once."""
        alone = attempt(2 * first)
        records: list[Record] = [{"kind": "start", "n": first - 1, "rank": 0, "world_size": 2, "accumulate": 1}]
        for record in alone.of("batch"):
            records.append({**record, "n": record["n"] // 2, "rank": record["n"] % 2})
        for record in alone.of("step"):
            records += [{**record, "n": record["n"] // 2, "rank": rank} for rank in range(2)]
        return Attempt(sorted(records, key=lambda record: (record["n"], record["rank"])), None, False)

    def test_the_same_windows_in_other_micro_batches_are_no_difference(self) -> None:
        for first in range(3):
            assert first_difference(attempt(), self.together(first), tolerance=1e-5) is None

    def test_a_strange_window_is_one(self) -> None:
        strange = changed(self.together(1), "batch", 1, rank=1, rows=["row 9"])
        found = first_difference(attempt(), strange, tolerance=1e-5)
        says = "windows that are in one run only: 1 (row 9), without the interruption 1 (row 3)"
        assert str(found) == f"step 2: {says}"

    @pytest.mark.parametrize(("factor", "differs"), [(1 + 1e-7, False), (1 + 1e-3, True)])
    def test_a_loss_is_compared_to_rounding(self, factor: float, differs: bool) -> None:
        other = changed(self.together(1), "step", 2, loss=(5 / 8 * factor).hex())
        found = first_difference(attempt(), other, tolerance=1e-5)
        assert (found is not None) == differs
        assert found is None or found.where == "step 3"


class TestCheckpoints:
    def write(self, path: Path, weight: float = 1.0, moment: float = 2.0) -> Path:
        tensor = torch.arange(4.0)
        tensor[2] = weight
        optimiser = {"state": {0: {"exp_avg": torch.full((2,), moment)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
        content = {"state_dict": {"embed": tensor}, "optimizer_states": [optimiser], "lr_schedulers": [{"epoch": 3}]}
        torch.save(content, path)
        return path

    def test_they_are_compared_bit_for_bit_optimiser_included(self, tmp_path: Path) -> None:
        one, same = self.write(tmp_path / "a"), self.write(tmp_path / "b")
        assert checkpoint_difference(one, same) is None
        found = checkpoint_difference(one, self.write(tmp_path / "c", weight=1.5))
        says = "weights embed: 1.5 at entry 2, without the interruption 1 at entry 2"
        assert str(found) == f"the end: {says}"
        found = checkpoint_difference(one, self.write(tmp_path / "d", moment=2.5))
        assert found is not None
        assert found.what == "optimiser 0.state.0.exp_avg"

    def test_to_rounding_the_weights_alone(self, tmp_path: Path) -> None:
        one = self.write(tmp_path / "a")
        near, far = self.write(tmp_path / "b", 1.0001, moment=9.0), self.write(tmp_path / "c", 1.5)
        assert checkpoint_difference(one, near, tolerance=1e-3) is None
        assert checkpoint_difference(one, far, tolerance=1e-3) is not None
