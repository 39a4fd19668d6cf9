"""Modules on the meta device, made without filling what has no content."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def unfilled() -> Iterator[None]:
    """Make modules on the meta device: they have shapes and no content, and take no memory."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leave tensors as they are made.

    To fill one on the meta device, where nothing comes of it, torch imports its compiler: that takes longer than to
    read a checkpoint.
    """

    filling = frozenset(
        f"{name}_"
        for name in (
            *("normal", "uniform", "trunc_normal", "zero", "zeros", "ones", "fill", "constant", "div", "mul"),
            *("kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal", "orthogonal"),
        )
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        subject = args[0] if args else (kwargs or {}).get("tensor")
        if getattr(func, "__name__", "") in self.filling and isinstance(subject, Tensor) and subject.is_meta:
            return subject
        return func(*args, **(kwargs or {}))
