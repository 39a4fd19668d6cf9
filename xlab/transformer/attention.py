"""Attention: how each position takes from those before it what it needs.

Letters: B batch, T positions, S keys, D width, H query heads, G key-value heads, Dh width of a head.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from xlab.errors import ConfigError
from xlab.transformer.kernels import ExplicitAttention, FusedAttention
from xlab.transformer.placements import Placement
from xlab.transformer.positions import Position
from xlab.transformer.qk_norms import QKNorm
from xlab.transformer.values import ValueMix


class Context:
    """What every layer of one forward pass knows about its tokens; made once, read by all.

    Args:
        position: how places enter the model.
        placement: where the tokens stand, and where their keys and values go.
        ids: the tokens, (B, T).
        value_mix: what is added to values.

    Attributes:
        embedded: (B, T, D), what the first layer reads; the decoder sets it.
        first_values: (B, G, T, Dh), what the first layer made of the tokens, where a later one asks for it.
    """

    def __init__(
        self,
        position: Position,
        placement: Placement,
        ids: Tensor | None = None,
        value_mix: ValueMix | None = None,
    ) -> None:
        self.position = position
        self.placement = placement
        self.ids, self.value_mix = ids, value_mix
        self.embedded: Tensor | None = None
        self.first_values: Tensor | None = None
        self._masking: dict[int | None, tuple[Tensor | None, bool]] = {}

    def rotate(self, x: Tensor) -> Tensor:
        """Turn queries, keys, or both side by side among the heads, (B, H, T, Dh), to their places."""
        return self.position.rotate(x, self.placement.positions)

    def mix_values(self, values: Tensor, layer: int, x: Tensor) -> Tensor:
        """Give a layer's values (B, G, T, Dh) what ``value_mix`` adds to them."""
        if self.value_mix is None:
            return values
        mixed: Tensor = self.value_mix(values, layer, x, self)
        return mixed

    def masking(self, window: int | None = None) -> tuple[Tensor | None, bool]:
        """What a kernel is to be given as ``attn_mask`` and as ``is_causal`` in layers of that window.

        The mask is what to add to the scores, (1 or B, H, T, S), or what may be seen, bool, (T, S) or (B, 1, T, S);
        None when ``is_causal`` says it all, or when ``placement.mix`` knows what more there is to mask.
        """
        if window not in self._masking:
            self._masking[window] = self.placement.masking(self.position, window)
        return self._masking[window]


