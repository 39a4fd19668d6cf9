"""Throughput: tokens a second, the share of the machine's peak they make, and the memory they take."""

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xlab.data.ranks import data_ranks
from xlab.training.peak import PeakFlops
from xlab.transformer.flops import flops_per_token

LOGGED_EVERY = 10  # optimiser steps over which tokens per second are averaged


class Throughput(Callback):
    """Log ``tokens_per_s`` over all ranks, ``mfu`` and ``memory_bytes``; validating and saving take no training time.

    With each validation ``tokens`` and ``train_seconds`` are logged, all that were spent until then; a resumed run
    counts on. They are the first rank's, times the ranks: where batches differ in shape, an estimate.

    Args:
        peak: what the share of peak FLOPs (MFU; Chowdhery et al. 2022, arXiv 2204.02311, appendix B) is a share of,
            on each rank; without it there is no such figure.
    """

    def __init__(self, peak: PeakFlops | None = None) -> None:
        self._peak = peak
        self._peak_tokens_per_s = 0.0  # what all ranks could do if they did nothing but multiply
        self._tokens = 0
        self._seconds = 0.0
        self._tokens_before = 0  # those of the rate that was logged last, and what came before it
        self._seconds_before = 0.0
        self._since: float | None = None  # None: what went before the batch that comes is not training
        self._logged_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._peak is not None:
            peak = self._peak.measured(pl_module.device, str(trainer.precision))["flops_per_s"]
            self._peak_tokens_per_s = peak * trainer.world_size / run_flops_per_token(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._tokens += batch["inputs"].numel() * data_ranks(trainer)[1]
        assert self._since is not None
        self._seconds += now - self._since
        self._since = now
        if trainer.global_step != self._logged_step and trainer.global_step % LOGGED_EVERY == 0:
            self._logged_step = trainer.global_step
            tokens, seconds = self._tokens - self._tokens_before, self._seconds - self._seconds_before
            pl_module.log("tokens_per_s", tokens / seconds, prog_bar=True)
            pl_module.log("memory_bytes", float(peak_memory()))
            if self._peak_tokens_per_s:
                pl_module.log("mfu", tokens / seconds / self._peak_tokens_per_s, prog_bar=True)
            self._tokens_before, self._seconds_before = self._tokens, self._seconds

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            spent = {"tokens": float(self._tokens), "train_seconds": self._seconds}
            pl_module.log_dict(spent, sync_dist=False, rank_zero_only=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = None

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self._tokens, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._tokens = self._tokens_before = int(state_dict["tokens"])
        self._seconds = self._seconds_before = float(state_dict["seconds"])


def run_flops_per_token(trainer: Trainer, pl_module: LightningModule) -> int:
    """Count the operations of training on a token of the run's windows; see ``flops_per_token``."""
    decoder: Any = pl_module.decoder
    settings: Any = getattr(getattr(trainer, "datamodule", None), "hparams", {})
    seq_len, sharding = settings.get("seq_len", decoder.max_len), getattr(pl_module, "sharding", None)
    return flops_per_token(decoder, seq_len) if sharding is None else int(sharding.flops_per_token(seq_len))


def peak_memory() -> int:
    """Give the most bytes that this process held: the GPU's where one was used, else its own."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory() -> int:
    """Give the bytes that this process holds in memory now; where the system does not tell, the most that it held."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_memory()
    return pages * resource.getpagesize()
