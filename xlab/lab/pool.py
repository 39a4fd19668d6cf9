"""Trials that train at once, as many as there is room for."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

from xlab.errors import ConfigError
from xlab.lab.trials import LOOK_EVERY, Training, TrialFolder


def slots(parallel: int) -> list[dict[str, str]]:
    """Give the environment of each of ``parallel`` processes: they share the cores, and take turns on the GPUs.

    Raises:
        ConfigError: for fewer than one.
    """
    if parallel < 1:
        raise ConfigError(f"--parallel must be at least 1, got {parallel}")
    if parallel == 1:
        return [{}]
    threads = int(os.environ.get("OMP_NUM_THREADS") or _cores())
    shared = {"OMP_NUM_THREADS": str(max(threads // parallel, 1))}
    gpus = _gpus()
    return [{**shared, **({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {})} for i in range(parallel)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


class Pool:
    """Room for trials; what trains when it is left is told to end.

    Args:
        environments: of each slot, over this process's own.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        self._slots: list[Training | None] = [None] * len(environments)
        self._environments = environments

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self.running
        for training in left:
            training.interrupt()
        for training in left:
            training.wait()

    @property
    def running(self) -> list[Training]:
        """What trains."""
        return [training for training in self._slots if training is not None]

    @property
    def has_room(self) -> bool:
        """Whether another one may begin."""
        return None in self._slots

    def start(self, folder: TrialFolder) -> Training:
        """Begin a trial where there is room."""
        place = self._slots.index(None)
        training = Training(folder, self._environments[place])
        self._slots[place] = training
        return training

    def ended(self) -> Iterator[Training]:
        """Give those that are over, and make room; wait a moment when there are none."""
        over = [training for training in self.running if training.ended()]
        for training in over:
            self._slots[self._slots.index(training)] = None
            yield training
        if not over:
            time.sleep(LOOK_EVERY)
