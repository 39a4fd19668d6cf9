"""A plain Llama in one file, its projections fused, nothing exchangeable: what XLab's composition is held against.

Letters: B batch, T positions, D width, H heads, Dh width of a head, F inner width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.train_shape import Shape


class PlainLlama(nn.Module):
    """Pre-norm blocks of rotary attention and SwiGLU, straight from PyTorch's own functions.

    Args:
        shape: the sizes.
    """

    turns: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab_size, shape.d_model)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.n_layers))
        self.norm = nn.RMSNorm(shape.d_model, eps=1e-6)
        self.output = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        head_dim = shape.d_model // shape.n_heads
        angles = torch.outer(torch.arange(shape.seq_len), 10_000 ** -(torch.arange(0, head_dim, 2) / head_dim))
        self.register_buffer("turns", torch.stack((angles.cos(), angles.sin())), persistent=False)  # (2, T, Dh/2)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.turns)
        logits: Tensor = self.output(self.norm(x))
        return logits


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_heads = shape.n_heads
        self.norms = nn.ModuleList(nn.RMSNorm(shape.d_model, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(shape.d_model, 3 * shape.d_model, bias=False)
        self.out = nn.Linear(shape.d_model, shape.d_model, bias=False)
        self.gate_up = nn.Linear(shape.d_model, 2 * shape.d_ff, bias=False)
        self.down = nn.Linear(shape.d_ff, shape.d_model, bias=False)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        qkv = self.qkv(self.norms[0](x)).unflatten(-1, (3 * self.n_heads, -1)).transpose(1, 2)  # (B, 3H, T, Dh)
        qk, values = qkv.split((2 * self.n_heads, self.n_heads), dim=1)
        cos, sin = turns.to(qk.dtype)
        first, second = qk.chunk(2, dim=-1)
        qk = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        queries, keys = qk.chunk(2, dim=1)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, dim=-1)
        y: Tensor = x + self.down(F.silu(gate) * up)
        return y
