"""How much memory a decoder would take, told before any of it is: from small ones of the same parts, without content.

Letters: L layers, T the longest context.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xlab.errors import ConfigError, XLabError
from xlab.transformer.unfilled import unfilled

Build = Callable[[Mapping[str, Any]], nn.Module]

_SIZES = ("vocab_size", "max_len", "d_model", "n_layers", "n_heads", "d_ff")
_MODULES = 20 * 2**10  # bytes that a layer's, or an expert's, Python objects take, whatever their weights
_HEAD = 128  # bytes of Python numbers that a head may take
# while a table of float32 is made, in float64: its angles, their sines and cosines, these side by side, and itself
_TABLE_NUMBER = 32
_LAYERS, _PLACES = (2, 4), (16, 32)  # of the small ones
_MANY_LAYERS, _MANY_PLACES = 1000, 2**20
_WIDEST = 2**62  # a tensor cannot be as wide
_OF_A_FILE = 2  # times that a checkpoint may use its numbers: a tied table may be there under two names


@dataclass(frozen=True)
class Footprint:
    """What a decoder takes.

    Args:
        parameters: how many, to a few percent where layers differ.
        table_numbers: of fixed tables, which have content even where parameters have none.
        python: bytes of modules and Python numbers.
    """

    parameters: int
    table_numbers: int
    python: int

    def n_bytes(self, *, with_weights: bool) -> int:
        """Bytes at the moment it is made.

        Args:
            with_weights: whether its parameters have content, in the default precision.
        """
        weights = self.parameters * torch.get_default_dtype().itemsize if with_weights else 0
        return weights + _TABLE_NUMBER * self.table_numbers + self.python


def refuse_beyond_memory(settings: Mapping[str, Any], build: Build, *, memory: int | None = None) -> None:
    """Refuse settings of a model that this machine cannot hold, before anything of it is made.

    Weights count unless the default device is ``meta``. Settings that are no sizes pass: making the model tells why.

    Args:
        settings: the arguments of ``XLabModel``, as plain data.
        build: makes a decoder of such settings.
        memory: bytes that there are; those of this machine if not given.

    Raises:
        ConfigError: telling how much it would take, and how much there is; or as the model itself, whose parts may find
            that they do not fit together when the first of them are made.
    """
    memory = machine_memory() if memory is None else memory
    sizes = {name: settings[name] for name in _SIZES if isinstance(settings.get(name), int)}
    if not sizes.keys() >= {"vocab_size", "max_len", "d_model", "n_layers", "n_heads"} or min(sizes.values()) < 1:
        return
    with_weights = torch.get_default_device().type != "meta"
    taken = _least(settings)
    if taken.n_bytes(with_weights=with_weights) <= memory:
        found = footprint(settings, build)
        if found is None:
            return
        taken = found
    needed = taken.n_bytes(with_weights=with_weights)
    if needed > memory:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ConfigError(
            f"the model would take {_gib(needed)} of memory ({taken.parameters:,} parameters), and this machine has "
            f"{_gib(memory)}; lower the model's sizes (the largest is {largest} {sizes[largest]:,})"
        )


def footprint(settings: Mapping[str, Any], build: Build) -> Footprint | None:
    """Reckon what a decoder takes, in proportion to small ones of the same parts: every layer, every place as much.

    Args:
        settings: as of ``refuse_beyond_memory``.
        build: as there.

    Returns:
        None where the small ones cannot be made without content.

    Raises:
        ConfigError: for a size beyond what any tensor can have, and as the model itself.
    """
    n_layers, max_len = settings["n_layers"], settings["max_len"]
    few, more = (min(n, n_layers) for n in _LAYERS)
    near, far = (min(n, max_len) for n in _PLACES)
    try:
        small = _numbers(settings, build, few, near)
        deeper = _numbers(settings, build, more, near)
        longer = _numbers(settings, build, few, far)
    except XLabError:
        if n_layers > _MANY_LAYERS or max_len > _MANY_PLACES:
            raise
        # perhaps only a small one cannot be: what the whole says is what counts
        return Footprint(*_numbers(settings, build, n_layers, max_len), _least(settings).python)
    except (OverflowError, RuntimeError) as error:
        if "overflow" not in str(error).lower():
            return None
        told = ", ".join(f"{name} {settings[name]:,}" for name in _SIZES if isinstance(settings.get(name), int))
        raise ConfigError(f"the model's sizes are beyond what a tensor can have: {told}") from error
    except Exception:  # of a part of someone's own; making the model itself tells
        return None

    def reckoned(of: int) -> int:
        by_layer = (deeper[of] - small[of]) / max(more - few, 1)
        by_place = (longer[of] - small[of]) / max(far - near, 1)
        return int(small[of] + (n_layers - few) * by_layer + (max_len - near) * by_place)

    return Footprint(reckoned(0), reckoned(1), _least(settings).python)


def machine_memory() -> int:
    """The memory of this machine in bytes, or as much of it as its container may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or one without a limit, which says "max"
        return physical


