"""What a family of published models is: its settings and its tensors, in both directions."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from xlab.interop.errors import ConversionError
from xlab.interop.families.fields import Fields
from xlab.interop.families.normal_form import Settings, differences, normal
from xlab.interop.families.tensors import TensorRule

LONGEST = 2**24  # tokens: no published model's context is as long, and a table of more places fills the memory
# what a config.json of any family may say and XLab cannot do
_NEVER = {
    "quantization_config": "quantised weights",
    "is_encoder_decoder": "an encoder",
    "add_cross_attention": "cross-attention",
    "use_bidirectional_attention": "attention to later tokens",
}


class Family(ABC):
    """A family of models that ``transformers`` has a class for.

    Attributes:
        name: what people call it.
        model_type: what a config.json calls it.
        architecture: the class with a vocabulary projection.
        buffers: names of tensors that some files hold and no model needs: masks, tables of positions.
        renamed: what a name can be called in other files of the family, and what it is called here.
        prefix: before the names of a model's tensors; files of the bare model lack it.
        embedding, output: names of the embedding, and of the vocabulary projection.
    """

    name: ClassVar[str]
    model_type: ClassVar[str]
    architecture: ClassVar[str]
    buffers: ClassVar[re.Pattern[str]] = re.compile(r"\.rotary_emb\.inv_freq$")
    renamed: ClassVar[Mapping[str, str]] = {}
    prefix: ClassVar[str] = "model."
    embedding: ClassVar[str] = "model.embed_tokens.weight"
    output: ClassVar[str] = "lm_head.weight"

    def settings(self, config: Mapping[str, Any]) -> Settings:
        """Give ``XLabModel``'s settings of a config.json, as plain data; those of training are left to it.

        Raises:
            ConversionError: naming everything in it that XLab has no equal for, or that cannot be read.
        """
        fields = Fields(config)
        for key, what in _NEVER.items():
            if config.get(key):
                fields.refuse(f"{what} ({key})")
        if config.get("is_causal") is False:
            fields.refuse("attention to later tokens (is_causal false)")
        settings = self._settings(fields)
        if fields.problems:
            raise ConversionError(
                f"this {self.name} configuration is none that XLab can read: {'; '.join(fields.problems)}"
            )
        return settings

    def config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Give the config.json of a model of XLab's.

        Raises:
            ConversionError: naming every part that the family has no equal for.
        """
        proposed, misfits = self.attempt(settings)
        if misfits:
            raise ConversionError(f"{self.name} has no equal for {'; '.join(misfits)}")
        return proposed

    def attempt(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Give the config.json that comes nearest to a model of XLab's, and what is otherwise in it."""
        form = normal(settings)
        proposed = {"architectures": [self.architecture], "model_type": self.model_type, **self._config(form)}
        try:
            back = normal(self.settings(proposed))
        except ConversionError as error:
            return proposed, [str(error)]
        return proposed, differences(form, back) + self._refusals(form)

    @abstractmethod
    def tensors(self, settings: Mapping[str, Any]) -> list[TensorRule]:
        """Give the rule of each tensor of a decoder with these settings, which fit the family."""

    @abstractmethod
    def _settings(self, fields: Fields) -> Settings: ...

    @abstractmethod
    def _config(self, form: Settings) -> dict[str, Any]: ...

    def _refusals(self, form: Settings) -> list[str]:
        """Name what the family's class in transformers refuses, though a config.json can say it."""
        return []


def activation(fields: Fields, key: str, default: str) -> str:
    """Give the activation's name here: ``silu``, ``gelu``, ``gelu_tanh``, ``relu`` or ``relu2``."""
    names = {
        "silu": "silu",
        "swish": "silu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
        "relu2": "relu2",
    }
    told = fields.text(key, default)
    if told not in names:
        fields.refuse(f"{key} {told!r}")
    return names.get(told, "silu")
