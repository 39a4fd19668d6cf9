"""Weights that lie on several ranks: FSDP2 shards any model, tensor parallelism divides blocks; both together, too.

FSDP: Zhao et al. 2023, arXiv 2304.11277. It keeps a shard of each weight, optimiser state and gradient on each rank,
and gathers a block's weights when it is computed.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from xlab.errors import ConfigError
from xlab.training.averaging import AveragedWeights
from xlab.training.layouts import Exchange, Layout, local
from xlab.training.optimizers_average import OptimizersAverage
from xlab.training.samples import SampleWriter
from xlab.training.tensor_parallel import TensorPlan, divide
from xlab.transformer.decoder import Decoder
from xlab.transformer.flops import flops_per_token

DATA, TENSOR = "data_parallel", "tensor_parallel"  # names of the mesh's two sides
# they look at whole matrices, or at all weights at once
_NOT_ELEMENTWISE = (torch.optim.Muon, torch.optim.Adafactor, torch.optim.LBFGS)


class Sharding:
    """A model's weights on a mesh of ranks.

    Args:
        model: an XLabModel, whole; its decoder is sharded in place.
        mesh: (data-parallel ranks, tensor-parallel ranks).

    Raises:
        ConfigError: for what cannot be sharded.
    """

    def __init__(self, model: LightningModule, mesh: DeviceMesh) -> None:
        decoder: Any = model.decoder
        self._mesh = mesh
        self._decoder: Decoder = decoder
        self.data_ranks, self.tensor_ranks = mesh[DATA].size(), mesh[TENSOR].size()
        self.whole_shapes = {name: weight.shape for name, weight in model.named_parameters()}
        self.n_parameters = sum(weight.numel() for weight in decoder.parameters())
        # arithmetic is a constant and a part in proportion to the window; a divided decoder could not tell
        self._flops = (flops_per_token(decoder, 0), flops_per_token(decoder, 1) - flops_per_token(decoder, 0))
        plan = divide(decoder, mesh[TENSOR].get_group()) if self.tensor_ranks > 1 else TensorPlan()
        self.cuts = {f"decoder.{name}": cut for name, cut in plan.cuts.items()}
        self._partial = {f"decoder.{name}" for name in plan.partial}
        if self.data_ranks > 1:
            self._shard(decoder)

    def _shard(self, decoder: Decoder) -> None:
        """Let FSDP have each block, and what is left as one."""
        dims: dict[nn.Parameter, int] = {}
        for name, weight in self._named(decoder):
            if name not in self.cuts:
                continue
            dim = dims[weight] = self._free_dim(name)
            if dim and weight.size(dim) % self.data_ranks:  # rows may be dealt out unevenly
                size = "model.value_mix's gate_width" if ".gates." in name else "model.d_model"
                raise ConfigError(
                    f"{name.removeprefix('decoder.')}, divided by tensor parallelism, cannot be sharded over "
                    f"{self.data_ranks} ranks as well: it has {weight.size(dim)} columns; choose a {size} that "
                    f"{self.data_ranks} divides, or take conf/extra/fsdp.yaml"
                )
        settings: dict[str, Any] = {"mesh": self._mesh[DATA]}
        # the other side than tensor parallelism has, so that each rank's share is one rectangle
        settings["shard_placement_fn"] = lambda weight: Shard(dims[weight]) if weight in dims else None
        # weights are gathered as they are: under mixed precision each operation rounds them as it does in one process
        for block in decoder.blocks:
            fully_shard(block, **settings)
        fully_shard(decoder, **settings)
        register_fsdp_forward_method(decoder, "hidden")  # what training calls

    def _free_dim(self, name: str) -> int:
        return 1 - self.cuts[name].dim

    @staticmethod
    def _named(decoder: Decoder) -> Iterable[tuple[str, nn.Parameter]]:
        return decoder.named_parameters(prefix="decoder")

    @property
    def size(self) -> list[int]:
        """How many ranks share the data, and how many a layer."""
        return [self.data_ranks, self.tensor_ranks]

    def flops_per_token(self, seq_len: int) -> int:
        """As ``flops_per_token`` of the whole decoder."""
        constant, per_place = self._flops
        return constant + per_place * seq_len

    def settle(self) -> None:
        """Let each rank hold its shards alone again: after a validation the last weights gathered are still there."""
        for module in self._decoder.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def add_up(self, model: nn.Module) -> None:
        """Add up the gradients of weights that each rank used for its own heads."""
        for name, weight in model.named_parameters():
            if name in self._partial and weight.grad is not None:
                dist.all_reduce(local(weight.grad), group=self._mesh[TENSOR].get_group())

    def gradient_norm(self, model: nn.Module) -> Tensor:
        """Give the 2-norm of all gradients together, each weight's counted once."""
        divided: list[Tensor] = []
        whole: list[Tensor] = []
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                (divided if name in self.cuts else whole).append(local(weight.grad))
        device = (divided + whole)[0].device
        squares = torch.stack([_squares(divided, device), _squares(whole, device) / self.tensor_ranks])
        dist.all_reduce(squares)
        return squares.sum().sqrt()

    def clip(self, model: nn.Module, max_norm: float, norm: Tensor) -> None:
        """Scale all gradients so that their norm, which is known, is at most ``max_norm``."""
        shards = [local(weight.grad) for weight in model.parameters() if weight.grad is not None]
        if shards:  # none of a step that was refused
            torch._foreach_mul_(shards, (max_norm / (norm + 1e-6)).clamp(max=1.0))

    def stored(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """Give a weight, or what an optimiser keeps for it, as ``torch.distributed.checkpoint`` can store it.

        Of a weight that tensor parallelism divides each part is a tensor of its own, with the order that the whole has,
        so that any number of ranks can read it. Nothing is copied. The keys follow the weight's own.

        Args:
            name: of the weight in the model.
            tensor: this rank's.
        """
        cut = self.cuts.get(name)
        if cut is None:
            return {"": tensor}
        placements: list[Any] = [Shard(cut.dim)]
        mesh = self._mesh[TENSOR]
        if isinstance(tensor, DTensor):
            mesh, placements = self._mesh, [Shard(self._free_dim(name)), *placements]
        pieces = cut.pieces(local(tensor).detach(), self.tensor_ranks)
        across = self.whole_shapes[name][self._free_dim(name)]
        stored: dict[str, Tensor] = {}
        for number, (piece, size) in enumerate(zip(pieces, cut.parts, strict=True)):
            shape = (size, across) if cut.dim == 0 else (across, size)  # of what the ranks have together
            lies: dict[str, Any] = {"shape": torch.Size(shape), "stride": (shape[1], 1), "run_check": False}
            own = DTensor.from_local(piece, mesh, placements, **lies)
            stored[f"/{number}" if len(pieces) > 1 else ""] = own
        return stored

    def layout(self, name: str, weight: Tensor) -> Layout:
        """How a weight of the model lies on the ranks."""
        dim = None
        if isinstance(weight, DTensor):
            (placement,) = weight.placements
            assert isinstance(placement, Shard)
            dim = placement.dim
        return Layout(self.whole_shapes[name], self.data_ranks, self.tensor_ranks, self.cuts.get(name), dim)

    def share(self, name: str, whole: Tensor, weight: Tensor) -> Tensor:
        """Give what this rank holds of a whole weight, or of what an optimiser keeps for it; as ``weight`` lies."""
        # a copy: it may be a view, or lie in a file that is mapped to memory
        own = self.layout(name, weight).share(whole, dist.get_rank()).clone(memory_format=torch.contiguous_format)
        return laid_as(weight, own)

    def exchange(self, model: nn.Module) -> Exchange:
        """Give an optimiser that looks at whole matrices the means to."""
        self.settle()
        return Exchange({weight: self.layout(name, weight) for name, weight in model.named_parameters()})


def shard(model: LightningModule, trainer: Trainer, mesh: DeviceMesh) -> Sharding:
    """Shard a model for a trainer, once all that cannot be is refused.

    Raises:
        ConfigError: naming what cannot be sharded, and what to do.
    """
    for reason in _obstacles(model, trainer):
        raise ConfigError(f"trainer.strategy shards the weights: {reason}")
    return Sharding(model, mesh)


def laid_as(weight: Tensor, own: Tensor) -> Tensor:
    """Give what this rank holds as a tensor that lies on the ranks as ``weight`` does."""
    if not isinstance(weight, DTensor):
        return own
    own = own.to(local(weight).device)
    shape: dict[str, Any] = {"shape": weight.shape, "stride": weight.stride()}
    return DTensor.from_local(own, weight.device_mesh, weight.placements, run_check=False, **shape)


def _obstacles(model: LightningModule, trainer: Trainer) -> Iterable[str]:
    if trainer.state.fn == "predict":
        yield "texts are continued by one process with a whole model; leave the strategy out"
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, AveragedWeights):
            what = "model.optimizer" if isinstance(callback, OptimizersAverage) else type(callback).__name__
            yield f"{what} would average shards that no checkpoint could put together; take DDP"
        if isinstance(callback, SampleWriter):
            yield f"{type(callback).__name__} needs them whole; leave it out, or take DDP"
    objective: Any = model.objective
    if any(True for _ in objective.parameters()):
        yield f"model.objective {type(objective).__name__} has weights of its own, which stay out of it; take DDP"


def refuse_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimiser that does not treat each number of a weight by itself, and cannot borrow the rest of it.

    Raises:
        ConfigError: naming it.
    """
    if isinstance(optimizer, _NOT_ELEMENTWISE):
        raise ConfigError(
            f"{type(optimizer).__name__} does not train weights that are sharded over ranks; take torch.optim.AdamW, "
            "xlab.training.muon.MuonAdamW, or trainer.strategy ddp"
        )


def _squares(gradients: list[Tensor], device: torch.device) -> Tensor:
    if not gradients:
        return torch.zeros((), device=device)
    return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).square().sum()
