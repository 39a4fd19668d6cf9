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
    rules = family.tensors(settings)
    names = _own_names(family, rules, published.shapes)
    wrong = []
    if settings["tie_embeddings"] and (copy := names.pop(family.output, None)) is not None:
        embedding = names.get(family.embedding)
        if embedding is None or not torch.equal(published[copy], published[embedding]):
            wrong.append(f"{copy} is not {family.embedding}, though tie_word_embeddings says so")
    wrong += _misfits(family, _shapes(rules, settings), {own: published.shapes[name] for own, name in names.items()})
    if wrong:
        raise ConversionError(f"the tensors do not fit the configuration: {'; '.join(wrong)}")
    return {rule.ours: rule.join([published[names[name]] for name in rule.theirs]) for rule in rules}


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
    with unfilled():
        own = checkpoints.build_decoder(settings).state_dict()
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
