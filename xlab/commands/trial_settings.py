"""What commands that start runs of their own have in common: the base, whole settings as plain data, the length."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlab.commands.data_settings import data_of, settings_only
from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.datamodules import XLabDataModule
    from xlab.lab.budgets import Budget, StepCost

Settings = dict[str, Any]


@dataclass(frozen=True)
class Base:
    """The configuration that an experiment starts from.

    Args:
        words: fit's, as they were given.
        settings: all of them.
        datamodule: its data, prepared.
    """

    words: list[str]
    settings: Settings
    datamodule: "XLabDataModule"


def base_of(arguments: Sequence[str], budget: "Budget | None" = None) -> Base:
    """Read ``BASE.yaml [--key value …]``, and prepare its data.

    Whether trials of a time are compiled is decided here, for all: what their steps take is measured the same way.

    Raises:
        ConfigError: for settings that cannot be, or that leave nothing to an experiment.
        DataError: when the data cannot be prepared.
    """
    words = _words(arguments)
    settings = settings_of(words)
    if settings["compile"] == "auto" and budget is not None and budget.of == "seconds":
        from xlab.training.compiling import pays

        words.insert(2, f"--compile={str(pays(budget.amount, settings['model']['n_layers'])).lower()}")
        settings = settings_of(words)
    for name in ("pytorch", "fabric"):  # which would tell of a seed, and of a trainer that only counts devices
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    trainer = settings["trainer"]
    if settings.get("ckpt_path") is not None:
        raise ConfigError("each trial begins anew; leave --ckpt_path out (--model.init_from takes a run's weights)")
    if trainer["max_time"] is not None:
        raise ConfigError("trainer.max_time may end trials before their budget; leave it out")
    if trainer["enable_checkpointing"] is False:
        raise ConfigError("a trial goes on from its checkpoints; leave trainer.enable_checkpointing out")
    return Base(words, settings, prepared(words, settings))


def prepared(words: Sequence[str], settings: Settings) -> "XLabDataModule":
    """Prepare the data that fit would read with these words.

    Raises:
        ConfigError: when there is nothing to validate on.
        DataError: when they cannot be prepared.
    """
    datamodule = data_of(tuple(words))
    has_validation = datamodule.corpus.shares.get("val") or "val" in datamodule.corpus.split_sources
    if not has_validation or settings["trainer"]["limit_val_batches"] == 0:
        raise ConfigError("trials are compared by their validation, and there is none; set data.splits.val")
    datamodule.prepare_data()
    return datamodule


def settings_of(words: Sequence[str]) -> Settings:
    """Give every setting that fit would have with these words, as its run's ``config.yaml`` would hold them.

    Raises:
        ConfigError: for settings that cannot be.
    """
    import yaml

    cli = settings_only(words)
    settings: Settings = yaml.safe_load(cli._parser("fit").dump(cli.config["fit"], skip_none=False))
    settings.pop("config", None)
    return settings


class StepCounter:
    """Tell how many optimiser steps a budget pays for; what takes the same time is measured once.

    Args:
        budget: of each trial.
        environment: of a trial's process, over this one's own.
        modules: whose classes a checkpoint in the settings may name.
    """

    def __init__(self, budget: "Budget", environment: Mapping[str, str], modules: Sequence[str] = ()) -> None:
        self._budget = budget
        self._environment = environment
        self._modules = modules
        self._seconds: dict[str, float] = {}
        self._told: set[float] = set()  # of how many epochs

    def steps(self, settings: Settings, words: Sequence[str], datamodule: "XLabDataModule") -> int:
        """Give the steps of a trial.

        Args:
            settings: the trial's.
            words: fit's, that make them.
            datamodule: its data, prepared.

        Raises:
            ConfigError: for fewer than one, or more than its epochs hold, or a schedule that does not fit into them.
        """
        from xlab import factories
        from xlab.training.run_length import RunLength

        cost = self.cost(settings, words, datamodule)
        steps = self._budget.steps(cost)
        epochs = settings["trainer"]["max_epochs"]
        if epochs is not None and epochs >= 0:
            windows = len(datamodule.windows("train"))
            per_epoch = max(windows * settings["data"]["seq_len"] // cost.tokens, 1)
            if epochs * per_epoch < steps:
                raise ConfigError(
                    f"--budget {self._budget.text} is {steps:,} steps, and trainer.max_epochs {epochs} allows "
                    f"{epochs * per_epoch:,}; lower it, or leave trainer.max_epochs out"
                )
        self._warn_of_repetition(steps * cost.tokens, datamodule)
        # says whether its warm-up fits
        factories.build(settings["model"]["schedule"], RunLength(steps, cost.tokens))
        return steps

    def _warn_of_repetition(self, tokens: int, datamodule: "XLabDataModule") -> None:
        from xlab.lab.plan_lint import EPOCHS

        epochs = round(tokens / datamodule.prepared.store("train").n_tokens, 1)
        if epochs > EPOCHS and epochs not in self._told:
            self._told.add(epochs)
            print(
                f"note: --budget {self._budget.text} reads the training data {epochs:g} times; beyond {EPOCHS} epochs "
                "variants differ by how they memorise: add text, or lower it",
                file=sys.stderr,
            )

    def cost(self, settings: Settings, words: Sequence[str], datamodule: "XLabDataModule") -> "StepCost":
        """Give what a step of a trial costs."""
        from xlab.lab.budgets import step_cost

        with _environment(self._environment):
            return step_cost(
                settings, vocab_size=datamodule.vocab_size, measure=lambda: self._measured(settings, words)
            )

    def _measured(self, settings: Settings, words: Sequence[str]) -> float:
        from xlab.lab.plan_time import measure

        key = _what_takes_time(settings)
        if key not in self._seconds:
            with _environment(self._environment):
                self._seconds[key] = measure(words, modules=self._modules).seconds_per_step
        return self._seconds[key]


def trusted(modules: Sequence[str]) -> list[str]:
    """Give the words by which fit trusts these modules, and trust them here."""
    from xlab import checkpoints

    for module in modules:
        checkpoints.allow_module(module)
    return [f"--allow-module={module}" for module in modules]


def _words(arguments: Sequence[str]) -> list[str]:
    base, *more = arguments or ("",)
    if not base or base.startswith("-") or not Path(base).is_file():
        named = f"BASE is {base!r}, which is no file" if base else "there is no BASE"
        raise ConfigError(f"{named}; name the configuration to start from first, such as conf/defaults.yaml")
    return ["-c", base, *more]


def _what_takes_time(settings: Settings) -> str:
    """Give what decides a step's time: rates and other numbers of the optimiser do not, nor do seeds."""
    model = {key: value for key, value in settings["model"].items() if key not in ("optimizer", "schedule")}
    optimizer = settings["model"]["optimizer"]
    numbers = {key: type(value) for key, value in (optimizer.get("init_args") or {}).items()}
    data = {key: value for key, value in settings["data"].items() if key != "seed"}
    return repr((model, optimizer["class_path"], numbers, data, settings["trainer"]))


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
