"""What makes a run of fit fast where nobody chose: its precision, a fused optimiser, compiled steps; told in a line."""

import sys
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from xlab.datamodules import XLabDataModule
from xlab.lab.plan_steps import batch_shape, packing_of
from xlab.models import XLabModel
from xlab.training.compiling import CompiledPass, TrainingPass, eager_seconds, obstacle, pays
from xlab.training.peak import PeakFlops
from xlab.training.precision import device_of, fast_precision, refuse_imitated
from xlab.transformer.flops import flops_per_token

_FUSED_ON = ("cpu", "cuda", "mps", "xpu")
_FUSED = ("Adam", "AdamW", "SGD")  # of torch.optim, on all of these


def choose(config: Any) -> None:
    """Put in the precision and the fused optimiser of a run, where its settings leave them open.

    A run that goes on has both from its checkpoint: what the checkpoint leaves open stays as it was.

    Args:
        config: all settings of fit, parsed; they are changed.

    Raises:
        ConfigError: for a precision that the device does not have.
    """
    trainer = config["trainer"]
    device = device_of(trainer["accelerator"])
    if device is None:
        return
    if trainer["precision"] is None and not _has_precision_plugin(trainer["plugins"]):
        trainer["precision"] = fast_precision(device)
    if trainer["precision"] is not None:
        refuse_imitated(str(trainer["precision"]), device)
    if config.get("ckpt_path") is None and device.type in _FUSED_ON:
        _fuse(config["model"]["optimizer"])


def _has_precision_plugin(plugins: Any) -> bool:
    """Tell whether the user gives a plugin that is the precision; all of Lightning's are called so."""
    given = plugins if isinstance(plugins, list) else [plugins]
    return any("Precision" in str(plugin.get("class_path")) for plugin in given if hasattr(plugin, "get"))


def _fuse(optimizer: Any) -> None:
    if not hasattr(optimizer, "get"):  # a class by itself, from Python
        return
    home, _, name = str(optimizer.get("class_path")).rpartition(".")
    own = optimizer.get("init_args")
    if not home.startswith("torch.optim") or name not in _FUSED or own is None or own.get("fused") is not None:
        return
    if not (own.get("foreach") or own.get("capturable") or own.get("differentiable")):  # another way, or none
        own["fused"] = True


def compile_where_it_pays(
    asked: bool | str, trainer: Trainer, model: XLabModel, data: XLabDataModule, peak: PeakFlops
) -> str | None:
    """Compile the model's training pass if that was asked for, or if it pays in a run of this length.

    Args:
        asked: true, false, or "auto".
        trainer: of the run.
        model: whose pass it is.
        data: prepared.
        peak: of the machine; measured where the run's length decides.

    Returns:
        Why it is not compiled, where that may surprise; the model's pass tells whether it is.
    """
    device = trainer.strategy.root_device
    if asked is False:
        return None
    if type(model).training_step is not XLabModel.training_step:
        return f"{type(model).__name__} has a training_step of its own"
    if asked == "auto":
        per_second = peak.measured(device, str(trainer.precision))["flops_per_s"]
        seconds = uncompiled_seconds(trainer, model, data, per_second)
        if not pays(seconds, model.decoder.n_layers):
            return f"a run of about {_duration(seconds)} is over too soon for it to pay"
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return f"{type(trainer.strategy).__name__} changes the model that would be compiled"
    settings: Any = data.hparams
    documents = bool(settings["document_mask"])
    hindrance = obstacle(model.decoder, device, with_documents=documents, ragged=_is_ragged(data))
    if hindrance is not None:
        return hindrance
    model.training_pass = _compiled_pass(model, data)
    return None


class CompiledAlike(Callback):
    """Lets all ranks compile, or none, as the first does: each measured a peak of its own, which decides.

    Args:
        data: of the run.
    """

    def __init__(self, data: XLabDataModule) -> None:
        self._data = data

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1 or not isinstance(pl_module, XLabModel):
            return
        first = trainer.strategy.broadcast(pl_module.training_pass.is_compiled)
        if first and not pl_module.training_pass.is_compiled:
            pl_module.training_pass = _compiled_pass(pl_module, self._data)
        elif pl_module.training_pass.is_compiled and not first:
            pl_module.training_pass = TrainingPass(pl_module.decoder, pl_module.objective)


def _compiled_pass(model: XLabModel, data: XLabDataModule) -> CompiledPass:
    return CompiledPass(model.decoder, model.objective, ragged=_is_ragged(data), say=_say)


def _is_ragged(data: XLabDataModule) -> bool:
    """Tell whether a packing makes whole batches, each of its own shape."""
    settings: Any = data.hparams
    return packing_of(settings).batch_size(2) == 1


def uncompiled_seconds(trainer: Trainer, model: XLabModel, data: XLabDataModule, per_second: float) -> float:
    """Reckon how long the steps of a run take uncompiled, on a device of that peak; "max_time" may end it sooner."""
    settings: Any = data.hparams
    rows, seq_len = batch_shape(settings)
    flops = flops_per_token(model.decoder, seq_len) * rows * seq_len * trainer.accumulate_grad_batches
    seconds = eager_seconds(float(flops) * _steps(trainer, data), per_second)
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and (remaining := timer.time_remaining()) is not None:
            seconds = min(seconds, remaining)
    return seconds


def _steps(trainer: Trainer, data: XLabDataModule) -> float:
    """The optimiser steps of a run that has not begun; infinite where only its time ends it."""
    steps = float("inf") if trainer.max_steps < 0 else float(trainer.max_steps)
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return steps
    settings: Any = data.hparams
    size = packing_of(settings).batch_size(int(settings["batch_size"])) * trainer.world_size
    batches: float = len(data.windows("train")) // size
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else batches * float(1.0 if limit is None else limit)
    return min(steps, trainer.max_epochs * batches / trainer.accumulate_grad_batches)


def line(precision: str, optimizer: Any, *, compiled: bool, reason: str | None) -> str:
    """Say in one line what was chosen.

    Args:
        precision: the trainer's.
        optimizer: the settings of the model's.
        compiled: whether training steps are.
        reason: why they are not.
    """
    settings: Mapping[str, Any] = optimizer if isinstance(optimizer, Mapping) else {"class_path": str(optimizer)}
    name = str(settings["class_path"]).rpartition(".")[2]
    fused = "fused " if (settings.get("init_args") or {}).get("fused") else ""
    steps = "compiled" if compiled else "not compiled" + (f": {reason}" if reason else "")
    return f"fast: {precision}, {fused}{name}, {steps}"


def _duration(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
