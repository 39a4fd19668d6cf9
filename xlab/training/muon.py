"""Muon for the blocks' projections, AdamW for everything else: one optimiser, one schedule, one checkpoint.

Letters: N matrices of one shape, A rows, B columns.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from xlab.errors import ConfigError
from xlab.training.layouts import Exchange, local
from xlab.training.optimizers import FACTOR, PARTS, TABLES, WIDENING
from xlab.training.precision import fast_dtype

# of the quintic that drives singular values towards 1 the faster the smaller they are (Jordan et al. 2024)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
AT_ONCE = 2**24  # elements of the matrices that are orthogonalised together: enough to be busy, little to hold
MATRICES = "is_muon"  # key of a parameter group: whether it is Muon's


class MuonAdamW(Optimizer):
    """Momentum made orthogonal, for projections (Jordan et al. 2024, kellerjordan.github.io/posts/muon); else AdamW.

    A projection that is stored with others in one weight (queries, keys and values; gate and up) is orthogonalised by
    itself. Each is a map of its own, and the largest one's singular values would decide over the others' directions;
    the published runs did it so, since their projections were weights of their own. Weight decay is AdamW's, decoupled,
    as it must be for long runs (Liu et al. 2025, arXiv 2502.16982, section 2.2).

    Under μP, rates of these projections are not divided by the width as Adam's are. Their update is as large as its
    spectral norm says, which must stay at √(A / B) (Yang et al. 2023, arXiv 2310.17813): so it does with ``original``,
    and with ``match_rms_adamw`` when the rate is divided by the root of the widening.

    Args:
        params: parameter groups, as ``decay_groups`` makes them.
        lr: AdamW's rate, and Muon's too if it has none of its own.
        muon_lr: Muon's rate; with ``adjust_lr: original`` about 0.02.
        embedding_factor: what AdamW's rate is multiplied by for tables of embeddings (of tokens and values). A row is
            trained only where its token stands, so that tables bear a far higher rate than matrices. Their decay keeps
            the pace of the others'. Places, and a table that is the vocabulary projection, too, are trained by every
            step and have the plain rate.
        momentum: Muon's.
        nesterov: whether Muon looks a step of momentum ahead.
        ns_steps: Newton–Schulz iterations.
        adjust_lr: what Muon's rate is multiplied by. ``match_rms_adamw``: 0.2 √max(A, B), which gives updates of
            AdamW's size, so that its rate and decay serve both (Liu et al. 2025, eq. 4); ``original``: √max(1, A / B).
        weight_decay: of matrices, both Muon's and AdamW's.
        betas: AdamW's.
        eps: AdamW's.
        fused: whether AdamW's part is one kernel.

    Raises:
        ConfigError: for numbers out of range, when no projection is trained, or, in a step, when weights are
            sharded and it was not told how.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        muon_lr: float | None = None,
        embedding_factor: float = 1.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        fused: bool = True,
    ) -> None:
        for name, rate in (("lr", lr), ("muon_lr", muon_lr or 0.0)):
            if rate < 0:
                raise ConfigError(f"model.optimizer.{name} must not be negative, got {rate}")
        muon_lr = lr if muon_lr is None else muon_lr
        _check(embedding_factor, momentum, ns_steps, adjust_lr)
        self._adjusted = _ADJUSTED[adjust_lr]
        others, matrices = _apart(params)
        _check_matrices(matrices)
        if embedding_factor != 1.0:
            others = _with_tables_at(embedding_factor, others, weight_decay)
        for group in matrices:
            _widen(group, _WIDENED[adjust_lr])
        settings = {"lr": muon_lr, "momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, MATRICES: True}
        self._adamw: AdamW | None = None
        if others:
            self._adamw = AdamW(
                others, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused
            )
            others = [{**group, MATRICES: False} for group in self._adamw.param_groups]
        groups = [*others, *({**settings, **group} for group in matrices)]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self._exchange: Exchange | None = None

    def train_shards(self, exchange: Exchange) -> None:
        """Train weights that lie on several ranks: each keeps its share of the momentum, and makes some updates whole.

        Args:
            exchange: of these weights.
        """
        self._exchange = exchange
        for group in self.param_groups:
            if group[MATRICES]:  # what a weight holds is said of the whole, in checkpoints too
                layouts = [exchange.layout(weight) for weight in group["params"]]
                group[PARTS] = [own.rows or rows for own, rows in zip(layouts, group[PARTS], strict=True)]

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step by the gradients that there are, or that ``closure`` makes; gives what it gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._adamw is not None:
            # anew each time: a state that is loaded replaces both
            self._adamw.param_groups = [group for group in self.param_groups if not group[MATRICES]]
            self._adamw.state = self.state
            self._adamw.step()
        for group in self.param_groups:
            if group[MATRICES]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        every = zip(group["params"], group[PARTS], strict=True)
        found = [(weight, rows, weight.grad) for weight, rows in every if weight.grad is not None]
        if not found:
            return
        weights, all_rows, gradients = (list(each) for each in zip(*found, strict=True))
        if self._exchange is None and any(hasattr(weight, "to_local") for weight in weights):  # DTensors
            raise ConfigError(
                "MuonAdamW was not told how its weights are sharded; take xlab.strategies.Sharded, or ddp"
            )
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [local(self.state[weight]["momentum_buffer"]) for weight in weights]
        own, gradients = [local(weight) for weight in weights], [local(gradient) for gradient in gradients]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        directions = list(torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers)
        torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
        if self._exchange is None:
            self._add_updates(own, directions, all_rows, group)
            return

        def updates(indices: list[int], wholes: list[Tensor]) -> list[Tensor]:
            made = [torch.zeros_like(whole) for whole in wholes]
            self._add_updates(made, wholes, [all_rows[i] for i in indices], group)
            return made

        torch._foreach_add_(own, self._exchange.changed(weights, directions, updates))

    def _add_updates(
        self,
        matrices: Sequence[Tensor],
        directions: Sequence[Tensor],
        all_rows: Sequence[list[int]],
        group: dict[str, Any],
    ) -> None:
        parts = [part for d, rows in zip(directions, all_rows, strict=True) for part in d.split_with_sizes(rows)]
        targets = [part for m, rows in zip(matrices, all_rows, strict=True) for part in m.split_with_sizes(rows)]
        for target, update in zip(targets, orthogonalised(parts, ns_steps=group["ns_steps"]), strict=True):
            target.add_(update, alpha=-group["lr"] * self._adjusted(*target.shape))


def orthogonalised(matrices: Sequence[Tensor], *, ns_steps: int = 5, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Give matrices of the same singular vectors, whose singular values are all near 1 (0.7 … 1.2 after 5 steps).

    Those of one shape, or its transpose, go through the iteration together: kernels for all rather than for each.

    Args:
        matrices: (A, B) each; they stay as they are.
        ns_steps: Newton–Schulz iterations.
        dtype: to reckon in; left out, bf16 where the device is fast at it, else fp32. The iteration forgives the
            rounding: what is off by a little is brought back by the next step.

    Returns:
        As many, in that dtype.
    """
    alike: dict[tuple[int, int, torch.device], list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        alike[min(matrix.shape), max(matrix.shape), matrix.device].append(index)
    made: dict[int, Tensor] = {}
    for (n_rows, n_columns, device), indices in alike.items():
        size = max(1, AT_ONCE // (n_rows * n_columns))
        for some in (indices[start : start + size] for start in range(0, len(indices), size)):
            wide = [matrices[i] if matrices[i].size(0) == n_rows else matrices[i].mT for i in some]
            batch = torch.stack(wide).to(dtype or fast_dtype(device))  # (N, A, B), A ≤ B
            for i, result in zip(some, _newton_schulz(batch, ns_steps), strict=True):
                made[i] = result if matrices[i].size(0) == n_rows else result.mT
    return [made[i] for i in range(len(matrices))]


def _newton_schulz(x: Tensor, ns_steps: int) -> Tensor:
    """Iterate a X + b (X Xᵀ) X + c (X Xᵀ)² X on (N, A, B)."""
    a, b, c = COEFFICIENTS
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1, and zeros stay zeros
    for _ in range(ns_steps):
        gram = x @ x.mT  # (N, A, A)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _with_tables_at(factor: float, groups: Iterable[dict[str, Any]], weight_decay: float) -> list[dict[str, Any]]:
    """Part tables from the rest of AdamW's groups; they come last: the first group's rate is the optimiser's."""
    others: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for group in groups:
        others += _only(group, [not is_table for is_table in group[TABLES]])
        tables += _only(group, group[TABLES])
    decay = weight_decay / factor  # AdamW multiplies it by the rate
    return others + [{**group, FACTOR: factor * group[FACTOR], "weight_decay": decay} for group in tables]


def _apart(groups: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Part each group's projections from what else is in it; gives the others' groups and the projections'."""
    others: list[dict[str, Any]] = []
    matrices: list[dict[str, Any]] = []
    for group in groups:
        if not isinstance(group, dict) or PARTS not in group:
            raise ConfigError("MuonAdamW needs groups that say which weights are projections; see decay_groups")
        for found, kept in ((others, False), (matrices, True)):
            found += _only(group, [bool(rows) == kept for rows in group[PARTS]])
    return others, matrices


def _only(group: dict[str, Any], chosen: Sequence[bool]) -> list[dict[str, Any]]:
    """Give a group of what is chosen of another; an empty list where nothing is."""
    part = {key: list(compress(group[key], chosen)) for key in ("params", PARTS, TABLES)}
    return [{**group, **part}] if part["params"] else []


def _widen(group: dict[str, Any], exponent: float) -> None:
    """Let a group's rate follow the width of the model by another power than Adam's."""
    widening = group.pop(WIDENING, 1.0)
    own = widening**exponent
    group[FACTOR] = group[FACTOR] / widening * own
    if own != 1.0:
        group[WIDENING] = own


# by what the rate of an (A, B) matrix is multiplied, and as what power of μP's factor for Adam it follows the width
_ADJUSTED: dict[str, Callable[[int, int], float]] = {
    "match_rms_adamw": lambda a, b: float(0.2 * max(a, b) ** 0.5),
    "original": lambda a, b: float(max(1.0, a / b) ** 0.5),
}
_WIDENED = {"match_rms_adamw": 0.5, "original": 0.0}


def _check(embedding_factor: float, momentum: float, ns_steps: int, adjust_lr: str) -> None:
    if embedding_factor <= 0:
        raise ConfigError(
            f"model.optimizer.embedding_factor must be above 0, got {embedding_factor}; model.freeze holds still"
        )
    if not 0 <= momentum < 1:
        raise ConfigError(f"model.optimizer.momentum must be in [0, 1), got {momentum}")
    if ns_steps < 1:
        raise ConfigError(f"model.optimizer.ns_steps must be at least 1, got {ns_steps}")
    if adjust_lr not in _ADJUSTED:
        raise ConfigError(f"model.optimizer.adjust_lr must be {' or '.join(_ADJUSTED)}, got {adjust_lr!r}")


def _check_matrices(groups: Sequence[dict[str, Any]]) -> None:
    weights = [weight for group in groups for weight in group["params"]]
    if not weights:
        raise ConfigError(
            "MuonAdamW finds no projection of the blocks among what is trained (model.freeze and model.lora hold them "
            "still); take AdamW, as conf/extra/finetune.yaml does"
        )
