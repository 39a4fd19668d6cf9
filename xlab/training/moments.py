"""The moment a checkpoint is taken at: on every rank, dropout's draws and the step that is being accumulated."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule

from xlab.data.ranks import data_ranks
from xlab.errors import CheckpointError
from xlab.training.layouts import local
from xlab.training.sharding import Sharding, laid_as
from xlab.training.step_sums import StepSums


def gather_moments(model: LightningModule, sums: StepSums, sharding: Sharding | None) -> list[dict[str, Any]]:
    """Give, on the first rank, what each needs beside weights, optimiser and progress to go on bit for bit.

    Between two micro-batches of a step that is the gradients of each rank: their mean would round in another order.

    Args:
        model: that is trained; all ranks call this.
        sums: of the step that is being accumulated.
        sharding: of the weights over ranks.
    """
    trainer = model.trainer
    own, _ = data_ranks(trainer)
    moment: dict[str, Any] = {"rng": torch.get_rng_state(), "data_rank": own}
    if model.device.type == "cuda":
        moment["cuda_rng"] = torch.cuda.get_rng_state(model.device)
    if sums.loss is not None and sums.tokens is not None:  # a validation between two micro-batches
        if sharding is not None:
            sharding.settle()
            moment["mesh"] = sharding.size
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        moment |= {"loss": sums.loss.cpu(), "tokens": sums.tokens.double().cpu()}
        moment["gradients"] = {name: local(gradient).cpu() for name, gradient in gradients.items()}
        moment["accumulated"] = trainer.accumulate_grad_batches
        if sums.routing is not None:
            moment["routing"] = sums.routing.cpu()
    if trainer.world_size == 1:
        return [moment]
    moments: list[Any] = [None] * trainer.world_size
    torch.distributed.gather_object(moment, moments if trainer.is_global_zero else None)
    return moments


def take_up(
    moments: Sequence[dict[str, Any]], model: LightningModule, sums: StepSums, sharding: Sharding | None
) -> None:
    """Give this rank its draws, and its part of the step that was being accumulated.

    Args:
        moments: as ``gather_moments`` gave them.
        model: that is trained on; it gets the gradients.
        sums: of the step that goes on; they are set.
        sharding: of the weights over ranks.

    Raises:
        CheckpointError: for a step amid which weights lay on the ranks in another way.
    """
    _take_up_draws(moments, model)
    first = moments[0]
    if "gradients" not in first:
        return
    rank, ranks = model.trainer.global_rank, model.trainer.world_size
    mesh = None if sharding is None else sharding.size
    if mesh != first.get("mesh") or (mesh is not None and ranks != len(moments)):
        raise CheckpointError(
            f"the checkpoint was taken amid an accumulated step of {len(moments)} ranks, of gradients that lie on "
            "them as its weights did; resume it with the same trainer.strategy and ranks"
        )
    # of as many ranks as there were, each takes up its own sums; of another number, each an equal share of all
    parts, share = ([moments[rank]], 1.0) if ranks == len(moments) else (moments, 1 / ranks)
    names = [name for name in ("loss", "tokens", "routing") if name in first]
    added = {name: share * torch.stack([part[name] for part in parts]).sum(0).to(model.device) for name in names}
    sums.loss, sums.tokens, sums.routing = added["loss"], added["tokens"], added.get("routing")
    share *= first["accumulated"] / model.trainer.accumulate_grad_batches  # Lightning divides gradients by it
    for name, parameter in model.named_parameters():
        if name in first["gradients"]:
            total = torch.stack([part["gradients"][name] for part in parts]).sum(0)
            parameter.grad = laid_as(parameter, (share * total).to(local(parameter)))


def _take_up_draws(moments: Sequence[dict[str, Any]], model: LightningModule) -> None:
    own, _ = data_ranks(model.trainer)
    # who reads the same data draws the same; a rank that was not there keeps the draws it was seeded with
    draws = next((moment for n, moment in enumerate(moments) if moment.get("data_rank", n) == own), None)
    if draws is None:
        return
    torch.set_rng_state(draws["rng"].cpu())
    if model.device.type == "cuda" and "cuda_rng" in draws:
        torch.cuda.set_rng_state(draws["cuda_rng"].cpu(), model.device)
