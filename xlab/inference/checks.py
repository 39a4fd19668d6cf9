"""Refuse what nothing can be generated from: each check is made once, before the loop."""

import math
import operator
import os
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from xlab.errors import GenerationError

LARGEST = 1e30  # of a bias or penalty: float32 holds 3e38, so a logit and a million of these stay finite


def generation_error(error: Exception, what: str) -> GenerationError:
    """An error of one text, whatever it was, so that those beside it go on."""
    if isinstance(error, GenerationError):
        return error
    wrapped = GenerationError(f"{what}: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def count(name: str, value: int, *, least: int, remedy: str) -> int:
    """Return ``value`` as an int, or raise GenerationError when it is no whole number ≥ ``least``."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise GenerationError(f"{name} must be a whole number of at least {least}, got {shown(value)}; {remedy}")
    return number


def number(name: str, value: object) -> None:
    """Raise GenerationError unless ``value`` is a number; how large it may be is the caller's to say."""
    if isinstance(value, bool) or not isinstance(value, float | int | np.floating | np.integer):
        raise GenerationError(f"{name} must be a number, got {shown(value)}")


def moderate(name: str, value: float, *, remedy: str) -> None:
    """Raise GenerationError unless ``value`` is a number that can be added to a logit a million times in float32."""
    number(name, value)
    if not abs(value) <= LARGEST:
        raise GenerationError(f"{name} must be from -{LARGEST:g} to {LARGEST:g}, got {shown(value)}; {remedy}")


def ids(name: str, values: object, vocab_size: int | None) -> tuple[int, int]:
    """Return the least and the largest of token ids (of none: 0).

    Raises:
        GenerationError: unless they are whole numbers, and of a vocabulary of ``vocab_size`` (None: not known yet).
    """
    listed = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    if not isinstance(listed, Collection) or isinstance(listed, str | bytes):
        raise GenerationError(f"{name} must be a list of token ids, got {shown(values)}")
    # by kinds, of which there are few, and not by ids: a prompt may have a million
    for kind in set(map(type, listed)):
        if not issubclass(kind, int | np.integer) or kind is bool:
            wrong = next(value for value in listed if type(value) is kind)
            raise GenerationError(f"{name} must be a list of token ids, and holds {shown(wrong)}")
    lowest, highest = min(listed, default=0), max(listed, default=0)
    if vocab_size is not None:
        token(f"{name} contains token id", lowest, vocab_size)
        token(f"{name} contains token id", highest, vocab_size)
    return lowest, highest


def prompt(x: Tensor) -> None:
    """Raise GenerationError unless ``x`` is a 1-D tensor of one or more integers."""
    if not isinstance(x, Tensor):
        raise GenerationError(f"x must be a 1-D tensor of token ids, got a {type(x).__name__}; pass torch.tensor(ids)")
    if x.dim() != 1:
        raise GenerationError(f"x must be 1-D, got shape {tuple(x.shape)}; pass one prompt at a time, as in x[0]")
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise GenerationError(f"x must hold integer token ids, got {x.dtype}; convert it with x.long()")
    if not x.numel():
        raise GenerationError("x is empty; begin it with the tokenizer's sos token")


def prompt_ids(x: Tensor, vocab_size: int | None) -> None:
    """Raise GenerationError when a token id of ``x`` is negative or not below ``vocab_size`` (None: not known yet)."""
    lowest, highest = torch.stack(torch.aminmax(x)).tolist()
    if vocab_size is not None:
        token("x contains token id", highest, vocab_size)
        token("x contains token id", lowest, vocab_size)
    elif lowest < 0:
        raise GenerationError(f"x contains token id {lowest}; token ids start at 0")


def token(subject: str, token_id: int, vocab_size: int) -> None:
    """Raise GenerationError when ``token_id``, named by ``subject``, is not in the vocabulary."""
    if not 0 <= token_id < vocab_size:
        raise GenerationError(
            f"{subject} {token_id}, outside the model's vocabulary of {vocab_size} (0 to {vocab_size - 1}); "
            "use the tokenizer that the model was trained with"
        )


def best_logit(value: float) -> None:
    """Raise GenerationError when the largest logit (or log-probability) shows that nothing can be chosen."""
    if math.isnan(value) or value == math.inf:
        raise GenerationError(
            "the model's logits contain NaN or infinity; its weights or activations overflowed: "
            "generate in float32, or use an earlier checkpoint"
        )
    if value == -math.inf:
        raise GenerationError("the model gives every allowed token probability 0; exclude fewer classes")


def memory(needed: int, device: torch.device, *, purpose: str, remedy: str = "ask for fewer or shorter texts") -> None:
    """Raise GenerationError when ``needed`` bytes are more than the device has free."""
    free = free_memory(device)
    if free is not None and needed > free:
        raise GenerationError(
            f"{purpose} would take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free; {remedy}"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return None


def shown(value: object) -> str:
    """A value as a message quotes it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"
