"""Precisions: which of them a device computes in by itself, and which a run takes when nobody says."""

from typing import Any

import torch

from xlab.errors import ConfigError

# what Lightning's short names stand for
_SHORT = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # of a processor: x86's two, and ARM's
_AMPERE, _ADA = (8, 0), (8, 9)  # NVIDIA's first generations with bf16, and with fp8


def device_of(accelerator: Any) -> torch.device | None:
    """Give the kind of device that Lightning would take; None for those that XLab knows nothing about."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu") if accelerator in ("auto", "cpu") else None


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bf16; where they are imitated, fp32 is faster."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    if device.type == "cpu":
        # oneDNN's own answer would count processors that imitate bf16
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in _BF16)
    return False


def fast_dtype(device: torch.device) -> torch.dtype:
    """Give bf16 where the device has instructions for it, else fp32."""
    return torch.bfloat16 if has_bf16(device) else torch.float32


def fast_precision(device: torch.device) -> str:
    """Give the trainer's precision that a run takes by itself: weights stay fp32, products are bf16 where that pays."""
    return "bf16-mixed" if has_bf16(device) else "32-true"


def refuse_imitated(precision: str, device: torch.device) -> None:
    """Refuse a precision that the device does not have.

    Args:
        precision: the trainer's, such as ``bf16-mixed``.
        device: that the run is on.

    Raises:
        ConfigError: for one that is imitated, slower than fp32, or not there at all.
    """
    precision = _SHORT.get(precision, precision)
    kind = precision.partition("-")[0]
    if kind == "transformer" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= _ADA):
        why = "fp8, and that needs a GPU of NVIDIA's Ada or Hopper generation, or newer"
    elif kind == "bf16" and device.type in ("cpu", "cuda") and not has_bf16(device):
        why = f"bf16, and this {_named(device)} has no instructions for it: imitated, it is slower than fp32"
    elif kind == "16" and device.type == "cpu":
        why = "fp16, and a processor trains in no fp16"
    else:
        return
    raise ConfigError(
        f"trainer.precision {precision} is {why}; take {fast_precision(device)}, or leave it out: it is chosen then"
    )


def _named(device: torch.device) -> str:
    return "processor" if device.type == "cpu" else torch.cuda.get_device_name(device)
