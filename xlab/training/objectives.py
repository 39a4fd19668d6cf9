"""What a model is trained to do: sums over tokens, so that any mean can be taken over all of a step's tokens.

Letters: B rows, T positions, D width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.data.packing import IGNORED
from xlab.errors import ConfigError
from xlab.transformer.head import Head

CHUNK_BYTES = 2**27  # of logits in fp32 that are held at once
_REMEDIES = {"documents": "set data.document_mask to true"}


class Objective(nn.Module):
    """A training loss over the decoder's final states; a subclass says what each predicted token costs."""

    needs: ClassVar[tuple[str, ...]] = ()
    """What each batch must hold beside ``inputs`` and ``targets``, such as ``documents``."""

    def forward(self, hidden: Tensor, head: Head, batch: Mapping[str, Tensor]) -> Tensor:
        """Sum the loss over the tokens to predict.

        The logits are made a chunk of tokens at a time, and each chunk's gradients with them, so that memory does not
        grow with B · T · V.

        Args:
            hidden: (B, T, D), the decoder's final states.
            head: gives logits (..., V) for states (..., D): ``decoder.head``.
            batch: ``inputs`` and ``targets``, (B, T) token ids each, the targets ``IGNORED`` where there is nothing to
                predict; with packed documents also ``documents``, (B, T).

        Returns:
            A scalar in nats: the sum, not the mean.

        Raises:
            ConfigError: when the batch has not what this objective needs.
        """
        for field in self.needs:
            if field not in batch:
                raise ConfigError(
                    f"model.objective {type(self).__name__} needs {field!r} in each batch, which has "
                    f"{', '.join(batch)}; {_REMEDIES.get(field, 'use a data module that gives it')}"
                )
        n_tokens, length = batch["targets"].numel(), batch["targets"].size(1)
        size = max(1, CHUNK_BYTES // (4 * head.weight.size(0)))

        def loss_of(states: Tensor, weight: Tensor, start: int) -> Tensor:
            tokens = torch.arange(start, start + len(states), device=states.device)
            rows, places = tokens // length, tokens % length
            logits = replace(head, weight=weight)(states)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            # no selecting of what is predicted: how much that is would have to be waited for
            is_predicted = batch["targets"][rows, places] != IGNORED
            return self.losses(logits, rows, places, batch).masked_fill(~is_predicted, 0.0).sum()

        states = hidden.flatten(0, 1)
        if not torch.is_grad_enabled() or n_tokens <= size:
            losses = [loss_of(some, head.weight, i * size) for i, some in enumerate(torch.split(states, size))]
            return torch.stack(losses).sum()
        total: Tensor = _Chunked.apply(states, head.weight, size, loss_of)  # type: ignore[no-untyped-call]
        return total

    def losses(self, logits: Tensor, rows: Tensor, places: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Give the loss of each of some tokens, (n,), in nats.

        Args:
            logits: (n, V), fp32 at least.
            rows: (n,) which rows of the batch they are of.
            places: (n,) where in their rows they stand.
            batch: as ``forward`` has it. Where ``batch["targets"][rows, places]`` is ``IGNORED``, so is what is given
                for it; it must be a number.
        """
        raise NotImplementedError


class NextToken(Objective):
    """Cross-entropy of the next token.

    Args:
        z_loss: weight of the squared logsumexp of the logits, which keeps them from drifting (Chowdhery et al. 2022,
            PaLM, arXiv 2204.02311, section 5; there 1e-4).
        label_smoothing: share of each target that all tokens have alike, in [0, 1) (Szegedy et al. 2015, arXiv
            1512.00567, section 7).
    """

    def __init__(self, z_loss: float = 0.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if z_loss < 0:
            raise ConfigError(f"objective.z_loss must not be negative, got {z_loss}")
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"objective.label_smoothing must be in [0, 1), got {label_smoothing}")
        self.z_loss, self.label_smoothing = z_loss, label_smoothing

    def losses(self, logits: Tensor, rows: Tensor, places: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        targets = batch["targets"][rows, places]
        settings: dict[str, Any] = {"ignore_index": IGNORED, "label_smoothing": self.label_smoothing}
        losses = F.cross_entropy(logits, targets, reduction="none", **settings)
        if self.z_loss:
            losses = losses + self.z_loss * logits.logsumexp(-1).square()
        return losses


class Unlikelihood(NextToken):
    """Cross-entropy, and a price on the probability of tokens that the text has had already.

    Welleck et al. 2019 (arXiv 1908.04319, eq. 3 and 5): each different token before the target costs −log(1 − p),
    unless it is the target. Before the target is: in its own document, up to the token that predicts it, which is not
    the target's own place.

    Args:
        alpha: weight of that price.
        z_loss: as for NextToken.
        label_smoothing: as for NextToken.
    """

    def __init__(self, alpha: float = 1.0, z_loss: float = 0.0, label_smoothing: float = 0.0) -> None:
        super().__init__(z_loss, label_smoothing)
        if alpha < 0:
            raise ConfigError(f"objective.alpha must not be negative, got {alpha}")
        self.alpha = alpha

    def losses(self, logits: Tensor, rows: Tensor, places: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        losses = super().losses(logits, rows, places, batch)
        inputs, targets = batch["inputs"][rows], batch["targets"][rows, places].clamp(min=0).unsqueeze(-1)  # (n, T)
        seen = torch.arange(inputs.size(1), device=inputs.device) <= places.unsqueeze(-1)
        if (documents := batch.get("documents")) is not None:
            seen &= documents[rows] == documents[rows, places].unsqueeze(-1)
        candidates = torch.zeros_like(logits, dtype=torch.bool)
        candidates.scatter_(1, inputs.where(seen, targets), True)
        candidates.scatter_(1, targets, False)
        # log(1 − p) from log p: exact where p is small, and bounded where fp32 rounds it to 1
        log_p = (logits - logits.logsumexp(-1, keepdim=True)).clamp(max=-1e-6)
        price = torch.log(-torch.expm1(log_p)).masked_fill(~candidates, 0.0)
        return losses - self.alpha * price.sum(-1)


class _Chunked(torch.autograd.Function):
    """A sum of losses over chunks of tokens, each differentiated while its logits are there."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, size: int, loss_of: Callable[..., Tensor]) -> Tensor:
        d_states = torch.empty_like(states)
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), device=states.device, dtype=torch.promote_types(states.dtype, torch.float32))
        own = weight.detach().requires_grad_(d_weight is not None)  # one, so that autocast rounds it once
        for start in range(0, len(states), size):
            with torch.enable_grad():
                some = states[start : start + size].detach().requires_grad_()
                loss = loss_of(some, own, start)
            found = torch.autograd.grad(loss, (some, own) if d_weight is not None else (some,))
            d_states[start : start + size] = found[0]
            if d_weight is not None:
                d_weight += found[1]
            total += loss.detach()
        ctx.save_for_backward(d_states, d_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        d_states, d_weight = ctx.saved_tensors
        (upstream,) = gradients
        scale = upstream.to(d_states.dtype)
        return d_states * scale, None if d_weight is None else d_weight * upstream.to(d_weight.dtype), None, None