class Attention(nn.Module):
    """Mixes positions; made as ``attention(d_model, n_heads, layer_index)``.

    A subclass makes queries, keys and values in its own way, turns queries and keys by ``context.rotate``, and calls
    ``attend``, which keeps the cache: no more of it than ``window`` says. The last projection, the one that writes to
    the residual stream, is named ``out``: the decoder's initialisation looks for that name.

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        layer_index: which layer of the model this is, from 0.
        n_kv_heads: number of key-value heads G; H if not given.
        dropout: share of attention weights dropped in training.
        head_dim: width Dh of a head; D / H if not given.
        windows: how far the layers see, in tokens, the query's own among them; None sees everything. Layer i takes
            the i-th, and they begin again at their end.
        kernel: mixes values; PyTorch's own if not given.
        key_shift: share of a key's numbers, its last, that stand in the key of the next token.

    Raises:
        ConfigError: for heads that do not divide evenly, a dropout or a key_shift outside [0, 1), or a window below 1.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        layer_index: int,
        n_kv_heads: int | None = None,
        dropout: float = 0.0,
        head_dim: int | None = None,
        windows: Sequence[int | None] | None = None,
        kernel: FusedAttention | None = None,
        key_shift: float = 0.0,
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if head_dim is None and d_model % n_heads:
            raise ConfigError(f"d_model must be divisible by n_heads, got {d_model} and {n_heads}")
        if head_dim is not None and head_dim < 1:
            raise ConfigError(f"attention's head_dim must be at least 1, got {head_dim}")
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ConfigError(f"n_heads must be divisible by n_kv_heads, got {n_heads} and {n_kv_heads}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"attention dropout must be in [0, 1), got {dropout}")
        if not 0 <= key_shift < 1:
            raise ConfigError(f"attention's key_shift must be in [0, 1), got {key_shift}")
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_dim = d_model // n_heads if head_dim is None else head_dim
        self.layer_index = layer_index
        self.dropout = dropout
        self.window = _window_of(windows, layer_index)
        self.handed_on = int(self.head_dim * key_shift)  # numbers of a key
        self.kernel = FusedAttention() if kernel is None else kernel

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
        # under mixed precision a norm may have made them wider
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)
        keys, values = context.placement.store(self.layer_index, keys, values, self.window, self.handed_on)
        mask, is_causal = context.masking(self.window)
        n_tokens = queries.size(2)
        is_grouped = self.n_kv_heads < self.n_heads
        is_lined_up = is_grouped and n_tokens == 1 and self.kernel.is_fused
        if is_lined_up:
            # a step of decoding: a group's queries line up as if they were positions, so that no key is read twice
            queries = queries.reshape(-1, self.n_kv_heads, self.n_heads // self.n_kv_heads, self.head_dim)
            if mask is not None and mask.dim() == 4 and mask.size(1) == self.n_heads:
                mask = mask.reshape(-1, self.n_kv_heads, queries.size(2), mask.size(-1))
        mixed = context.placement.mix(
            queries,
            keys,
            values,
            kernel=self.kernel,
            window=self.window,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal,
            enable_gqa=is_grouped and not is_lined_up,
        )
        if n_tokens == 1:
            return mixed.reshape(-1, 1, self.n_heads * self.head_dim)
        return mixed.transpose(1, 2).flatten(-2)


class GroupedQueryAttention(Attention):
    """Groups of query heads share a key-value head (Ainslie et al. 2023, arXiv 2305.13245).

    With a ``key_shift`` a query finds what stood behind a token like its own in one layer, where it otherwise takes
    two (Xu et al. 2024, arXiv 2411.19574, who learn the shares; cut by numbers, as in modded-nanogpt of December 2025).
    What is handed on should not turn with its place: give ``RotaryPosition`` a ``fraction`` of the rest.

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        layer_index: which layer of the model this is, from 0.
        n_kv_heads: number of key-value heads G, a divisor of H.
        bias: whether the projections have one.
        dropout: share of attention weights dropped in training.
        out_bias: whether the last projection has one; as ``bias`` says if not given.
        head_dim: width Dh of a head; D / H if not given.
        qk_norm: normalises queries and keys before they turn; made with (head_dim, n_heads, n_kv_heads).
        windows: how far the layers see, in tokens, the query's own among them; null sees everything. Layer i takes the
            i-th, and they begin again at their end.
        scale: of the scores; 1 / √Dh if not given.
        cap: soft cap of the scores.
        sinks: whether each head has a learned score of looking at nothing.
        key_shift: share of a head's key that comes from the token before, its last numbers.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        layer_index: int,
        n_kv_heads: int,
        bias: bool = False,
        dropout: float = 0.0,
        out_bias: bool | None = None,
        head_dim: int | None = None,
        qk_norm: Callable[[int, int, int], QKNorm] | None = None,
        windows: list[int | None] | None = None,
        scale: float | None = None,
        cap: float | None = None,
        sinks: bool = False,
        key_shift: float = 0.0,
    ) -> None:
        is_plain = cap is None and not sinks
        kernel = FusedAttention(scale) if is_plain else ExplicitAttention(n_heads, scale, cap, sinks)
        super().__init__(d_model, n_heads, layer_index, n_kv_heads, dropout, head_dim, windows, kernel, key_shift)
        # one product is faster than three: H heads of queries, then G of keys, then G of values
        self.qkv = nn.Linear(d_model, (n_heads + 2 * n_kv_heads) * self.head_dim, bias=bias)
        self.qk_norm = None if qk_norm is None else qk_norm(self.head_dim, n_heads, n_kv_heads)
        self.out = nn.Linear(n_heads * self.head_dim, d_model, bias=bias if out_bias is None else out_bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        qkv: Tensor = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # (B, T, H + 2G, Dh)
        qk, values = qkv.split_with_sizes((self.n_heads + self.n_kv_heads, self.n_kv_heads), dim=2)
        if self.qk_norm is not None:
            qk = self.qk_norm(qk)
        qk = context.rotate(qk.transpose(1, 2))  # (B, H + G, T, Dh)
        queries, keys = qk.split_with_sizes((self.n_heads, self.n_kv_heads), dim=1)
        values = context.mix_values(values.transpose(1, 2), self.layer_index, x)
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
        out_bias: whether the last projection has one; as ``bias`` says if not given.
        head_dim: width Dh of a head; D / H if not given.
        qk_norm: normalises queries and keys before they turn; made with (head_dim, n_heads, n_kv_heads).
        windows: how far the layers see, in tokens, the query's own among them; null sees everything. Layer i takes the
            i-th, and they begin again at their end.
        scale: of the scores; 1 / √Dh if not given.
        cap: soft cap of the scores.
        sinks: whether each head has a learned score of looking at nothing.
        key_shift: share of a head's key that comes from the token before, its last numbers.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        layer_index: int,
        bias: bool = False,
        dropout: float = 0.0,
        out_bias: bool | None = None,
        head_dim: int | None = None,
        qk_norm: Callable[[int, int, int], QKNorm] | None = None,
        windows: list[int | None] | None = None,
        scale: float | None = None,
        cap: float | None = None,
        sinks: bool = False,
        key_shift: float = 0.0,
    ) -> None:
        own = (bias, dropout, out_bias, head_dim, qk_norm, windows, scale, cap, sinks, key_shift)
        super().__init__(d_model, n_heads, layer_index, n_heads, *own)