def free_memory(device: torch.device | None = None) -> int:
    """Give the bytes that are free: of a GPU, or else of this machine or as much of it as its container may still use.

    On a system that does not tell what is free, all there is.
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = machine_memory()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = min(free, *(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), free)
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        return min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):  # another system, or no container with a limit
        return free


def claims_too_much(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str | None:
    """Name what a file asks for and does not hold: layers without weights, or one number shown as many.

    Args:
        settings: the arguments of ``XLabModel``, as plain data.
        weights: as they were read.

    Returns:
        What is wrong, or None.
    """
    experts = sum(_experts(settings.get("feed_forward")))
    for what, count in (("model.n_layers", settings.get("n_layers")), ("experts", experts)):
        if isinstance(count, int) and count > len(weights):  # each has one at least
            return f"it has {len(weights):,} weights, too few for {what} {count:,}"
    held: dict[int, int] = {}
    claimed = 0
    for name, weight in weights.items():
        storage = weight.untyped_storage()
        size = weight.numel() * weight.itemsize
        if size > storage.nbytes():
            return f"{name} shows {storage.nbytes():,} bytes as {size:,}"
        held[storage._cdata] = storage.nbytes()  # on the meta device all addresses are 0
        claimed += size
    total = sum(held.values())
    return f"its weights show {total:,} bytes as {claimed:,}" if claimed > _OF_A_FILE * total else None


def _least(settings: Mapping[str, Any]) -> Footprint:
    """What there is in any case: tables of tokens and places, a projection with some of every head in every layer."""
    width, n_layers, n_heads = settings["d_model"], settings["n_layers"], settings["n_heads"]
    experts = sum(_experts(settings.get("feed_forward")))
    parameters = width * (settings["vocab_size"] + n_layers * n_heads)
    return Footprint(
        parameters,
        settings["max_len"] * _turning(settings.get("position")),
        n_layers * _MODULES * (1 + experts) + n_heads * _HEAD,
    )


def _turning(position: Any) -> int:
    """How much of a head a position that has heads of its own width turns."""
    arguments = position.get("init_args") if isinstance(position, Mapping) else None
    width, share = (arguments or {}).get("head_dim"), (arguments or {}).get("fraction", 1.0)
    if not isinstance(width, int) or not isinstance(share, float | int) or not 0 <= share <= 1:
        return 0
    return int(min(width, _WIDEST) * share)


def _experts(settings: Any) -> Iterator[int]:
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key in ("n_experts", "n_shared") and isinstance(value, int):
                yield max(value, 0)
            yield from _experts(value)


def _numbers(settings: Mapping[str, Any], build: Build, n_layers: int, max_len: int) -> tuple[int, int]:
    with unfilled():
        small = build({**settings, "n_layers": n_layers, "max_len": max_len})
    tables = sum(table.numel() for table in small.buffers() if not table.is_meta)
    return sum(weight.numel() for weight in small.parameters()), tables


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB"
