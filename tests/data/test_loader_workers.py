"""A loader's worker passes over the signals of others, and ends when the run says so."""

import os
import signal
import subprocess
import sys

import torch
from torch.utils.data import DataLoader, Dataset

from xlab.data.loader_workers import outlive_signals

_SEND = "import os, signal, sys; [os.kill(int(sys.argv[1]), s) for s in (signal.SIGINT, signal.SIGTERM)]"


class Pids(Dataset[torch.Tensor]):
    """The process that loads each item."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(os.getpid())


def test_a_worker_outlives_what_others_send_and_obeys_the_run() -> None:
    loader = DataLoader(Pids(), num_workers=1, prefetch_factor=1, worker_init_fn=outlive_signals, batch_size=1)
    batches = iter(loader)
    worker = int(next(batches))
    subprocess.run([sys.executable, "-c", _SEND, str(worker)], check=True)  # no parent of the worker
    assert [int(batch) for batch in batches] == [worker] * 7
    batches = iter(loader)
    (process,) = batches._workers  # type: ignore[attr-defined]
    next(batches)
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    assert process.exitcode == 0
