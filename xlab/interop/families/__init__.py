"""The families of published models that XLab reads and writes, a table for each, used in both directions."""

from collections.abc import Mapping
from typing import Any

from xlab.interop.errors import ConversionError
from xlab.interop.families.family import Family
from xlab.interop.families.gpt import GPT2, GPTNeoX
from xlab.interop.families.llama import Llama
from xlab.interop.families.normal_form import differences, normal
from xlab.interop.families.tensors import TensorRule
from xlab.interop.families.windowed import Gemma2, Mistral, OLMo2, Qwen2, Qwen3

__all__ = ["FAMILIES", "Family", "TensorRule", "differences", "family_of", "fitting", "normal"]

# the simplest first: the first that can hold a model is the one it is written as
FAMILIES: tuple[Family, ...] = (GPT2(), Llama(), GPTNeoX(), Mistral(), Qwen2(), Qwen3(), OLMo2(), Gemma2())


def family_of(model_type: object) -> Family:
    """Give the family of that ``model_type``, as a config.json names it.

    Raises:
        ConversionError: if XLab does not know it; the message lists those that it does.
    """
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise ConversionError(f"XLab does not know the model_type {model_type!r}; it knows {known}")


def fitting(settings: Mapping[str, Any]) -> Family:
    """Give the simplest family that can hold a model with these settings exactly.

    Args:
        settings: ``XLabModel``'s, as plain data.

    Raises:
        ConversionError: if none can; it names the nearest, and every part that does not fit it.
    """
    attempts = [(family, family.attempt(settings)[1]) for family in FAMILIES]
    family, misfits = min(attempts, key=lambda attempt: len(attempt[1]))  # of equals the first
    if misfits:
        raise ConversionError(
            f"no known family has all of this model's parts; nearest is {family.name}, which has no equal for "
            f"{'; '.join(misfits)}. Train a model that is to be exported with -c conf/model/llama.yaml, or another "
            "there"
        )
    return family
