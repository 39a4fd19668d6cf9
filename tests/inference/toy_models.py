"""Models small enough to check by hand, whose logits depend on every token they are shown."""

import torch
from torch import Tensor, nn

V = 5


class Recurrent(nn.Module):
    """A fixed recurrence without parameters: the logits at t are a function of ids[0..t] and their order."""

    def __init__(self, vocab: int = V) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []  # the shape of each batch of ids
        self.frequencies = torch.linspace(1.0, 3.7, vocab, dtype=torch.float64)

    def forward(self, ids: Tensor) -> Tensor:
        return self.run(ids, torch.zeros(len(ids), dtype=torch.float64))[0]

    def run(self, ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append((ids.size(0), ids.size(1)))
        logits = []
        for token in ids.unbind(1):
            state = torch.sin(2.1 * state + 1.3 * token + 0.7)
            logits.append(2 * torch.sin(state[:, None] * 5 + self.frequencies * (3 + state[:, None])))
        return torch.stack(logits, dim=1), state


class State:
    """The cache of a recurrence: its last state."""

    def __init__(self, batch_size: int, max_len: int | None) -> None:
        self.values, self.max_len, self.length = torch.zeros(batch_size, dtype=torch.float64), max_len, 0

    def reorder(self, rows: Tensor) -> None:
        self.values = self.values[rows]


class CachedRecurrent(Recurrent):
    def make_cache(self, batch_size: int, max_len: int | None = None) -> State:
        return State(batch_size, max_len)

    def forward(self, ids: Tensor, cache: State | None = None) -> Tensor:
        if cache is None:
            return super().forward(ids)
        cache.length += ids.size(1)
        assert cache.max_len is None or cache.length <= cache.max_len
        logits, cache.values = self.run(ids, cache.values)
        return logits


class Fixed(nn.Module):
    """The same logits after every text."""

    def __init__(self, logits: list[float] | Tensor) -> None:
        super().__init__()
        self.logits = torch.as_tensor(logits)

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits.expand(*ids.shape, -1)


class Scripted(nn.Module):
    """The t-th position gives the t-th of the logits it was made with."""

    def __init__(self, *logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits[: ids.size(1)].expand(ids.size(0), -1, -1)
