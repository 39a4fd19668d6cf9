"""A small model of each family, with random weights and a trained tokenizer, as checkpoint files."""

from pathlib import Path
from typing import Any

import torch

from xlab import checkpoint_writing, checkpoints
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.interop.families import family_of

VOCAB_SIZE = 300
_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {**_SIZES, "attention_bias": True, "mlp_bias": True, "rope_theta": 5e5, "rope_scaling": LLAMA3},
    "mistral": {**_SIZES, "sliding_window": None, "head_dim": 16},
    "qwen2": {**_SIZES, "tie_word_embeddings": True},
    "qwen3": {**_SIZES, "head_dim": 16},
    "olmo2": {**_SIZES, "tie_word_embeddings": True},
    "gemma2": {**_SIZES, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "gpt_neox": {key: value for key, value in _SIZES.items() if key != "num_key_value_heads"},
}


def tokenizer(**settings: Any) -> Tokenizer:
    """Train byte-level BPE on a few sentences."""
    sentences = [f"The quick brown fox jumps {n} times over it's lazy dog. Zoë said we'll see\n" for n in range(50)]
    return ByteLevelBPE(**settings).make(iter(sentences), VOCAB_SIZE)


def settings_of(model_type: str, **changes: Any) -> dict[str, Any]:
    """Give XLab's settings of a family's small model."""
    return family_of(model_type).settings({"model_type": model_type, **CONFIGS[model_type], **changes})


def write(
    path: Path, settings: dict[str, Any], *, own: Tokenizer | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Write a checkpoint with random weights; norms differ from what they begin as."""
    decoder = checkpoints.build_decoder(settings)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: (weight if "norm" in name else 0) + 0.2 * torch.randn(weight.shape, generator=generator)
        for name, weight in decoder.state_dict().items()
    }
    head = checkpoints.header(model=settings, data={}, tokenizer=(own or tokenizer()).to_json(), info={"step": 7})
    weights = {checkpoints.DECODER_PREFIX + name: weight.to(dtype or weight.dtype) for name, weight in state.items()}
    checkpoint_writing.write({"xlab": head, "state_dict": weights}, path)
    return path
