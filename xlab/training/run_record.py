"""run.json: what a run is, how it was started, and how it ended."""

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from xlab import __version__
from xlab.training.peak import PeakFlops
from xlab.training.throughput import peak_memory, run_flops_per_token

NAME = "run.json"
PACKAGES = ("torch", "lightning", "tokenizers", "datasets", "numpy")


class RunRecord(Callback):
    """Write ``run.json`` into the run's folder: whole at every moment, and kept up to date.

    ``status`` is running, finished, interrupted (by Ctrl-C or SIGTERM) or failed; of a run that was killed it stays
    running, and the process that is named has gone.

    Args:
        folder: the run's.
        resumed_from: the checkpoint that it goes on from.
        peak: of the machine; kept under ``peak``, and what it was measured of.
    """

    def __init__(self, folder: str | Path, resumed_from: str | None = None, peak: PeakFlops | None = None) -> None:
        self._path = Path(folder) / NAME
        self._resumed_from = resumed_from
        self._peak = peak
        self._record: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        decoder: Any = pl_module.decoder
        datamodule: Any = getattr(trainer, "datamodule", None)
        embeddings = decoder.embedding.weight.numel() + (0 if decoder.output is None else decoder.output.weight.numel())
        sharding: Any = getattr(pl_module, "sharding", None)
        parameters = sum(parameter.numel() for parameter in decoder.parameters())
        if sharding is not None:  # of a weight that is divided, this rank knows its part
            parameters = sharding.n_parameters
        self._record = {
            "status": "running",
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "resumed_from": self._resumed_from,
            "started": _now(),
            "process": os.getpid(),
            "host": socket.gethostname(),
            "commit": _commit(),
            "versions": _versions(),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "device": str(pl_module.device)},
            "world_size": trainer.world_size,
            "precision": str(trainer.precision),
            "first_step": trainer.global_step,
            "steps": int(trainer.estimated_stepping_batches),
            "parameters": parameters,
            "non_embedding_parameters": parameters - embeddings,
            "flops_per_token": run_flops_per_token(trainer, pl_module),
            "peak": None if self._peak is None else self._peak.measured(pl_module.device, str(trainer.precision)),
            "data_fingerprint": getattr(datamodule, "fingerprint", None),
        }
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            self._end(trainer, "interrupted")
        else:
            self._end(trainer, "failed", error=" ".join(str(exception).split()) or type(exception).__name__)

    def _end(self, trainer: Trainer, status: str, **more: Any) -> None:
        if self._record.get("status") == "running":  # not before training began, and not twice
            self._record |= {
                "status": status,
                "ended": _now(),
                "last_step": trainer.global_step,
                "peak_memory_bytes": peak_memory(),
                **more,
            }
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(f".{os.getpid()}")
            scratch.write_text(json.dumps(self._record, indent=2) + "\n", encoding="utf-8")
            os.replace(scratch, self._path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "xlab": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of XLab's code, with a + where files were changed after it; None where it is no checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
