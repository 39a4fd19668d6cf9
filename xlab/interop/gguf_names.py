"""What llama.cpp's architectures call things: one table each for a model's numbers and its tensors, in both directions.

The names are those of gguf-py (gguf/constants.py); what an architecture means by them is in llama.cpp's src/models.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xlab.interop.errors import ConversionError
from xlab.interop.families.tensors import AsItIs, Layout, Pieces, TensorRule

# GGUF's keys after the architecture's name, and the same number in a Hugging Face config.json
_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
_GROUPED = {"attention.head_count_kv": "num_key_value_heads"}
_RMS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_ROTARY = {"rope.freq_base": "rope_theta"}
_HEAD = {"attention.key_length": "head_dim", "attention.value_length": "head_dim"}
_LLAMA = _SIZES | _GROUPED | _RMS | _ROTARY | _HEAD

_FUSED = {"attention.qkv": ("attn_qkv",)}
_BLOCK: dict[str, tuple[str, ...]] = {
    "attention.qkv": ("attn_q", "attn_k", "attn_v"),
    "attention.out": ("attn_output",),
    "attention.qk_norm.query": ("attn_q_norm",),
    "attention.qk_norm.key": ("attn_k_norm",),
    "attention_norm": ("attn_norm",),
    "attention_out_norm": ("post_attention_norm",),
    "feed_forward.gate_up": ("ffn_gate", "ffn_up"),
    "feed_forward.up": ("ffn_up",),
    "feed_forward.down": ("ffn_down",),
    "feed_forward_norm": ("ffn_norm",),
    "feed_forward_out_norm": ("post_ffw_norm",),
}
_OUTSIDE = {
    "embedding": "token_embd",
    "position.table": "position_embd",
    "norm": "output_norm",
    "output": "output",
}


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's architectures, as far as XLab has an equal.

    Attributes:
        name: in ``general.architecture``.
        model_type: of the Hugging Face family with the same settings.
        keys: GGUF's keys and those of that family's config.json.
        block: the names of a block's tensors, by XLab's.
        interleaves: whether the pair that a rotary position turns lies side by side in a head's rows.
        adds_one: whether the weight of a norm is written as what multiplies: Gemma's model has 1 + weight.
        ties: whether the vocabulary projection can be the embedding's (True), is its copy (False), or must be (None).
        reads_factors: whether it reads factors of rotary angles, which Llama 3's scaling is written as.
        square: whether heads · head_dim must be the width.
    """

    name: str
    model_type: str
    keys: Mapping[str, str] = field(default_factory=lambda: _LLAMA)
    block: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _BLOCK)
    interleaves: bool = False
    adds_one: bool = False
    ties: bool | None = True
    square: bool = False
    reads_factors: bool = False


_GPT2_KEYS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
_NEOX_KEYS = _SIZES | {
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "use_parallel_residual": "use_parallel_residual",
}
_GEMMA_KEYS = _LLAMA | {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_BRANCH_NORMS = {"attention_norm": ("post_attention_norm",), "feed_forward_norm": ("post_ffw_norm",)}

ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("llama", "llama", interleaves=True, reads_factors=True),
        Architecture("qwen2", "qwen2", square=True),
        Architecture("qwen3", "qwen3"),
        Architecture("olmo2", "olmo2", block=_BLOCK | _BRANCH_NORMS, ties=False, square=True),
        Architecture("gemma2", "gemma2", keys=_GEMMA_KEYS, adds_one=True, ties=None),
        Architecture("gpt2", "gpt2", keys=_GPT2_KEYS, block=_BLOCK | _FUSED, square=True),
        Architecture("gptneox", "gpt_neox", _NEOX_KEYS, block=_BLOCK | _FUSED, ties=False, square=True),
    )
}
# families that are another architecture's models, told apart in Hugging Face's folders only
_ALSO = {"mistral": "llama"}


def architecture_of(model_type: str) -> Architecture:
    """Give the architecture that holds a Hugging Face family's models.

    Raises:
        ConversionError: if XLab writes none of that kind.
    """
    for architecture in ARCHITECTURES.values():
        if architecture.model_type == _ALSO.get(model_type, model_type):
            return architecture
    raise ConversionError(f"XLab writes no GGUF of {model_type} models; it writes {', '.join(ARCHITECTURES)}")


@dataclass(frozen=True)
class Interleaved(Layout):
    """A head's rows i and i + Dh/2, which a rotary position turns together, side by side; then as ``Pieces``.

    Args:
        n_rows: of the queries, the keys and the values.
        head_dim: width of a head Dh.
    """

    n_rows: tuple[int, int, int]
    head_dim: int

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        query, key, value = theirs
        pair = (self.head_dim // 2, 2)
        return torch.cat([_turned(query, pair), _turned(key, pair), value])

    def split(self, ours: Tensor) -> list[Tensor]:
        query, key, value = torch.split(ours, list(self.n_rows))
        pair = (2, self.head_dim // 2)
        return [_turned(query, pair), _turned(key, pair), value.contiguous()]


class AddsOne(Layout):
    """A norm's weight as what multiplies, in float32: Gemma's is written without the one it is added to."""

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        (tensor,) = theirs
        return tensor.float() - 1

    def split(self, ours: Tensor) -> list[Tensor]:
        return [ours.float() + 1]


def _turned(rows: Tensor, head: tuple[int, int]) -> Tensor:
    """Read each head's rows as a table of that shape, and write it column by column."""
    return rows.reshape(-1, *head, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def rules(architecture: Architecture, names: Iterable[str], form: Mapping[str, Any]) -> list[TensorRule]:
    """Tell where each of a decoder's tensors lies in a GGUF file.

    Args:
        architecture: of the file.
        names: of the decoder's tensors, as ``state_dict`` has them.
        form: the decoder's settings in normal form.

    Raises:
        ConversionError: naming every tensor that has no place.
    """
    head_dim, groups = form["attention.head_dim"], form["attention.n_kv_heads"]
    thirds = (form["n_heads"] * head_dim, groups * head_dim, groups * head_dim)
    found, homeless = [], []
    for name in names:
        module, _, end = name.rpartition(".")
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        stems = architecture.block.get(match[2], ()) if match else tuple(filter(None, [_OUTSIDE.get(module)]))
        if not stems:
            homeless.append(name)
            continue
        layout: Layout = AsItIs()
        if len(stems) == 3:
            layout = Interleaved(thirds, head_dim) if architecture.interleaves else Pieces(thirds)
        elif len(stems) == 2:
            layout = Pieces((form["d_ff"], form["d_ff"]))
        elif architecture.adds_one and "norm" in module.rpartition(".")[2]:
            layout = AddsOne()
        prefix = f"blk.{match[1]}." if match else ""
        found.append(TensorRule(name, tuple(f"{prefix}{stem}.{end}" for stem in stems), layout))
    if homeless:
        raise ConversionError(f"GGUF's {architecture.name} has no place for {', '.join(homeless)}")
    return found
