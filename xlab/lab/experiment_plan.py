"""What an experiment's folder was made for: its plan, kept beside the runs, and refused when it is another."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from xlab.errors import ConfigError
from xlab.lab.overrides import Overrides, differences, folder_name

PLAN = "plan.json"
Settings = dict[str, Any]


@dataclass(frozen=True)
class Member:
    """A variant, at one place of the grid.

    Args:
        variant: what it changes.
        choice: the words of that place; empty without a grid.
        settings: all of them.
        steps: the optimiser steps that the budget pays for.
    """

    variant: Overrides
    choice: tuple[str, ...]
    settings: Settings
    steps: int

    @property
    def overrides(self) -> str:
        """What it changes, as one would type it."""
        return Overrides(self.variant.name, (*self.variant.words, *self.choice)).text


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Args:
        base: the words of the settings that all start from.
        budget: as it was given.
        seeds: how many.
        members: the variants, each at every place of the grid.
    """

    base: str
    budget: str
    seeds: int
    members: Sequence[Member]

    def as_json(self) -> dict[str, Any]:
        """Give plain data."""
        variants: dict[str, Any] = {}
        for member in self.members:
            place = {"overrides": member.overrides, "steps": member.steps, "settings": member.settings}
            variants.setdefault(member.variant.name, {})[folder_name(member.choice) or "-"] = place
        return {"base": self.base, "budget": self.budget, "seeds": self.seeds, "variants": variants}


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name the first thing in which two plans differ; the steps that a budget pays for are not one."""
    names, were = (", ".join(plan.get("variants", {})) for plan in (now, before))
    if names != were:
        return f"the variants {were}, now {names}"
    found = differences({**before, "base": None}, {**now, "base": None}).items()
    for key, (was, is_now) in found:
        place, _, setting = key.rpartition(".settings.")
        if not key.endswith((".steps", ".overrides")):
            of = f"{setting} of {place.removeprefix('variants.')}" if place else key.removeprefix("settings.")
            return f"{of.removesuffix('.-')} {_written(was)}, now {_written(is_now)}"
    return None


def _written(value: Any) -> str:
    return "left out" if value is None else json.dumps(value)


def known_plan(folder: Path) -> dict[str, Any] | None:
    """Read a folder's plan; None where there is none.

    Raises:
        ConfigError: for a folder that holds something else.
    """
    try:
        found: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise ConfigError(f"-o {folder} holds something else; name a folder that is empty or not there") from None
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / PLAN} cannot be read: {error}") from error
    return found


def keep_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write a new folder's plan, or refuse one that is not the folder's.

    Raises:
        ConfigError: naming the difference.
    """
    before = known_plan(folder)
    if before is None:
        scratch = folder / f".{PLAN}.{os.getpid()}"
        scratch.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, folder / PLAN)
    elif (difference := first_difference(before, plan)) is not None:
        raise ConfigError(f"{folder} was planned with {difference}; name another folder with -o")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock.

    Raises:
        ConfigError: when another process works there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        with lock.acquire(blocking=False):
            yield
    except filelock.Timeout:
        raise ConfigError(f"another process works in {folder}; wait for it, or name another folder with -o") from None
    except NotADirectoryError:
        raise ConfigError(f"-o {folder} is no folder") from None
