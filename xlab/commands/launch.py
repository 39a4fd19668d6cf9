"""What a run takes from torchrun: how many ranks there are, and, started anew, where its run was; and a rank lost."""

import contextlib
import functools
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from xlab import checkpoints
from xlab.errors import CheckpointError, TrainingError
from xlab.sharded_checkpoints import lost_rank

# keys of the launch's store: how many runs began, the folder of each, and the port where an attempt's workers meet
_COUNT, _FOLDER, _PORT = "xlab/runs", "xlab/run/", "xlab/port/"


class RunOfLaunch(Callback):
    """Tell torchrun's store which folder the run has, for the workers that may be started anew.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and (store := _store()) is not None:
            store.set(f"{_FOLDER}{store.add(_COUNT, 1)}", str(self._folder.absolute()))


def gone_on(given: Sequence[str]) -> list[str]:
    """Give the arguments of a ``fit``: where torchrun started it anew, it goes on from the last checkpoint of its run.

    The store belongs to the launch: no run of another is taken for its own.
    """
    path = _last_of_launch()
    _meet_anew()
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


@contextlib.contextmanager
def a_lost_rank_in_one_line() -> Iterator[None]:
    """Say in a line that another rank has gone, which is all that this one knows.

    Raises:
        TrainingError: in place of what the collectives raise.
    """
    try:
        yield
    except RuntimeError as error:
        if (reason := lost_rank(error)) is None:
            raise
        raise TrainingError(
            f"another rank was lost ({reason}), which may have said why; start again, and let a fit go on from its "
            "last checkpoint with --ckpt_path RUN_FOLDER"
        ) from error


def _last_of_launch() -> Path | None:
    store = _store()
    # a run began when all its ranks were there: each of this one's finds the same
    n_runs = 0 if store is None else store.add(_COUNT, 0)
    for number in range(n_runs, 0, -1):  # the last may not have come to a checkpoint
        folder = store.get(f"{_FOLDER}{number}").decode()
        with contextlib.suppress(CheckpointError):
            return checkpoints.find(folder, names=("last.ckpt", "best.ckpt"))
    return None


def _meet_anew() -> None:
    """Let the workers of a later attempt meet at a store of their own.

    torchrun's agent keeps one for all attempts, where they find the addresses of workers that are dead (PyTorch 2.13).
    """
    attempt, store = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")), _store()
    if not attempt or store is None or os.environ["WORLD_SIZE"] != os.environ["LOCAL_WORLD_SIZE"]:
        return
    key = f"{_PORT}{attempt}"
    if int(os.environ["RANK"]) == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            store.set(key, str(free.getsockname()[1]))
    os.environ |= {"MASTER_PORT": store.get(key).decode(), "TORCHELASTIC_USE_AGENT_STORE": "False"}


@functools.cache
def _store() -> Any:
    """Reach the store of torchrun's agent, which outlives the workers; None where there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch._C._distributed_c10d import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60))
