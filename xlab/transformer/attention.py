"""Attention: how each position takes from those before it what it needs.

Letters: B batch, T positions, S keys, D width, H query heads, G key-value heads, Dh width of a head.
"""

from torch import Tensor, nn

from xlab.errors import ConfigError
from xlab.transformer.kv_cache import Placement
from xlab.transformer.positions import Position


class Context:
    """What every layer of one forward pass knows about its tokens; made once, read by all.

    Args:
        position: how places enter the model.
        placement: where the tokens stand, and where their keys and values go.

    Attributes:
        mask: what ``scaled_dot_product_attention`` should add, (1 or B, H, T, S), or see, bool, (T, S) or (B, 1, T, S);
            None when ``is_causal`` says it all, or when ``placement.mix`` knows what more there is to mask.
        is_causal: whether to mask the future; False when ``mask`` does it, or when a single token sees everything.
    """

    def __init__(self, position: Position, placement: Placement) -> None:
        self.position = position
        self.placement = placement
        self.mask, self.is_causal = placement.masking(position)

    def rotate(self, x: Tensor) -> Tensor:
        """Turn queries, keys, or both side by side among the heads, (B, H, T, Dh), to their places."""
        return self.position.rotate(x, self.placement.positions)


class Attention(nn.Module):
    """Mixes positions; made as ``attention(d_model, n_heads, layer_index)``.

    A subclass makes queries, keys and values in its own way, turns queries and keys by ``context.rotate``, and calls
    ``attend``, which keeps the cache. The last projection, the one that writes to the residual stream, is named
    ``out``: the decoder's initialisation looks for that name.

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        layer_index: which layer of the model this is, from 0.
        n_kv_heads: number of key-value heads G; H if not given.
        dropout: share of attention weights dropped in training.

    Raises:
        ConfigError: for heads that do not divide evenly, or a dropout outside [0, 1).
    """

    def __init__(
        self, d_model: int, n_heads: int, layer_index: int, n_kv_heads: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if d_model % n_heads:
            raise ConfigError(f"d_model must be divisible by n_heads, got {d_model} and {n_heads}")
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ConfigError(f"n_heads must be divisible by n_kv_heads, got {n_heads} and {n_kv_heads}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"attention dropout must be in [0, 1), got {dropout}")
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_dim = d_model // n_heads
        self.layer_index = layer_index
        self.dropout = dropout

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        raise NotImplementedError

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, context: Context) -> Tensor:
        """Store keys and values, and mix the values that each query may see.

        Args:
            queries: (B, H, T, Dh), turned to their places.
            keys: (B, G, T, Dh), turned to their places.
            values: (B, G, T, Dh).
            context: of this forward pass.

        Returns:
            (B, T, H · Dh)
        """
        keys, values = context.placement.store(self.layer_index, keys, values)
        mask, n_tokens = context.mask, queries.size(2)
        is_grouped = self.n_kv_heads < self.n_heads
        if is_grouped and n_tokens == 1:
            # a step of decoding: a group's queries line up as if they were positions, so that no key is read twice
            queries = queries.reshape(-1, self.n_kv_heads, self.n_heads // self.n_kv_heads, self.head_dim)
            if mask is not None and mask.dim() == 4 and mask.size(1) == self.n_heads:
                mask = mask.reshape(-1, self.n_kv_heads, queries.size(2), mask.size(-1))
        mixed = context.placement.mix(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=context.is_causal,
            enable_gqa=is_grouped and n_tokens > 1,
        )
        if n_tokens == 1:
            return mixed.reshape(-1, 1, self.n_heads * self.head_dim)
        return mixed.transpose(1, 2).flatten(-2)


class GroupedQueryAttention(Attention):
    """Groups of query heads share a key-value head (Ainslie et al. 2023, arXiv 2305.13245).

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        layer_index: which layer of the model this is, from 0.
        n_kv_heads: number of key-value heads G, a divisor of H.
        bias: whether the projections have one.
        dropout: share of attention weights dropped in training.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        layer_index: int,
        n_kv_heads: int,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, n_heads, layer_index, n_kv_heads, dropout)
        # one product is faster than three: H heads of queries, then G of keys, then G of values
        self.qkv = nn.Linear(d_model, (n_heads + 2 * n_kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        qkv: Tensor = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H + 2G, T, Dh)
        qk, values = qkv.split_with_sizes((self.n_heads + self.n_kv_heads, self.n_kv_heads), dim=1)
        queries, keys = context.rotate(qk).split_with_sizes((self.n_heads, self.n_kv_heads), dim=1)
        y: Tensor = self.out(self.attend(queries, keys, values, context))
        return y


class MultiHeadAttention(GroupedQueryAttention):
    """Each query head has keys and values of its own (Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2).

    Args:
        d_model: width D of the model.
        n_heads: number of heads H.
        layer_index: which layer of the model this is, from 0.
        bias: whether the projections have one; GPT-2's have.
        dropout: share of attention weights dropped in training.
    """

    def __init__(self, d_model: int, n_heads: int, layer_index: int, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__(d_model, n_heads, layer_index, n_heads, bias, dropout)


class MultiQueryAttention(GroupedQueryAttention):
    """All query heads share one head of keys and values (Shazeer 2019, arXiv 1911.02150).

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        layer_index: which layer of the model this is, from 0.
        bias: whether the projections have one.
        dropout: share of attention weights dropped in training.
    """

    def __init__(self, d_model: int, n_heads: int, layer_index: int, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__(d_model, n_heads, layer_index, 1, bias, dropout)
