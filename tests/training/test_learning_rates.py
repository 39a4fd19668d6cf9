"""The rates of groups that differ."""

from pathlib import Path

import pytest

from tests.tiny import LIGHTNING_NOISE, make_model
from tests.training.fitting import fit, lines
from xlab.training.learning_rates import LearningRates

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


def test_groups_that_differ_are_told_apart(tmp_path: Path) -> None:
    model = make_model(learning_rates={"embedding*": 0.1})
    run = fit(tmp_path, LearningRates(), model=model, log_every_n_steps=5)
    found = [line for line in lines(run / "metrics.jsonl") if "lr" in line]
    assert [line["step"] for line in found] == [4, 9]
    for line in found:
        rates = sorted(value for name, value in line.items() if name.startswith("lr/"))
        assert rates[0] == pytest.approx(0.1 * line["lr"])
        assert rates[1:] == pytest.approx([line["lr"]] * (len(rates) - 1))


def test_one_rate_is_logged_once(tmp_path: Path) -> None:
    run = fit(tmp_path, LearningRates())
    assert not any(name.startswith("lr/") for line in lines(run / "metrics.jsonl") for name in line)
