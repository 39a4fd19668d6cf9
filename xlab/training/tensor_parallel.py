"""Tensor parallelism: each rank computes some heads of attention and a part of the feed-forward's width.

Shoeybi et al. 2019, Megatron-LM, arXiv 1909.08053, section 3. Letters: n ranks, B batch, T positions, D width, H query
heads, G key-value heads, Dh width of a head, F inner width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.errors import ConfigError
from xlab.transformer.attention import Attention, GroupedQueryAttention
from xlab.transformer.decoder import Decoder
from xlab.transformer.feed_forward import FeedForward, GELUFeedForward, SwiGLU
from xlab.transformer.positions import ALiBi, Position
from xlab.transformer.qk_norms import HeadQKNorm
from xlab.transformer.values import ValueEmbeddings, ValueResidual

# what is known to be divided well, by how it computes: its first projection, and how many that holds
_FEED_FORWARDS = {GELUFeedForward.forward: ("up", 1), SwiGLU.forward: ("gate_up", 2)}


@dataclass(frozen=True)
class Cut:
    """How a weight is divided among ranks.

    A weight may hold several projections one above the other (queries, keys and values; gate and up): each is divided
    by itself, so that a rank has whole heads, and the gates of its own part of the width.

    Attributes:
        dim: along which it is divided.
        parts: sizes of what it holds along ``dim``, in the whole weight.
    """

    dim: int
    parts: tuple[int, ...]

    def of(self, whole: Tensor, rank: int, n_ranks: int) -> Tensor:
        """Give a rank's share, a copy."""
        pieces = [part.chunk(n_ranks, self.dim)[rank] for part in whole.split_with_sizes(self.parts, self.dim)]
        return torch.cat(pieces, self.dim)

    def whole(self, shares: Sequence[Tensor]) -> Tensor:
        """Put the shares of all ranks together."""
        of_parts = zip(*(self.pieces(share, len(shares)) for share in shares), strict=True)
        return torch.cat([torch.cat(pieces, self.dim) for pieces in of_parts], self.dim)

    def pieces(self, share: Tensor, n_ranks: int) -> tuple[Tensor, ...]:
        """Give views of a rank's share, one of each part."""
        return share.split_with_sizes([size // n_ranks for size in self.parts], self.dim)


class ColumnParallel(nn.Linear):
    """Some rows of a projection: all ranks read the same, each gives outputs of its own.

    Its bias stays whole: it is small, and a vector that is divided twice is nobody's to put together.

    Args:
        whole: the projection.
        cut: of its rows.
        group: the ranks.
    """

    def __init__(self, whole: nn.Linear, cut: Cut, group: dist.ProcessGroup) -> None:
        self.rank, self.n_ranks = dist.get_rank(group), dist.get_world_size(group)
        super().__init__(whole.in_features, whole.out_features // self.n_ranks, bias=False, device="meta")
        self.cut, self.group = cut, group
        self.weight = _share(whole.weight, cut, group)
        self.bias = whole.bias

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.cut.of(self.bias, self.rank, self.n_ranks)
        return F.linear(_Shared.apply(x, self.group), self.weight, bias)  # type: ignore[no-untyped-call]


class RowParallel(nn.Linear):
    """Some columns of a projection: each rank reads its own inputs, and the ranks' outputs are added up.

    Args:
        whole: the projection.
        cut: of its columns.
        group: the ranks.
    """

    def __init__(self, whole: nn.Linear, cut: Cut, group: dist.ProcessGroup) -> None:
        n_inputs = whole.in_features // dist.get_world_size(group)
        super().__init__(n_inputs, whole.out_features, bias=False, device="meta")
        self.group = group
        self.weight = _share(whole.weight, cut, group)
        self.bias = whole.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Summed.apply(F.linear(x, self.weight), self.group)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)  # once, not once a rank


class _Shared(torch.autograd.Function):
    """What all ranks read: its gradient is the sum of theirs (Megatron-LM's f)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum(gradients[0], ctx.group), None


class _Summed(torch.autograd.Function):
    """The sum of what the ranks give (Megatron-LM's g)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


@dataclass(frozen=True)
class TensorPlan:
    """What ``divide`` did to a decoder.

    Attributes:
        cuts: how each weight that is divided is, by its name in the decoder.
        partial: names of whole weights that a rank uses for its own heads alone: their gradients are to be added up.
    """

    cuts: dict[str, Cut] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)


def divide(decoder: Decoder, group: dist.ProcessGroup) -> TensorPlan:
    """Leave a decoder the part of its blocks that is this rank's; embeddings, norms and the vocabulary stay whole.

    Raises:
        ConfigError: for a part that cannot be divided; the decoder is then as it was.
    """
    rank, n_ranks, plan = dist.get_rank(group), dist.get_world_size(group), TensorPlan()
    if (reason := next(obstacles(decoder, n_ranks), None)) is not None:
        raise ConfigError(
            f"tensor parallelism over {n_ranks} ranks: {reason}; take conf/extra/fsdp.yaml, which shards any model"
        )

    def replace(owner: nn.Module, path: str, kind: type[ColumnParallel | RowParallel], cut: Cut) -> None:
        own_name = path.rpartition(".")[2]
        divided = kind(getattr(owner, own_name), cut, group)
        setattr(owner, own_name, divided)
        plan.cuts[f"{path}.weight"] = cut
        if kind is ColumnParallel and divided.bias is not None:
            plan.partial.add(f"{path}.bias")

    blocks: list[Any] = list(decoder.blocks)
    for index, block in enumerate(blocks):
        name, attention, feed_forward = f"blocks.{index}", block.attention, block.feed_forward
        queries, keys = attention.n_heads * attention.head_dim, attention.n_kv_heads * attention.head_dim
        replace(attention, f"{name}.attention.qkv", ColumnParallel, Cut(0, (queries, keys, keys)))
        replace(attention, f"{name}.attention.out", RowParallel, Cut(1, (queries,)))
        attention.n_heads, attention.n_kv_heads = attention.n_heads // n_ranks, attention.n_kv_heads // n_ranks
        if attention.qk_norm is not None:
            attention.qk_norm.sizes = (attention.n_heads, attention.n_kv_heads)
            plan.partial.update(f"{name}.attention.qk_norm.{own}" for own, _ in attention.qk_norm.named_parameters())
        first, n_parts = _FEED_FORWARDS[type(feed_forward).forward]
        width = feed_forward.d_ff
        replace(feed_forward, f"{name}.feed_forward.{first}", ColumnParallel, Cut(0, (width,) * n_parts))
        replace(feed_forward, f"{name}.feed_forward.down", RowParallel, Cut(1, (width,)))
    values = decoder.value_mix
    if isinstance(values, ValueEmbeddings):
        tables: dict[str, Any] = dict(values.tables.items())
        for layer, table in tables.items():
            cut = Cut(1, (table.embedding_dim,))
            table.weight, table.embedding_dim = _share(table.weight, cut, group), table.embedding_dim // n_ranks
            plan.cuts[f"value_mix.tables.{layer}.weight"] = cut
            gates: Any = values.gates[layer]
            replace(values.gates, f"value_mix.gates.{layer}", ColumnParallel, Cut(0, (gates.out_features,)))
    elif values is not None:
        plan.partial.update(f"value_mix.{own}" for own, _ in values.named_parameters())
    if isinstance(decoder.position, ALiBi):  # its slopes are no weights: no checkpoint holds them
        decoder.position.slopes = decoder.position.slopes.chunk(n_ranks)[rank]
    return plan


def obstacles(decoder: Decoder, n_ranks: int) -> Iterator[str]:
    """Say of each part of a decoder that cannot be divided among so many ranks why."""
    blocks: list[Any] = list(decoder.blocks)
    for index, block in enumerate(blocks):
        yield from _of_attention(f"blocks.{index}.attention", block.attention, n_ranks)
        yield from _of_feed_forward(f"blocks.{index}.feed_forward", block.feed_forward, n_ranks)
    if type(decoder.position).bias not in (Position.bias, ALiBi.bias):
        yield f"{type(decoder.position).__name__} has a bias for all heads"
    if decoder.value_mix is not None and type(decoder.value_mix) not in (ValueEmbeddings, ValueResidual):
        yield f"nothing says how {type(decoder.value_mix).__name__} is divided"


def _of_attention(name: str, attention: Attention, n_ranks: int) -> Iterator[str]:
    kind = type(attention)
    if kind.forward is not GroupedQueryAttention.forward or kind.attend is not Attention.attend:
        yield f"nothing says how {kind.__name__} ({name}) is divided"
        return
    assert isinstance(attention, GroupedQueryAttention)
    for what in ("n_heads", "n_kv_heads"):
        if (number := getattr(attention, what)) % n_ranks:
            yield f"{name} has {what} {number}, which {n_ranks} does not divide"
    if attention.dropout:
        yield f"{name} drops attention weights ({attention.dropout}), and all ranks would drop the same"
    if attention.qk_norm is not None and type(attention.qk_norm) is not HeadQKNorm:
        yield f"{type(attention.qk_norm).__name__} ({name}) looks at all heads together"
    if any(True for _ in attention.kernel.parameters()):
        yield f"{name} has sinks"
    yield from _of_projections(name, (attention.qkv, attention.out))


def _of_feed_forward(name: str, feed_forward: FeedForward, n_ranks: int) -> Iterator[str]:
    known = _FEED_FORWARDS.get(type(feed_forward).forward)
    if known is None:
        yield f"nothing says how {type(feed_forward).__name__} ({name}) is divided"
        return
    layer: Any = feed_forward
    if layer.d_ff % n_ranks:
        yield f"{name} has d_ff {layer.d_ff}, which {n_ranks} does not divide"
    yield from _of_projections(name, (getattr(layer, known[0]), layer.down))


def _of_projections(name: str, projections: tuple[nn.Module, ...]) -> Iterator[str]:
    for projection in projections:
        if type(projection) is not nn.Linear:
            yield f"a projection of {name} is a {type(projection).__name__}"


def _share(whole: Tensor, cut: Cut, group: dist.ProcessGroup) -> nn.Parameter:
    share = cut.of(whole.detach(), dist.get_rank(group), dist.get_world_size(group))
    return nn.Parameter(share, requires_grad=whole.requires_grad)


def _sum(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
