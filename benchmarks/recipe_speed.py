"""How long the optimiser steps of recipes take, timed in turns, so that a machine whose speed drifts drifts for all.

A round measures each recipe once, A B C A B C …, each time in a process of its own: real steps, as ``fit`` trains them,
on random tokens. The figures lie beside the runs, in ``speed.json``.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import describe_commit, describe_machine, threads_available, today
from benchmarks.options import progress
from xlab.errors import ConfigError
from xlab.lab.plan_time import StepTimes, measure

SPEED = "speed.json"
SECONDS = 6.0  # of timed steps in a turn
ROOT = Path(__file__).parent.parent
Speed = dict[str, Any]


def time_recipes(
    words: Mapping[str, Sequence[str]],
    *,
    rounds: int,
    seconds: float = SECONDS,
    measure: Callable[..., StepTimes] = measure,
) -> Speed:
    """Time recipes in turns.

    Args:
        words: of each recipe, fit's.
        rounds: turns of each.
        seconds: of timed steps in a turn.
        measure: gives what the steps of fit with these words take.

    Returns:
        Plain data: ``seconds_per_token`` of each recipe, a figure a round, and where and when they were taken.

    Raises:
        ConfigError: when a recipe cannot be trained.
    """
    machine = describe_machine()
    found: dict[str, list[float]] = {name: [] for name in words}
    for number in range(rounds):
        for name, own in words.items():
            times = measure(list(own), seconds=seconds)
            found[name].append(times.seconds_per_step / times.tokens_per_step)
            progress(f"round {number + 1}/{rounds}, {name}: {times.tokens_per_second:,.0f} tokens/s")
    return {
        "date": today(),
        "commit": describe_commit(ROOT),
        "machine": machine,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or threads_available()),
        "words": {name: list(own) for name, own in words.items()},
        "seconds_per_token": found,
    }


def keep_speed(folder: Path, speed: Speed) -> None:
    """Write a folder's figures, in the place of those it had."""
    (folder / SPEED).write_text(json.dumps(speed, indent=2) + "\n", encoding="utf-8")


def known_speed(folder: Path, names: Sequence[str]) -> Speed | None:
    """Read a folder's figures; None where these recipes were not timed there together.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    path = folder / SPEED
    try:
        found: Speed = json.loads(path.read_text(encoding="utf-8"))
        return found if set(names) <= found["seconds_per_token"].keys() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); time the recipes again with --speed") from error


def cost(speed: Speed, name: str) -> float:
    """Seconds that a recipe takes for a token: the median of the rounds."""
    return median(speed["seconds_per_token"][name])
