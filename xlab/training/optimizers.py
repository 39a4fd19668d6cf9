"""Which parameters an optimiser treats how: what decays, what is frozen, and at what rate each learns."""

import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from xlab.errors import ConfigError
from xlab.transformer.attention import GroupedQueryAttention
from xlab.transformer.decoder import Decoder
from xlab.transformer.mixture_of_experts import Router

# keys of parameter groups: by what a group's learning rate differs from the optimiser's own, and which of it is μP's
FACTOR, WIDENING = "learning_rate_factor", "widening"
# of each of a group's parameters, the rows of the projections that it holds; empty for all but a block's projections
PARTS = "parts"
# and whether it is a table of which a step trains the rows of its tokens alone: of embeddings or values
TABLES = "tables"


def named(module: nn.Module) -> dict[str, nn.Parameter]:
    """Give a model's parameters by the names that settings call them: the decoder's are its own, without a prefix."""
    return {name.removeprefix("decoder."): parameter for name, parameter in module.named_parameters()}


def decay_groups(
    module: nn.Module,
    *,
    widening: Callable[[str, nn.Parameter], float] = lambda name, parameter: 1.0,
    learning_rates: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters: matrices, which decay, apart from vectors (norms, biases), which do not.

    Args:
        module: a model or its decoder; frozen parameters are left out.
        widening: gives what the initialisation multiplies a parameter's rate by (μP).
        learning_rates: pattern of names to factor of the rate; where several match, all count.

    Returns:
        Parameter groups for a ``torch.optim.Optimizer``, to be given to ``scale_rates`` afterwards. Without factors
        there are two, and the first takes the optimiser's own ``weight_decay``. Their keys ``parts`` and ``tables``
        say which are the blocks' projections and which tables of embeddings, to an optimiser that treats these by
        themselves.

    Raises:
        ConfigError: for a factor that is not above 0, or a pattern that matches nothing that is trained.
    """
    trained = {name: parameter for name, parameter in named(module).items() if parameter.requires_grad}
    factors = dict(learning_rates or {})
    for pattern, factor in factors.items():
        if not (isinstance(factor, int | float) and 0 < factor < math.inf):
            raise ConfigError(
                f"model.learning_rates: the factor of {pattern!r} must be above 0, got {factor}; model.freeze holds "
                "weights still"
            )
        _check_matches(pattern, trained, "model.learning_rates", of="trained parameter")
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in trained.items():
        own = math.prod(float(factor) for pattern, factor in factors.items() if fnmatchcase(name, pattern))
        groups[parameter.ndim < 2, widening(name, parameter), own].append(parameter)
    # those without a factor first
    order = sorted(groups, key=lambda key: (key[1:] != (1.0, 1.0), key))
    parts, looked_up = projections(module), tables(module)
    return [_group(groups[key], parts, looked_up, *key) for key in order]


def projections(module: nn.Module) -> dict[Tensor, list[int]]:
    """Find the weights of the projections in a decoder's blocks, and the rows of what each of them holds.

    That is one projection, or queries, keys and values, or gate and up, one above the other. Routers are none: what
    they give are scores. Neither are the factors of a low-rank correction, nor tables, nor the vocabulary projection.
    """
    found: dict[Tensor, list[int]] = {}
    for name, owner in module.named_modules():
        if "blocks" not in name.split("."):
            continue
        for own_name, part in owner.named_children():
            if isinstance(part, nn.Linear) and not isinstance(part, Router):
                found[part.weight] = _rows(owner, own_name, part.weight.size(0))
    return found


def tables(module: nn.Module) -> set[Tensor]:
    """Find the tables of which a step trains but the rows of its tokens: of embeddings and of values.

    That of places is none, nor is one that is the vocabulary projection as well: every step trains all of them.
    """
    decoders = [part for part in module.modules() if isinstance(part, Decoder)]
    whole = {decoder.unembedding for decoder in decoders}
    whole |= {weight for decoder in decoders for weight in decoder.position.parameters()}
    return {part.weight for part in module.modules() if isinstance(part, nn.Embedding)} - whole


def _rows(owner: nn.Module, own_name: str, n_rows: int) -> list[int]:
    if own_name == "qkv" and isinstance(owner, GroupedQueryAttention):
        keys = owner.n_kv_heads * owner.head_dim
        return [owner.n_heads * owner.head_dim, keys, keys]
    return [n_rows // 2] * 2 if own_name == "gate_up" else [n_rows]


def _group(
    parameters: list[nn.Parameter],
    parts: Mapping[Tensor, list[int]],
    looked_up: Set[Tensor],
    is_vector: bool,
    widening: float,
    own: float,
) -> dict[str, Any]:
    group: dict[str, Any] = {"params": parameters, FACTOR: widening * own}
    group[PARTS] = [parts.get(parameter, []) for parameter in parameters]
    group[TABLES] = [parameter in looked_up for parameter in parameters]
    if is_vector:
        group["weight_decay"] = 0.0
    elif widening != 1.0:
        group[WIDENING] = widening
    return group


def scale_rates(optimizer: Optimizer) -> None:
    """Multiply each group's learning rate by its factor.

    Where the factor is the width's, weight decay is divided by it: AdamW multiplies its decay by the rate, and the time
    over which weights are forgotten must not depend on the width (Wang and Aitchison 2024, arXiv 2405.13698).
    """
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group[FACTOR]
        if WIDENING in group and "weight_decay" in group:
            group["weight_decay"] = group["weight_decay"] / group[WIDENING]


def base_rate(group: Mapping[str, Any]) -> float:
    """Give the optimiser's own rate, of a group whose rate may have a factor."""
    return float(group["lr"]) / float(group.get(FACTOR, 1.0))


def hold_still(module: nn.Module, patterns: Iterable[str]) -> None:
    """Freeze the parameters whose names match one of the patterns; ``*`` matches dots, too.

    Args:
        module: a model or its decoder.
        patterns: such as ``embedding*`` or ``blocks.0.*``.

    Raises:
        ConfigError: for a pattern that matches nothing, or where nothing is left to train.
    """
    patterns, parameters = list(patterns), named(module)
    for pattern in patterns:
        _check_matches(pattern, parameters, "model.freeze", of="parameter")
    for name, parameter in parameters.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError(f"model.freeze: {', '.join(map(repr, patterns))} leaves nothing to train; take one out")


def _check_matches(pattern: str, names: Iterable[str], setting: str, *, of: str) -> None:
    names = list(names)
    if any(fnmatchcase(name, pattern) for name in names):
        return
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
    raise ConfigError(f"{setting}: {pattern!r} matches no {of}; the nearest are {', '.join(close)}")
