"""The plan's benchmark plans what it then trains, and its table tells how near the two are."""

from pathlib import Path

import pytest

from benchmarks.plan_accuracy import COMMON, CONFIGURATIONS, QUICK, Pair, options, table
from xlab.commands.plan import settings_of

MIB = 2**20


def pair(name: str, planned: float, found: float) -> Pair:
    return Pair(
        name,
        {"seconds": planned, "tokens_per_s": 1000 * planned, "peak": planned * MIB, "tensors": MIB},
        {"seconds": found, "tokens_per_s": 1000 * found, "peak": found * MIB},
    )


def test_the_table_has_the_median_of_the_rounds() -> None:
    pairs = [pair("a", 90, 100), pair("b", 50, 50), pair("a", 110, 100), pair("a", 300, 100)]
    head, _, first, second = table(pairs).splitlines()
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells == ["a", "100.0", "110.0", "1.10", "100,000", "110,000", "1.10", "100", "110", "1.10", "1"]
    assert second.startswith("| b |")
    assert head.count("|") == first.count("|")


@pytest.mark.parametrize("name", [*CONFIGURATIONS, *QUICK])
def test_every_configuration_can_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of(tuple(options({**COMMON, **{**CONFIGURATIONS, **QUICK}[name]})))
    assert settings.validates
    assert settings.trainer["max_steps"] <= 60
