"""How Lightning writes and reads checkpoints of one file: whole or not at all, at once or beside training."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from xlab import checkpoint_writing, checkpoints, sharded_checkpoints


class WholeFiles(TorchCheckpointIO):
    """Write checkpoints whole or not at all, and read them without unpickling anything but plain data."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoint_writing.write(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        path = checkpoints.find(path)
        if sharded_checkpoints.is_sharded(path):
            return sharded_checkpoints.read(path, with_optimizer=True)
        with sharded_checkpoints.readable(path):
            loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return loaded


class BackgroundFiles(WholeFiles):
    """Write checkpoints in a thread while training goes on.

    A copy of what is written is held until then: of one checkpoint, or of two where the best is also the last. An error
    is raised when the next one is written, or at the end. ``xlab.strategies.Sharded`` writes beside training, too,
    where this is among the trainer's plugins.
    """

    def __init__(self) -> None:
        super().__init__()
        self._executor: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self._wait(for_all_but=1)
        still = apply_to_collection(checkpoint, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1)  # in the order that they were asked for
        self._pending.append(self._executor.submit(checkpoint_writing.write, still, path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        self._wait()
        return super().load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: Any) -> None:
        self._wait()
        super().remove_checkpoint(path)

    def teardown(self) -> None:
        """Wait for what is being written."""
        try:
            self._wait()
        finally:
            if self._executor is not None:
                self._executor.shutdown()
                self._executor = None

    def _wait(self, for_all_but: int = 0) -> None:
        while len(self._pending) > for_all_but:
            self._pending.popleft().result()
