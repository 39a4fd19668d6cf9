"""The contenders of ``train_speed``: one shape, built by XLab and by its peers, each as its own documentation does.

All are Llama's architecture with weights of their own for embedding and vocabulary projection, in float32. Each comes
with its way from ids and targets to the mean of its losses: XLab's is that of ``./xlab.py fit``, the others' is
cross-entropy of their logits. Letters: B batch, T positions, V vocabulary.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.train_shape import Shape

if TYPE_CHECKING:
    from xlab.transformer.decoder import Decoder

Logits = Callable[[Tensor], Tensor]  # (B, T) → (B, T, V)
Loss = Callable[[Tensor, Tensor], Tensor]  # (B, T) ids and targets → a scalar


def xlab_llama(shape: Shape, *, compiled: bool) -> tuple[nn.Module, Loss]:
    """XLab's decoder and objective, and how a run of fit goes through them; memory is kept as in every run on a CPU."""
    from xlab.training.allocator import keep_freed_memory
    from xlab.training.compiling import CompiledPass, TrainingPass
    from xlab.training.objectives import NextToken

    keep_freed_memory()
    model = xlab_decoder(shape)
    training_pass = (CompiledPass if compiled else TrainingPass)(model, NextToken())
    return model, lambda ids, targets: training_pass({"inputs": ids, "targets": targets}) / targets.numel()


def xlab_decoder(shape: Shape) -> "Decoder":
    """XLab's decoder, composed as a Llama."""
    from xlab.transformer.decoder import Decoder

    return Decoder(
        vocab_size=shape.vocab_size,
        max_len=shape.seq_len,
        d_model=shape.d_model,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        d_ff=shape.d_ff,
        tie_embeddings=False,
    )


def litgpt_gpt(shape: Shape) -> tuple[nn.Module, Logits]:
    """litgpt's GPT with the settings of its Llama models, initialised as ``litgpt pretrain`` does."""
    from litgpt import GPT, Config

    config = Config(
        name="train_speed",
        block_size=shape.seq_len,
        n_layer=shape.n_layers,
        n_embd=shape.d_model,
        n_head=shape.n_heads,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        intermediate_size=shape.d_ff,
        mlp_class_name="LLaMAMLP",
        norm_class_name="RMSNorm",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    model = GPT(config)
    model.apply(model._init_weights)
    return model, model


def transformers_llama(shape: Shape) -> tuple[nn.Module, Logits]:
    """transformers' Llama over ``scaled_dot_product_attention``, its fastest attention on a CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        max_position_embeddings=shape.seq_len,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    return model, lambda ids: model(input_ids=ids).logits


def plain_llama(shape: Shape) -> tuple[nn.Module, Logits]:
    """The same architecture written down once, with nothing to exchange."""
    from benchmarks.train_plain import PlainLlama

    model = PlainLlama(shape)
    return model, model


_OTHERS = {"plain": plain_llama, "litgpt": litgpt_gpt, "llama": transformers_llama}


def contender(name: str, shape: Shape, *, compiled: bool) -> tuple[nn.Module, Loss]:
    """Give a model and its way to the loss, compiled as a whole or not at all."""
    if name == "xlab":
        return xlab_llama(shape, compiled=compiled)
    model, logits_of = _OTHERS[name](shape)

    def loss_of(ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits_of(ids).flatten(0, 1), targets.flatten())  # from (B·T, V)

    return model, torch.compile(loss_of) if compiled else loss_of
