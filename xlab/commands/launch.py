"""What a run takes from torchrun: how many ranks there are, and, started anew, where its run was."""

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from xlab import checkpoints
from xlab.errors import CheckpointError

_KEY = "xlab/run/"  # of the launch's store: the folder of the run of each attempt


class RunOfLaunch(Callback):
    """Tell torchrun's store which folder the run has, for the workers that may be started anew.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and (store := _store()) is not None:
            store.set(f"{_KEY}{_attempt()}", str(self._folder.absolute()))


def gone_on(given: Sequence[str]) -> list[str]:
    """Give the arguments of a ``fit``: where torchrun started it anew, it goes on from the last checkpoint of its run.

    The store belongs to the launch: no run of another is taken for its own.
    """
    path = _last_of_launch()
    if path is None:
        return list(given)
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"note: started anew by torchrun; the run goes on from {os.path.relpath(path)}", file=sys.stderr)
    return [*given, f"--ckpt_path={path}"]


def ranks_of_torchrun() -> dict[str, int]:
    """Give the devices of each node and the nodes that torchrun has started processes for; nothing without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {}
    each = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": each, "num_nodes": int(os.environ["WORLD_SIZE"]) // each}


def _last_of_launch() -> Path | None:
    store = _store() if _attempt() else None
    if store is None:
        return None
    for attempt in range(_attempt() - 1, -1, -1):  # the one before may not have come to a checkpoint
        if store.check([f"{_KEY}{attempt}"]):
            folder = store.get(f"{_KEY}{attempt}").decode()
            try:
                return checkpoints.find(folder, names=("last.ckpt", "best.ckpt"))
            except CheckpointError:
                continue
    return None


def _attempt() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _store() -> Any:
    """Reach the store of torchrun's agent, which outlives the workers; None where there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60))
