"""How a run ends: with a last validation, or, when it is told to, behind the step it is at."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

WATCHED = (signal.SIGINT, signal.SIGTERM)


class ValidateAtEnd(Callback):
    """Let the run's last step be validated and checkpointed, wherever the validation interval falls."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True


class StopSignals:
    """Keep the first Ctrl-C or SIGTERM in mind until it can be obeyed; the second does what it always did."""

    def __init__(self) -> None:
        self.received = 0  # its number; 0 if there was none
        self._before: dict[int, Any] = {}

    def watch(self) -> None:
        """Take the signals over; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self.release()
            self.received = 0
            self._before = {number: signal.signal(number, self._remember) for number in WATCHED}

    def release(self) -> None:
        """Give the signals back to whom they were taken from."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.release()
        # print is not for signal handlers: it may have interrupted another one
        os.write(2, b"\nstopping behind this step; again: at once\n")
