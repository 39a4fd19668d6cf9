"""The peak of a machine: how many operations a second its matrix products reach in a run's precision."""

import platform
import socket
import time
from collections.abc import Mapping
from typing import Any

import torch

_SIZES = {"cpu": 1024, "cuda": 4096}  # of the square matrices: large enough that the product is all that takes time
_SECONDS = 0.05  # of repetitions, of which the fastest counts


class PeakFlops:
    """The machine's peak, measured once by a short matrix product, and known from then on.

    Args:
        known: what an earlier run's record holds; taken over where machine, precision and threads are the same.
    """

    def __init__(self, known: Mapping[str, Any] | None = None) -> None:
        self._known: dict[str, Any] = dict(known or {})

    def measured(self, device: torch.device, precision: str) -> dict[str, Any]:
        """Give ``flops_per_s``, and what it was measured of: ``host``, ``device``, ``threads``, ``product``.

        Args:
            device: that the run is on.
            precision: the trainer's, such as ``bf16-mixed``.
        """
        size, dtype = _SIZES.get(device.type, 1024), _dtype(precision)
        place = {
            "host": socket.gethostname(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
            "product": f"{size} x {size} {str(dtype).removeprefix('torch.')}",
        }
        if any(self._known.get(key) != value for key, value in place.items()):
            self._known = {**place, "flops_per_s": 2 * size**3 / _product_seconds(size, dtype, device)}
        return self._known


def _dtype(precision: str) -> torch.dtype:
    if "bf16" in precision or "transformer-engine" in precision:
        return torch.bfloat16
    return {"16": torch.float16, "64": torch.float64}.get(precision.partition("-")[0], torch.float32)


def _product_seconds(size: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = (torch.full((size, size), 0.5, dtype=dtype, device=device) for _ in range(2))
    product = a @ b  # the first one finds a kernel and its memory
    fastest, since = float("inf"), time.perf_counter()
    while fastest == float("inf") or time.perf_counter() - since < _SECONDS:
        _wait(device)
        began = time.perf_counter()
        torch.mm(a, b, out=product)
        _wait(device)
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
