"""Trials that a stub trains, and ablations of them."""

import sys
from pathlib import Path
from typing import Any

from xlab.lab.ablation import Ablation
from xlab.lab.experiment_plan import Member, Plan
from xlab.lab.overrides import Overrides
from xlab.lab.trials import Trial, TrialFolder

COMMAND = [sys.executable, str(Path(__file__).parent / "stub_fit.py")]
STEPS = 4


def settings(loss: float = 2.0, **stub: Any) -> dict[str, Any]:
    """Give the settings of a run that ends at a loss."""
    return {"seed_everything": 0, "data": {"seed": 0}, "trainer": {"max_steps": 1}, "stub": {"loss": loss, **stub}}


def member(name: str, loss: float = 2.0, *, choice: tuple[str, ...] = (), **stub: Any) -> Member:
    """Give a variant that ends at a loss."""
    return Member(Overrides(name), choice, settings(loss, **stub), STEPS)


def ablation(folder: Path, *members: Member, seeds: int = 2) -> Ablation:
    """Give an ablation of variants."""
    return Ablation(folder, Plan("base.yaml", "4-tokens", seeds, members), COMMAND)


def trial(folder: Path, loss: float = 2.0, **stub: Any) -> TrialFolder:
    """Make one trial."""
    made = TrialFolder(folder)
    made.create(Trial("base", 0, 7, "", "4-tokens", STEPS, COMMAND, str(folder.parent)), settings(loss, **stub))
    return made


def train(which: Ablation, parallel: int = 1) -> list[str]:
    """Train it, and give what was said."""
    said: list[str] = []
    which.train([{}] * parallel, say=said.append)
    return said
