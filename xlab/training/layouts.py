"""How a weight lies on several ranks, and how ranks lend each other the whole of what each holds a share of.

Letters: n ranks, A rows, B columns.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from xlab.training.tensor_parallel import Cut

AT_ONCE = 2**24  # elements that a rank has whole at a time


def local(tensor: Tensor) -> Tensor:
    """Give what this rank holds of a tensor."""
    # a DTensor has it: to import the class takes longer than to write a short text with a model
    own: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own


@dataclass(frozen=True)
class Layout:
    """How a weight lies on a mesh of ranks: tensor parallelism's share of it, and of that FSDP's shard.

    Attributes:
        shape: of the whole.
        n_data: ranks that share the data; they are the mesh's rows.
        n_tensor: ranks that share a layer, its columns.
        cut: how it is divided among the latter; None where each has all of it.
        dim: along which the former shard it; None where each has all of it.
    """

    shape: torch.Size
    n_data: int = 1
    n_tensor: int = 1
    cut: Cut | None = None
    dim: int | None = None

    def share(self, whole: Tensor, rank: int) -> Tensor:
        """Give a rank's share of the whole; it may be a view."""
        data, tensor = divmod(rank, self.n_tensor)
        if self.cut is not None:
            whole = self.cut.of(whole, tensor, self.n_tensor)
        if self.dim is None:
            return whole
        chunks = whole.chunk(self.n_data, self.dim)
        return chunks[data] if data < len(chunks) else whole.narrow(self.dim, 0, 0)

    def whole(self, shares: Sequence[Tensor]) -> Tensor:
        """Put the shares of all ranks, in their order, together."""
        columns = [shares[tensor :: self.n_tensor] for tensor in range(self.n_tensor)]
        unsharded = [column[0] if self.dim is None else torch.cat(list(column), self.dim) for column in columns]
        return unsharded[0] if self.cut is None else self.cut.whole(unsharded)

    @cached_property
    def shapes(self) -> list[torch.Size]:
        """Of each rank's share."""
        whole = torch.empty(self.shape, device="meta")
        return [self.share(whole, rank).shape for rank in range(self.n_data * self.n_tensor)]

    @property
    def rows(self) -> list[int]:
        """Of each projection that the whole holds, where tensor parallelism divides them; else empty."""
        return list(self.cut.parts) if self.cut is not None and self.cut.dim == 0 else []

    @property
    def cost(self) -> int:
        """What it costs to orthogonalise it, in proportion: A B min(A, B)."""
        return self.shape.numel() * min(self.shape)


class Exchange:
    """Lets ranks have matrices whole, each some of them; all ranks call it alike.

    No rank does another's work again, as all would if each gathered everything; and what goes over the links, a share
    of every matrix to its owner and one back, is an n-th of what FSDP gathers to compute with.

    Args:
        layouts: how each weight lies on all ranks there are.
    """

    def __init__(self, layouts: Mapping[Tensor, Layout]) -> None:
        self._layouts = layouts

    def layout(self, weight: Tensor) -> Layout:
        """How a weight lies."""
        return self._layouts[weight]

    def changed(
        self,
        weights: Sequence[Tensor],
        shares: Sequence[Tensor],
        change: Callable[[list[int], list[Tensor]], list[Tensor]],
    ) -> list[Tensor]:
        """Give this rank's shares of what is made of whole matrices.

        Args:
            weights: as which the matrices lie on the ranks.
            shares: this rank's of each matrix; one dtype.
            change: given some whole matrices, and which of ``weights`` they are as, makes as many of the same shapes
                and dtype. It is called on the rank that owns them and nowhere else.
        """
        layouts = [self._layouts[weight] for weight in weights]
        made: dict[int, Tensor] = {}
        for owned in _rounds(layouts, dist.get_world_size()):
            made.update(_round(layouts, shares, change, owned))
        return [made[i] for i in range(len(weights))]


def _round(
    layouts: Sequence[Layout],
    shares: Sequence[Tensor],
    change: Callable[[list[int], list[Tensor]], list[Tensor]],
    owned: list[list[int]],
) -> dict[int, Tensor]:
    """Change the matrices that ``owned`` gives to each rank; gives this rank's shares by their number."""
    rank, ranks = dist.get_rank(), range(len(owned))
    mine = owned[rank]
    of_others = [[layouts[i].shapes[other] for i in mine] for other in ranks]  # their shares of what is mine
    of_mine = [[layouts[i].shapes[rank] for i in owned[other]] for other in ranks]  # my share of what is theirs
    received = _swapped([[shares[i] for i in owned[other]] for other in ranks], of_others, shares[0])
    wholes = [layouts[i].whole(pieces) for i, pieces in zip(mine, zip(*received, strict=True), strict=True)]
    results = change(mine, wholes) if mine else []
    sent = [[layouts[i].share(x, other) for i, x in zip(mine, results, strict=True)] for other in ranks]
    back = _swapped(sent, of_mine, shares[0])
    return {i: piece for other in ranks for i, piece in zip(owned[other], back[other], strict=True)}


def _swapped(sent: list[list[Tensor]], shapes: list[list[torch.Size]], like: Tensor) -> list[list[Tensor]]:
    """Send each rank its list of tensors, and give those that each sent, of these shapes; one collective."""
    empty = like.new_empty(0)
    outgoing = torch.cat([empty, *(piece.reshape(-1) for pieces in sent for piece in pieces)])
    sizes = [[shape.numel() for shape in some] for some in shapes]
    incoming = like.new_empty(sum(map(sum, sizes)))
    n_sent = [sum(piece.numel() for piece in pieces) for pieces in sent]
    n_received = [sum(some) for some in sizes]
    dist.all_to_all_single(incoming, outgoing, n_received, n_sent)
    return [
        [piece.view(shape) for piece, shape in zip(part.split_with_sizes(own), some, strict=True)] if own else []
        for part, own, some in zip(incoming.split_with_sizes(n_received), sizes, shapes, strict=True)
    ]


def _rounds(layouts: Sequence[Layout], n_ranks: int) -> Iterator[list[list[int]]]:
    """Give matrices to ranks, the dearest first and to whom has the least to do; anew when there are many to hold."""
    order = sorted(range(len(layouts)), key=lambda i: -layouts[i].cost)
    owned: list[list[int]] = [[] for _ in range(n_ranks)]
    costs, held = [0] * n_ranks, 0
    for i in order:
        if held and held + layouts[i].shape.numel() > AT_ONCE * n_ranks:
            yield owned
            owned, costs, held = [[] for _ in range(n_ranks)], [0] * n_ranks, 0
        rank = costs.index(min(costs))
        owned[rank].append(i)
        costs[rank] += layouts[i].cost
        held += layouts[i].shape.numel()
    yield owned
