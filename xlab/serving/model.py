"""The model that is served: decoder and tokenizer, its name, and its card."""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xlab import __version__, checkpoints
from xlab.checkpoints import Checkpoint
from xlab.data.tokenizers import Tokenizer
from xlab.serving.errors import RequestError, ServingError
from xlab.serving.limits import MOST_LOGPROBS, MOST_PROMPTS, MOST_STOPS, Limits
from xlab.transformer.decoder import Decoder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FIXED_LIMITS = {"stop": MOST_STOPS, "logprobs": MOST_LOGPROBS, "prompts": MOST_PROMPTS}


@dataclass(frozen=True)
class Served:
    """One model, under the name that clients know it by.

    Attributes:
        name: what ``model`` says in requests and answers.
        tokenizer: the checkpoint's.
        vocab_size: ids that the model knows.
        max_len: the longest context, in tokens.
        facts: what the checkpoint tells of itself, for the card.
        chat_template: the checkpoint's own, as Jinja text.
        max_meta_len: tokens of meta that it was trained with; None for a model that knows no meta.
    """

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_len: int
    facts: dict[str, Any]
    chat_template: str | None = None
    max_meta_len: int | None = None

    @cached_property
    def banned_ids(self) -> list[int]:
        """What a text never holds: markers of documents, and ids that the tokenizer has no text for."""
        return [*self.tokenizer.marker_ids, *range(len(self.tokenizer), self.vocab_size)]

    @cached_property
    def special_ids(self) -> list[int]:
        """Tokens that stand for no text: start, end, padding, and ids that the tokenizer has no text for."""
        known = len(self.tokenizer)
        return [token for token in range(self.vocab_size) if token >= known or not self.tokenizer.token_bytes(token)]

    def check_name(self, name: str | None) -> None:
        """Raise RequestError, 404, for the name of another model."""
        if name is not None and name != self.name:
            raise RequestError(
                f"there is no model {name[:64]!r} here; this server has {self.name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )

    def card(self, limits: Limits) -> dict[str, Any]:
        """What the playground shows of the model."""
        allowed = {"max_tokens": limits.max_tokens, "n": limits.texts, "beam_width": limits.texts}
        told = {"special_ids": self.special_ids, "limits": {**allowed, **FIXED_LIMITS}}
        return {"name": self.name, **self.facts, **told}


def served(checkpoint: Checkpoint, decoder: Decoder, *, name: str | None, precision: str) -> Served:
    """Put a model and what its checkpoint tells of it together.

    Args:
        checkpoint: as it was read.
        decoder: made of it.
        name: None makes one of the file's.
        precision: "keep", "fp32", "bf16" or "int8", as the engine holds the weights.

    Raises:
        ServingError: for a name that would not fit into an address.
    """
    name = name_of(checkpoint.path) if name is None else name
    if not NAME.fullmatch(name):
        raise ServingError(f"--name must be of letters, digits, and . _ - (64 at most), got {name!r}")
    settings = checkpoint.model
    own = str(next(decoder.parameters()).dtype).removeprefix("torch.")
    held = {"keep": own, "fp32": "float32", "bf16": "bfloat16", "int8": "int8"}[precision]
    n_parameters = sum(parameter.numel() for parameter in decoder.parameters())
    metrics = checkpoint.info.get("metrics") or {}
    facts = {
        "parameters": n_parameters,
        "bytes": n_parameters * {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}[held],
        "vocab_size": decoder.vocab_size,
        "max_len": decoder.max_len,
        **{key: settings.get(key) for key in ("d_model", "n_layers", "n_heads")},
        "precision": held,
        "data": _data(checkpoint),
        "validation": {
            key.removeprefix("val/"): value
            for key, value in metrics.items()
            if key.startswith("val/") and isinstance(value, int | float) and math.isfinite(value)
        },
        "step": checkpoint.info.get("step"),
        "xlab_version": checkpoint.info.get("xlab_version", __version__),
    }
    template = checkpoint.info.get("chat_template")
    tokenizer = checkpoints.restore_tokenizer(checkpoint)
    return Served(
        name,
        tokenizer,
        decoder.vocab_size,
        decoder.max_len,
        facts,
        chat_template=template if isinstance(template, str) else None,
        max_meta_len=checkpoints.max_meta_len(checkpoint),
    )


def name_of(path: Path) -> str:
    """Name a model by its run's folder, or by its file where that says more."""
    path = path.resolve()
    stem = path.stem
    if path.parent.name == "checkpoints":
        stem = path.parent.parent.name if stem in {"best", "last"} else f"{path.parent.parent.name}-{stem}"
    elif stem in {"best", "last"}:
        stem = path.parent.name
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64]
    return cleaned or "xlab"


def _data(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the checkpoint tells of its data, without the paths of the machine that it was made on."""
    settings = checkpoint.data
    source = settings.get("source")
    told = {"source": str(source.get("class_path", "")).rpartition(".")[2] if isinstance(source, dict) else None}
    told |= {key: settings[key] for key in ("splits", "seq_len", "vocab_size") if key in settings}
    fingerprint = checkpoint.info.get("data_fingerprint")
    return {**told, "fingerprint": fingerprint}