class MultiQueryAttention(GroupedQueryAttention):
    """All query heads share one head of keys and values (Shazeer 2019, arXiv 1911.02150).

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        layer_index: which layer of the model this is, from 0.
        bias: whether the projections have one.
        dropout: share of attention weights dropped in training.
        out_bias: whether the last projection has one; as ``bias`` says if not given.
        head_dim: width Dh of a head; D / H if not given.
        qk_norm: normalises queries and keys before they turn; made with (head_dim, n_heads, n_kv_heads).
        windows: how far the layers see, in tokens, the query's own among them; null sees everything. Layer i takes the
            i-th, and they begin again at their end.
        scale: of the scores; 1 / √Dh if not given.
        cap: soft cap of the scores.
        sinks: whether each head has a learned score of looking at nothing.
        key_shift: share of a head's key that comes from the token before, its last numbers.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        layer_index: int,
        bias: bool = False,
        dropout: float = 0.0,
        out_bias: bool | None = None,
        head_dim: int | None = None,
        qk_norm: Callable[[int, int, int], QKNorm] | None = None,
        windows: list[int | None] | None = None,
        scale: float | None = None,
        cap: float | None = None,
        sinks: bool = False,
        key_shift: float = 0.0,
    ) -> None:
        own = (bias, dropout, out_bias, head_dim, qk_norm, windows, scale, cap, sinks, key_shift)
        super().__init__(d_model, n_heads, layer_index, 1, *own)


def _window_of(windows: Sequence[int | None] | None, layer: int) -> int | None:
    if windows is None:
        return None
    if not windows:
        raise ConfigError("attention's windows are an empty list; leave them out for layers that see everything")
    if wrong := [window for window in windows if window is not None and window < 1]:
        raise ConfigError(f"a window must hold at least the query's own token, got {wrong[0]}")
    return windows[layer % len(windows)]
