"""Prove that an export is the model it was made of, in a fresh process that reads both from the disk."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xlab.errors import ConfigError
from xlab.interop.gguf_file import INSTALL
from xlab.interop.worker import ask

_WORKER = "xlab.interop.proof_process"
# what reads an export of each kind again
LIBRARIES = {
    "pt": ("torch",),
    "hf": ("transformers",),
    "safetensors": ("safetensors",),
    "gguf": ("transformers", "gguf", "accelerate"),
}


@dataclass(frozen=True)
class Proof:
    """What was compared, and how far it is apart.

    Attributes:
        library: what read the export.
        n_tokens: of the prompts.
        logits: the largest difference of logits, divided by the largest logit.
        limit: of that.
        weights: the same of the weights, beside the original's as they are rounded to the export's precision.
        weights_limit: of that.
        apart: the weight that is farthest apart.
        n_texts: that were encoded and decoded.
        tokenizer: how the tokenizers differ; None where they do not.
    """

    library: str
    n_tokens: int
    logits: float
    limit: float
    weights: float
    weights_limit: float
    apart: str
    n_texts: int
    tokenizer: str | None

    @property
    def holds(self) -> bool:
        """Whether the export is the model."""
        # a NaN is below no limit
        return self.logits <= self.limit and self.weights <= self.weights_limit and self.tokenizer is None

    def __str__(self) -> str:
        said = (
            f"read again by {self.library}: logits of {self.n_tokens} tokens apart by {self.logits:.2g} of the largest "
            f"(limit {self.limit:.2g}), weights by {self.weights:.2g} (limit {self.weights_limit:.2g}"
        )
        said += f", at {self.apart})" if self.weights > 0 else ")"
        return f"{said}, " + (self.tokenizer or f"{self.n_texts} texts have the same tokens and come back the same")


def check_libraries(kind: str) -> None:
    """Refuse to begin what could not be proved.

    Raises:
        ConfigError: naming the packages that are missing, and how to install them.
    """
    if missing := [name for name in LIBRARIES[kind] if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"the proof of --format {kind} needs {', '.join(missing)}, not installed here: {INSTALL}, or give "
            "--no-verify"
        )


def prove(
    checkpoint: str | Path, export: str | Path, kind: str, *, dtype: str = "keep", modules: Sequence[str] = ()
) -> Proof:
    """Compare an export with the checkpoint it was made of.

    Args:
        checkpoint: the original.
        export: the file or folder.
        kind: its format: pt, hf, safetensors or gguf.
        dtype: what its weights were rounded to: keep, fp32, bf16 or fp16.
        modules: whose classes the checkpoint may name.

    Raises:
        ConversionError: if the export cannot be read, with the reader's last words.
        ConfigError: if what reads it is not installed.
    """
    check_libraries(kind)
    asked = {
        "checkpoint": str(checkpoint),
        "export": str(export),
        "kind": kind,
        "dtype": dtype,
        "modules": list(modules),
    }
    return Proof(**ask(_WORKER, asked, purpose="the export cannot be read again"))
