"""A whole model's tensors by a family's table: published ones into XLab's, and back."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from xlab import checkpoints
from xlab.interop.errors import ConversionError
from xlab.interop.families.family import Family
from xlab.interop.families.tensors import TensorRule
from xlab.transformer.unfilled import unfilled

_SHORT = 64  # tokens
_MANY_LAYERS, _WIDE = 1000, 2**17  # up to these a decoder is made, so that all tensors that do not fit it can be named
_TABLE = "position.table.weight"


class Published(Protocol):
    """The tensors of a published model: their shapes are known before any is read."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Each tensor's shape by its name."""

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor."""


def to_ours(family: Family, settings: Mapping[str, Any], published: Published) -> dict[str, Tensor]:
    """Read a published model's tensors as a decoder's.

    Args:
        family: whose table says where each lies.
        settings: ``XLabModel``'s, as the family read them from the config.json.
        published: the tensors.

    Raises:
        ConversionError: naming every tensor that is missing, surplus or of another shape.
    """
    if too_large := claims_too_much(settings, published.shapes):
        raise ConversionError(f"the configuration claims {too_large}")
    rules = family.tensors(settings)
    names = _own_names(family, rules, published.shapes)
    wrong = []
    if settings["tie_embeddings"] and (copy := names.pop(family.output, None)) is not None:
        embedding = names.get(family.embedding)
        if embedding is None or not torch.equal(published[copy], published[embedding]):
            wrong.append(f"{copy} is not {family.embedding}, though tie_word_embeddings says so")
    wrong += _misfits(family, _shapes(rules, settings), {own: published.shapes[name] for own, name in names.items()})
    read = {name: published[names[name]] for rule in rules for name in rule.theirs if name in names}
    # quantised, and nothing says by which scales
    wrong += [f"{name} is of whole numbers" for name, found in read.items() if not found.is_floating_point()]
    if wrong:
        raise ConversionError(f"the tensors do not fit the configuration: {'; '.join(wrong)}")
    return {rule.ours: rule.join([read[name] for name in rule.theirs]) for rule in rules}


def claims_too_much(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Name sizes of a published configuration that none of its tensors has room for, before anything is built of them.

    Args:
        settings: ``XLabModel``'s, as its family read them.
        shapes: of the tensors, by name.

    Returns:
        What is claimed and what there is, or None.
    """
    if settings["n_layers"] > max(len(shapes), _MANY_LAYERS):
        return f"{settings['n_layers']} blocks, and has {len(shapes)} tensors"
    widest = max((max(shape, default=1) for shape in shapes.values()), default=0)
    sizes = {key: settings[key] for key in ("vocab_size", "d_model", "n_heads", "d_ff")}
    for part in ("attention", "position"):
        arguments = settings[part].get("init_args") or {}
        sizes |= {key: arguments[key] for key in ("n_kv_heads", "head_dim") if key in arguments}
    too_large = [f"{key} {size}" for key, size in sizes.items() if size > max(widest, _WIDE)]
    return f"{', '.join(too_large)}, and the widest of its tensors has {widest} rows" if too_large else None


def expected_weights(settings: Mapping[str, Any], *, has_table: bool) -> dict[str, Tensor]:
    """Give the weights that a decoder of these settings has, without content.

    Args:
        settings: ``XLabModel``'s.
        has_table: whether it has learned positions; else its context makes no weight, but perhaps a long fixed table.
    """
    context = settings["max_len"] if has_table else min(settings["max_len"], _SHORT)
    with unfilled():
        expected: dict[str, Tensor] = checkpoints.build_decoder({**settings, "max_len": context}).state_dict()
    return expected


def to_theirs(
    family: Family, settings: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Give a decoder's tensors one by one, under the names and in the layouts that a family's files have."""
    for rule in family.tensors(settings):
        yield from zip(rule.theirs, rule.split(weights[rule.ours]), strict=True)


def _own_names(family: Family, rules: list[TensorRule], names: Mapping[str, Any]) -> dict[str, str]:
    """Find the names of the family's table among those of the files, which may lack the prefix, or have older names."""
    known = {name for rule in rules for name in rule.theirs} | {family.output}
    found = {}
    for name in names:
        own, prefixed = family.renamed.get(name, name), f"{family.prefix}{name}"
        found[prefixed if own not in known and prefixed in known else own] = name
    return found


def _shapes(rules: list[TensorRule], settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Give the shapes that the published tensors must have."""
    own = expected_weights(settings, has_table=any(rule.ours == _TABLE for rule in rules))
    with unfilled():
        pieces = ((rule.theirs, rule.split(own[rule.ours])) for rule in rules)
        return {name: tuple(piece.shape) for names, made in pieces for name, piece in zip(names, made, strict=True)}


def _misfits(
    family: Family, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    missing = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    others = sorted(found.keys() - expected.keys())
    surplus = [f"{name} is surplus" for name in others if not family.buffers.search(f".{name}")]
    other_shapes = [
        f"{name} is {found[name]}, not {shape}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != shape
    ]
    return missing + surplus + other_shapes
