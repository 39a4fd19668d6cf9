"""The decoder: token ids in, next-token logits out, composed of factories for its parts.

Letters: B batch, T positions, D width, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xlab.errors import ConfigError, GenerationError
from xlab.transformer.attention import Attention, Context, MultiHeadAttention
from xlab.transformer.block import Block, PreNormBlock
from xlab.transformer.documents import place_documents
from xlab.transformer.feed_forward import FeedForward, SwiGLU
from xlab.transformer.head import Head
from xlab.transformer.initialisations import GPT2Initialisation, Initialisation
from xlab.transformer.kv_cache import KVCache, places
from xlab.transformer.norms import Norm, RMSNorm
from xlab.transformer.placements import Placement
from xlab.transformer.positions import Position, RotaryPosition
from xlab.transformer.values import ValueMix


class Decoder(nn.Module):
    """A causal language model (Radford et al. 2018; Vaswani et al. 2017, arXiv 1706.03762).

    Args:
        vocab_size: number of token ids V.
        max_len: the longest sequence, in tokens.
        d_model: width D of the residual stream.
        n_layers: number of blocks.
        n_heads: number of query heads.
        d_ff: inner width of the feed-forward layers; None leaves it to them.
        attention: makes a layer's attention from (d_model, n_heads, layer index).
        norm: makes a norm from (d_model).
        feed_forward: makes a layer's feed-forward from (d_model, d_ff).
        position: makes what tells places apart from (d_model, n_heads, max_len).
        block: makes a layer from (attention, feed_forward, a function that makes a norm, dropout).
        value_mix: makes what is added to values from (vocab_size, d_model, n_kv_heads, head_dim, n_layers); None for
            nothing.
        embedding_norm: makes a norm of the embeddings from (d_model); None for none.
        initialisation: fills the weights.
        dropout: share of the embeddings, and of each branch's output, dropped in training.
        tie_embeddings: whether the vocabulary projection is the embedding's own matrix (Press and Wolf 2016, arXiv
            1608.05859).
        embedding_scale: embeddings are multiplied by it.
        logit_scale: final states are multiplied by it before they meet the vocabulary.
        logit_cap: soft cap of the logits (Gemma 2, arXiv 2408.00118, section 2).

    Raises:
        ConfigError: for a size below 1, a dropout outside [0, 1), or parts that do not fit together.
    """

    def __init__(
        self,
        vocab_size: int,
        max_len: int,
        d_model: int,
        n_layers: int,
        n_heads: int,
        d_ff: int | None = None,
        *,
        attention: Callable[[int, int, int], Attention] = MultiHeadAttention,
        norm: Callable[[int], Norm] = RMSNorm,
        feed_forward: Callable[[int, int | None], FeedForward] = SwiGLU,
        position: Callable[[int, int, int], Position] = RotaryPosition,
        block: Callable[[Attention, FeedForward, Callable[[], Norm], float], Block] = PreNormBlock,
        value_mix: Callable[[int, int, int, int, int], ValueMix] | None = None,
        embedding_norm: Callable[[int], Norm] | None = None,
        initialisation: Callable[[], Initialisation] = GPT2Initialisation,
        dropout: float = 0.0,
        tie_embeddings: bool = True,
        embedding_scale: float = 1.0,
        logit_scale: float = 1.0,
        logit_cap: float | None = None,
    ) -> None:
        super().__init__()
        counts = {
            "vocab_size": vocab_size,
            "max_len": max_len,
            "d_model": d_model,
            "n_layers": n_layers,
            "n_heads": n_heads,
        }
        for name, size in counts.items():
            if size < 1:
                raise ConfigError(f"{name} must be at least 1, got {size}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {dropout}")
        if embedding_scale <= 0 or logit_scale <= 0 or (logit_cap is not None and logit_cap <= 0):
            raise ConfigError(
                "embedding_scale, logit_scale and logit_cap must be above 0, got "
                f"{embedding_scale}, {logit_scale} and {logit_cap}"
            )
        self.vocab_size, self.max_len, self.n_layers = vocab_size, max_len, n_layers
        self.embedding_scale, self.logit_scale, self.logit_cap = embedding_scale, logit_scale, logit_cap
        self.initialisation = initialisation()
        self.run_block: Callable[[nn.Module, Tensor, Context], Tensor] = run_block
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.embedding_norm = None if embedding_norm is None else embedding_norm(d_model)
        self.dropout = nn.Dropout(dropout)
        blocks = [
            block(attention(d_model, n_heads, layer), feed_forward(d_model, d_ff), lambda: norm(d_model), dropout)
            for layer in range(n_layers)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.position = position(d_model, n_heads, max_len)
        self.norm = norm(d_model) if blocks[-1].needs_final_norm else nn.Identity()
        attentions = [block.attention for block in blocks]
        self._cache_shapes = [(attention.n_kv_heads, attention.head_dim) for attention in attentions]
        # a bias knows a key by its place, and a layer that keeps its window gives keys in another order
        has_bias = type(self.position).bias is not Position.bias
        self._cache_windows = [None if has_bias else attention.window for attention in attentions]
        self._hands_on = any(attention.handed_on for attention in attentions)
        for _, head_dim in self._cache_shapes:
            if self.position.head_dim not in (None, head_dim):
                raise ConfigError(
                    f"the position turns heads of {self.position.head_dim} numbers, attention's have {head_dim}; give "
                    "both the same head_dim"
                )
        sizes = (vocab_size, d_model, *self._cache_shapes[0], n_layers)
        self.value_mix = None if value_mix is None else value_mix(*sizes)
        self.output = None if tie_embeddings else nn.Linear(d_model, vocab_size, bias=False)
        self.reset_parameters()

    @property
    def unembedding(self) -> Tensor:
        """The vocabulary projection's weight, (V, D)."""
        return self.embedding.weight if self.output is None else self.output.weight

    def hidden(self, ids: Tensor, cache: KVCache | None = None, documents: Tensor | None = None) -> Tensor:
        """The states that the vocabulary projection reads.

        Args:
            ids: (B, T), int64; with a cache, the tokens that follow those it holds.
            cache: of ``make_cache``; it takes in the tokens.
            documents: (B, T) numbers that differ where one document ends and the next begins; each is then as if it
                were alone. Without them a row is one text. Not with a cache.

        Returns:
            (B, T, D), normalised.

        Raises:
            ConfigError: when a row grows longer than ``max_len``, or there are both a cache and documents.
            GenerationError: when the cache is full, or has another number of rows.
        """
        n_rows, n_tokens = ids.shape
        if cache is not None and cache.batch_size != n_rows:
            raise GenerationError(f"the KV cache has {cache.batch_size} rows, the tokens have {n_rows}")
        length = n_tokens if cache is None else cache.longest + n_tokens
        if length > self.max_len:
            raise ConfigError(f"a sequence of {length} tokens is longer than the model's max_len, {self.max_len}")
        if documents is not None:
            if cache is not None:
                raise ConfigError("packed documents are read at once; give no KV cache beside them")
            return self.hidden_at(ids, place_documents(documents))
        if cache is not None and cache.longest and n_tokens > (most := cache.most_at_once or n_tokens):
            return torch.cat([self.hidden(some, cache) for some in torch.split(ids, most, dim=1)], dim=1)
        placement = Placement(n_tokens, ids.device) if cache is None else cache.place(n_tokens)
        hidden = self.hidden_at(ids, placement)
        if cache is not None:
            cache.advance(n_tokens)
        return hidden

    def hidden_at(self, ids: Tensor, placement: Placement) -> Tensor:
        """What ``hidden`` gives for tokens that stand where ``placement`` says, (B, T, D)."""
        context = Context(self.position, placement, ids, self.value_mix)
        x = self.position.embed(self.embedded(ids), placement.positions)  # (B, T, D)
        x = context.embedded = self.dropout(x)
        for block in self.blocks:
            x = self.run_block(block, x, context)
        normalised: Tensor = self.norm(x)
        return normalised

    def embedded(self, ids: Tensor) -> Tensor:
        """The tokens' vectors, (B, T, D), before their places are known."""
        x: Tensor = self.embedding(ids)
        if self.embedding_scale != 1:
            x = x * self.embedding_scale
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return x

    def forward(self, ids: Tensor, cache: KVCache | None = None, documents: Tensor | None = None) -> Tensor:
        """Logits of the token after each, (B, T, V); see ``hidden``."""
        return self.logits(self.hidden(ids, cache, documents))

    def logits(self, hidden: Tensor) -> Tensor:
        """What ``hidden`` gives, (..., D), as logits (..., V)."""
        return self.head(hidden)

    @property
    def head(self) -> Head:
        """The projection to the vocabulary."""
        return Head(self.unembedding, self.logit_scale, self.logit_cap)

    def make_cache(self, batch_size: int, max_len: int | None = None, *, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for ``batch_size`` rows of up to ``max_len`` tokens (the model's if not given), on its device.

        Raises:
            ConfigError: for a ``max_len`` above the model's, or no rows.
        """
        capacity = self.max_len if max_len is None else max_len
        if capacity > self.max_len:
            raise ConfigError(f"a cache for {capacity} tokens is longer than the model's max_len, {self.max_len}")
        weight = self.embedding.weight
        return KVCache(
            batch_size,
            capacity,
            self._cache_shapes,
            device=weight.device,
            dtype=dtype or weight.dtype,
            windows=self._cache_windows,
            hands_on=self._hands_on,
        )

    def cache_bytes(self, batch_size: int, max_len: int | None = None, *, dtype: torch.dtype | None = None) -> int:
        """How much memory ``make_cache`` would take."""
        capacity = self.max_len if max_len is None else max_len
        layers = zip(self._cache_shapes, self._cache_windows, strict=True)
        numbers = sum(
            2 * heads * head_dim * places(capacity, window, hands_on=self._hands_on)
            for (heads, head_dim), window in layers
        )
        return batch_size * numbers * (dtype or self.embedding.weight.dtype).itemsize

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start anew, as the initialisation has it; after ``to_empty`` this fills everything."""
        self.initialisation(self)


def run_block(block: nn.Module, x: Tensor, context: Context) -> Tensor:
    """Pass (B, T, D) through a block as it is; ``Decoder.run_block`` may be another way of doing so."""
    y: Tensor = block(x, context)
    return y
