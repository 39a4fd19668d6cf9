"""The default recipe's first losses are those that are written down."""

import json
from pathlib import Path

import pytest

from tests.golden.recipe import FILE, STEPS, first_losses


def test_the_default_recipe_s_first_losses_are_what_they_were(tmp_path: Path) -> None:
    golden = json.loads(FILE.read_text(encoding="utf-8"))
    assert len(golden["losses"]) == STEPS
    found = first_losses(tmp_path)
    assert found == pytest.approx(golden["losses"], rel=golden["tolerance"]), (
        "meant to change? python -m tests.golden.recipe writes them anew"
    )
