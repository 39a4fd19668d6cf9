"""A mixture of experts: each token is mapped by a few of many feed-forwards, which a router chooses.

Letters: B batch, T positions, N = B · T tokens, D width, E experts, K experts chosen for a token.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.errors import ConfigError
from xlab.transformer.feed_forward import FeedForward, SwiGLU


@dataclass(frozen=True)
class Routing:
    """What a training pass has to say of where its tokens went.

    Attributes:
        loss: to be added to the mean loss of a token, a scalar that can be differentiated; of several layers, the sum.
        balance: the load-balancing loss before its weight, 1.0 when the experts share the work evenly, E / K at worst;
            of several layers, the mean.
        dropped: share of the chosen (token, expert) pairs beyond an expert's capacity, in [0, 1]; the mean likewise.
    """

    loss: Tensor
    balance: Tensor
    dropped: Tensor


class Router(nn.Linear):
    """Scores experts, in fp32 whatever the precision of the rest (Fedus et al. 2021, arXiv 2101.03961, section 2.4).

    As a type of its own it is also left alone where projections are rounded to int8: a small error of a score would
    send a token to another expert.
    """

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(wide), self.weight.to(wide))


class MixtureOfExperts(FeedForward):
    """Each token goes to the K experts that a router scores highest (Shazeer et al. 2017, arXiv 1701.06538).

    Their outputs are weighed by the softmax over the K scores, as in Mixtral (Jiang et al. 2024, arXiv 2401.04088,
    section 2.1). With K = 1 that would be 1 whatever the router says, and it could not learn: the weight is then the
    expert's probability among all, as in Switch (Fedus et al. 2021, arXiv 2101.03961, eq. 2).

    Args:
        d_model: width D of the model.
        d_ff: inner width of each expert; None leaves it to them.
        n_experts: E.
        top_k: K, experts of a token.
        expert: makes an expert from (d_model, d_ff).
        n_shared: experts beside, which map every token (Dai et al. 2024, DeepSeekMoE, arXiv 2401.06066, section 3.2).
        capacity_factor: how many times its even share of a training pass's tokens an expert takes at most; the tokens
            that come later in the batch go without it (Switch, eq. 3). Left out, or when not training, none does.
        balance: weight of the load-balancing loss, E · Σ fᵢ Pᵢ: f the shares of tokens that experts get, P their mean
            probabilities (Switch, eq. 4).
        z: weight of the router's z-loss, the mean squared logsumexp of its scores, which keeps them small (Zoph et al.
            2022, ST-MoE, arXiv 2202.08906, eq. 5).

    Raises:
        ConfigError: for numbers that do not fit together.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        n_experts: int = 8,
        top_k: int = 2,
        expert: Callable[[int, int | None], FeedForward] = SwiGLU,
        n_shared: int = 0,
        capacity_factor: float | None = None,
        balance: float = 0.01,
        z: float = 0.0,
    ) -> None:
        super().__init__()
        _check(n_experts=n_experts, top_k=top_k, n_shared=n_shared, capacity_factor=capacity_factor)
        for name, weight in (("balance", balance), ("z", z)):
            if weight < 0:
                raise ConfigError(f"feed_forward.{name} must not be negative, got {weight}")
        self.n_experts, self.top_k = n_experts, top_k
        self.capacity_factor, self.balance, self.z = capacity_factor, balance, z
        self.router = Router(d_model, n_experts, bias=False)
        self.experts = nn.ModuleList(expert(d_model, d_ff) for _ in range(n_experts))
        self.shared = nn.ModuleList(expert(d_model, d_ff) for _ in range(n_shared))
        self._routing: Routing | None = None  # of the last training pass

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.size(-1))  # (N, D)
        scores = self.router(tokens)  # (N, E)
        best, chosen = scores.topk(self.top_k, dim=-1)  # (N, K)
        weights = best.softmax(-1) if self.top_k > 1 else (best - scores.logsumexp(-1, keepdim=True)).exp()
        if torch.compiler.is_compiling() and not self.training:
            y = self._by_every_expert(tokens, chosen, weights)
        else:
            y = self._by_chosen_experts(tokens, scores, chosen, weights)
        for expert in self.shared:
            y = y + expert(tokens)
        return y.view_as(x)

    def take_routing(self) -> Routing | None:
        """Give, once, what the last training pass has to say; None if there was none since."""
        routing, self._routing = self._routing, None
        return routing

    def idle_weights(self) -> int:
        """Count the weights of matrix products that a token does not meet."""
        weights = sum(part.weight.numel() for part in self.experts.modules() if isinstance(part, nn.Linear))
        return weights * (self.n_experts - self.top_k) // self.n_experts

    def _by_chosen_experts(self, tokens: Tensor, scores: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Sort the N · K pairs of a token and an expert by expert, and let each map its slice; gives (N, D)."""
        n_pairs = chosen.numel()
        experts, pairs = chosen.flatten().sort(stable=True)  # stable: an expert meets its tokens in their order
        loads, pairs, sizes = self._load(experts, pairs)
        if self.training and torch.is_grad_enabled():
            self._routing = self._routed(scores, loads, dropped=1 - len(pairs) / n_pairs)
        owners = pairs // self.top_k
        slices = tokens.index_select(0, owners).split_with_sizes(sizes)
        # an expert without tokens takes part in training: its gradients are zeros then, and DDP waits for all
        mapped = [expert(own) for expert, own in zip(self.experts, slices, strict=True) if self.training or own.size(0)]
        back = torch.cat(mapped)
        back = back * weights.flatten()[pairs].unsqueeze(-1).to(back.dtype)
        return back.new_zeros(tokens.shape).index_add(0, owners, back)

    def _load(self, experts: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Count what is sent to each expert, (E,); give the pairs that are taken, and how many each expert takes."""
        loads = torch.bincount(experts, minlength=self.n_experts)
        most = self._capacity(len(experts))
        if most is None:
            return loads, pairs, loads.tolist()
        taken = loads.clamp(max=most)
        places = torch.arange(len(experts), device=loads.device) - (loads.cumsum(0) - loads)[experts]
        return loads, pairs[places < taken[experts]], taken.tolist()

    def _capacity(self, n_pairs: int) -> int | None:
        """The most pairs that an expert takes; None where it takes all."""
        if not self.training or self.capacity_factor is None:
            return None
        return math.ceil(self.capacity_factor * n_pairs / self.n_experts)

    def _by_every_expert(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The same in products of fixed shapes, for the compiler, which cannot follow slices that depend on data."""
        shares = weights.new_zeros(tokens.size(0), self.n_experts).scatter(1, chosen, weights)  # (N, E)
        mapped = torch.stack([expert(tokens) for expert in self.experts], dim=-1)  # (N, D, E)
        return (mapped @ shares.unsqueeze(-1).to(mapped.dtype)).squeeze(-1)

    def _routed(self, scores: Tensor, loads: Tensor, *, dropped: float) -> Routing:
        shares = loads / loads.sum()
        balance = self.n_experts * (shares * scores.softmax(-1).mean(0)).sum()
        loss = self.balance * balance + self.z * scores.logsumexp(-1).square().mean()
        return Routing(loss, balance.detach(), scores.new_tensor(dropped))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_routing": None}  # a copy has had no pass, and a loss in a graph cannot be copied


def mixtures(module: nn.Module) -> tuple[MixtureOfExperts, ...]:
    """Give the mixtures of experts in a module."""
    return tuple(part for part in module.modules() if isinstance(part, MixtureOfExperts))


def take_routing(layers: Sequence[MixtureOfExperts]) -> Routing | None:
    """Give, once, what the layers' last training pass has to say; None if there was none since."""
    routings = [routing for layer in layers if (routing := layer.take_routing()) is not None]
    if not routings:
        return None
    return Routing(
        loss=torch.stack([routing.loss for routing in routings]).sum(),
        balance=torch.stack([routing.balance for routing in routings]).mean(),
        dropped=torch.stack([routing.dropped for routing in routings]).mean(),
    )


def _check(*, n_experts: int, top_k: int, n_shared: int, capacity_factor: float | None) -> None:
    if n_experts < 1:
        raise ConfigError(f"feed_forward.n_experts must be at least 1, got {n_experts}")
    if not 1 <= top_k <= n_experts:
        raise ConfigError(f"feed_forward.top_k must be from 1 to n_experts, {n_experts}; got {top_k}")
    if n_shared < 0:
        raise ConfigError(f"feed_forward.n_shared must not be negative, got {n_shared}")
    if capacity_factor is not None and capacity_factor <= 0:
        raise ConfigError(f"feed_forward.capacity_factor must be above 0, got {capacity_factor}; null drops nothing")
