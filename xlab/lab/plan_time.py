"""How long a step takes: a few real ones of a configuration, trained in a process of their own."""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xlab
from xlab.errors import ConfigError

# by its name, since the laboratory may not import the commands: it parses settings as fit does
_WORKER = "xlab.commands.plan_steps"
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|MemoryError|bad_alloc", re.IGNORECASE)


class MemoryShortageError(ConfigError):
    """A step took more memory than there is, and its process was ended by that."""


@dataclass(frozen=True)
class Spread:
    """Seconds that were measured several times.

    Args:
        median: of them all.
        low: the first quartile.
        high: the third.
        n: how many there were.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """Summarise one or more."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0], 1)
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high, len(seconds))


@dataclass(frozen=True)
class StepTimes:
    """What a few real steps of a configuration took.

    Args:
        step: seconds of an optimiser step, all of its micro-batches, on all ranks at once.
        tokens_per_step: positions that a step reads, padding included, over all ranks.
        validation_batch: seconds of a micro-batch of a validation; None in a run without.
        checkpoint: seconds of writing a checkpoint to nowhere: what a disk takes comes on top.
        checkpoint_bytes: how large one is.
        start: seconds from the process' start to the first step, without any preparation of data.
        peak_bytes: the most memory that the process (its part of the device, on a GPU) took above its imports; of one
            rank. None where the system does not tell.
        device: what it was measured on.
        world_size: ranks.
    """

    step: Spread
    tokens_per_step: int
    validation_batch: Spread | None
    checkpoint: float
    checkpoint_bytes: int
    start: float
    peak_bytes: int | None
    device: str
    world_size: int

    @property
    def seconds_per_step(self) -> float:
        """The median."""
        return self.step.median

    @property
    def tokens_per_second(self) -> float:
        """Of training alone, over all ranks."""
        return self.tokens_per_step / self.step.median

    def as_json(self) -> dict[str, Any]:
        """Give plain data, the derived figures with them."""
        return asdict(self) | {"tokens_per_second": self.tokens_per_second}


def measure(settings: Sequence[str], *, seconds: float = 10.0, modules: Sequence[str] = ()) -> StepTimes:
    """Train a few steps of a configuration on batches of random tokens, in a process of its own.

    Model, optimiser, precision, accumulation and ranks are those of the run; its learning rate is 0, and the user's
    callbacks and loggers are left out. No corpus is read, and nothing is written.

    Args:
        settings: the arguments of ``xlab.py fit``.
        seconds: how long to go on timing steps, beyond the few that must be.
        modules: whose classes a checkpoint in the settings may name.

    Raises:
        MemoryShortageError: when there is no memory for a step.
        ConfigError: when the settings cannot be trained, in the words of the process.
    """
    return _read(_worker(settings, f"--seconds={seconds}", modules=modules))


def measure_memory(settings: Sequence[str], *, modules: Sequence[str] = ()) -> int:
    """Train two steps and validate, as ``measure`` does, and give the bytes that it took above the imports.

    Args:
        settings: the arguments of ``xlab.py fit``.
        modules: whose classes a checkpoint in the settings may name.

    Raises:
        MemoryShortageError: when there is no memory for it.
        ConfigError: when the settings cannot be trained, or the system does not tell what a process takes.
    """
    peak = _read(_worker(settings, "--seconds=0", "--memory-only", modules=modules)).peak_bytes
    if peak is None:
        raise ConfigError("this system does not tell how much memory a process takes; on Linux it does")
    return peak


def _worker(settings: Sequence[str], *options: str, modules: Sequence[str]) -> str:
    """Run the process that trains a few steps; give what it prints."""
    trusted = [f"--allow-module={module}" for module in modules]
    command = [sys.executable, "-m", _WORKER, *options, *trusted, "--", *settings]
    # the process must find this very XLab, wherever it is started
    paths = [str(Path(xlab.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # one signal ends all ranks
    )
    try:
        output, said = process.communicate()
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        words = _last_words(said, process.returncode)
        was_killed = process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        raise (MemoryShortageError if was_killed or _NO_MEMORY.search(words) else ConfigError)(words)
    return output


def _read(output: str) -> StepTimes:
    told = json.loads(output)
    validation = told.pop("validation_batches")
    return StepTimes(
        step=Spread.of(told.pop("steps")), validation_batch=Spread.of(validation) if validation else None, **told
    )


def _last_words(said: str, status: int) -> str:
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "a step was killed, as the system does where memory runs out; lower data.batch_size or the model's sizes"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error:|Error\b", line)]
    last = (errors or lines or ["nothing"])[-1]
    return f"a step cannot be trained: {last.partition('error: ')[2] or last}"
