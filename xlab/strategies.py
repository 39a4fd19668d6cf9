"""How Lightning spreads a run over ranks where it is more than DDP: weights in shards, and checkpoints of them."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from xlab import sharded_checkpoints
from xlab.checkpoint_files import BackgroundFiles
from xlab.errors import CheckpointError, ConfigError
from xlab.sharded_checkpoints import LAYOUT, WEIGHTS, ShardWriter, state_key
from xlab.training.layouts import local
from xlab.training.muon import MuonAdamW
from xlab.training.sharding import DATA, Sharding, refuse_optimizer


class Sharded(ModelParallelStrategy):
    """FSDP2 and tensor parallelism: each rank keeps a shard of the weights, the gradients and the optimiser's state.

    Checkpoints are folders that all ranks write; ``manage.py export-checkpoint`` makes one file of them. Any number of
    ranks, one process and DDP included, goes on from them, and this strategy goes on from a file of theirs.

    Args:
        tensor_parallel_size: ranks that compute a layer together, each some of its heads; they should be joined by
            the fastest links there are. The others share the data.
    """

    def __init__(self, tensor_parallel_size: int = 1) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=tensor_parallel_size)
        self._writer = ShardWriter()

    @property
    def data_ranks(self) -> tuple[int, int]:
        """Which share of the data this rank reads, and how many there are."""
        mesh = self.device_mesh[DATA]
        return mesh.get_local_rank(), mesh.size()

    def setup_environment(self) -> None:
        world_size, together = self.num_nodes * self.num_processes, int(self._tensor_parallel_size)
        if together < 1 or world_size % together:
            raise ConfigError(
                f"trainer.strategy.tensor_parallel_size is {together}, which does not divide the {world_size} ranks; "
                "change it, or trainer.devices"
            )
        self._data_parallel_size = world_size // together
        self._writer = ShardWriter(isinstance(self.checkpoint_io, BackgroundFiles))
        super().setup_environment()

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            refuse_optimizer(optimizer)
            if isinstance(optimizer, MuonAdamW) and trainer.world_size > 1:
                optimizer.train_shards(self._sharding.exchange(self._module))

    def teardown(self) -> None:
        self._writer.wait()
        super().teardown()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Give this rank's share of the weights."""
        self._sharding.settle()
        return dict(self._module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Give this rank's share of an optimiser's state."""
        return dict(getattr(optimizer, "optimizer", optimizer).state_dict())

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a checkpoint with all ranks; see ``ShardWriter``."""
        path = Path(str(self.broadcast(str(filepath))))
        rest = {name: value for name, value in checkpoint.items() if name not in ("state_dict", "optimizer_states")}
        stored = _Stored(self._sharding)
        for name, tensor in checkpoint["state_dict"].items():
            stored.take(name, f"{WEIGHTS}{name}", tensor)
        states = checkpoint.get("optimizer_states", [])
        optimizers = [
            self._by_name(number, optimizer, state, stored)
            for number, (optimizer, state) in enumerate(zip(self.optimizers, states, strict=False))
        ]
        rest[LAYOUT] = {"cut": stored.cut, "optimizers": optimizers}
        self._writer.write(stored.tensors, rest, path)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Take up weights and optimiser of a folder, or of a file that other strategies wrote; give all the rest."""
        path = Path(str(self.broadcast(str(checkpoint_path))))
        self._writer.wait()
        return self._load_folder(path) if sharded_checkpoints.is_sharded(path) else self._load_file(path)

    def _load_folder(self, path: Path) -> dict[str, Any]:
        meta = sharded_checkpoints.read_meta(path)
        weights, stored = self.lightning_module_state_dict(), _Stored(self._sharding)
        for name, weight in weights.items():
            stored.take(name, f"{WEIGHTS}{name}", weight)
        with sharded_checkpoints.readable(path):  # its table may lack what it is asked for
            layout = meta.pop(LAYOUT)
            self._refuse_other_optimizers(layout["optimizers"], path)
            states = [
                self._taken_up(number, optimizer, saved, stored, path)
                for number, (optimizer, saved) in enumerate(zip(self.optimizers, layout["optimizers"], strict=False))
            ]
            stored.fill(path, layout["cut"])
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        return meta

    def _taken_up(
        self, number: int, optimizer: Optimizer, saved: dict[str, Any], stored: "_Stored", path: Path
    ) -> dict[str, Any]:
        """Give an optimiser's state as it was saved; its large tensors are taken, and are still to be filled."""
        weights = dict(self._module.named_parameters())
        kept: dict[int, dict[str, Any]] = {}
        for place, name in enumerate(self._names(optimizer)):
            own = {what: torch.zeros_like(weights[name].detach()) for what in saved["kept"].get(name, [])}
            for what, tensor in own.items():
                stored.take(name, f"{state_key(number, name)}{what}", tensor)
            if own or name in saved["small"]:
                kept[place] = {**saved["small"].get(name, {}), **own}
        return {"state": kept, "param_groups": self._numbered(optimizer, saved["groups"], path)}

    def _refuse_other_optimizers(self, saved: list[Any], path: Path) -> None:
        if self.optimizers and len(saved) != len(self.optimizers):  # to validate there is none
            raise CheckpointError(
                f"{path} holds what {len(saved)} optimisers keep, and this run has {len(self.optimizers)}; go on as it "
                "began, or start a new run from the weights with --model.init_from"
            )

    def _load_file(self, path: Path) -> dict[str, Any]:
        with sharded_checkpoints.readable(path):
            mapped = zipfile.is_zipfile(path)
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            saved = content["state_dict"]
        weights = self.lightning_module_state_dict()
        for name, weight in weights.items():
            if name not in saved:
                raise CheckpointError(f"{path} has no weight {name}; it is of another model")
            if saved[name].shape != (wanted := self._sharding.whole_shapes[name]):
                raise CheckpointError(
                    f"{path} has a weight {name} of {tuple(saved[name].shape)}, and this model has one of "
                    f"{tuple(wanted)}; go on with its own model"
                )
            local(weight).copy_(local(self._sharding.share(name, saved[name], weight)))
        for optimizer, state in zip(self.optimizers, content.get("optimizer_states", []), strict=False):
            names = dict(enumerate(self._names(optimizer)))
            kept = {
                place: {
                    what: self._sharding.share(names[place], value, weights[names[place]])
                    if isinstance(value, Tensor) and value.shape == self._sharding.whole_shapes.get(names[place])
                    else value
                    for what, value in own.items()
                }
                for place, own in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": kept})
        return content

    def _by_name(self, number: int, optimizer: Optimizer, state: dict[str, Any], stored: "_Stored") -> dict[str, Any]:
        """Hand an optimiser's large tensors to the shards; give what else it keeps, its parameters by name."""
        names, weights = self._names(optimizer), dict(self._module.named_parameters())
        small: dict[str, dict[str, Any]] = {}
        kept: dict[str, list[str]] = {}
        for place, own in state["state"].items():
            name = names[place]
            for what, value in own.items():
                if isinstance(value, Tensor) and value.shape == weights[name].shape:
                    stored.take(name, f"{state_key(number, name)}{what}", value)
                    kept.setdefault(name, []).append(what)
                else:
                    small.setdefault(name, {})[what] = value
        groups = [{**group, "params": [names[place] for place in group["params"]]} for group in state["param_groups"]]
        return {"groups": groups, "small": small, "kept": kept}

    def _numbered(self, optimizer: Optimizer, groups: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
        names = self._names(optimizer)
        if [name for group in groups for name in group["params"]] != names:
            raise CheckpointError(f"{path} trained other weights than this run, or in other groups; go on as it began")
        return [{**group, "params": [names.index(name) for name in group["params"]]} for group in groups]

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Name an optimiser's parameters in its own order."""
        self._sharding.settle()
        names = {weight: name for name, weight in self._module.named_parameters()}
        return [names[weight] for group in optimizer.param_groups for weight in group["params"]]

    @property
    def _module(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module

    @property
    def _sharding(self) -> Sharding:
        sharding: Sharding = self._module.sharding
        return sharding


class _Stored:
    """What is written of all weights, and which of them are written in parts."""

    def __init__(self, sharding: Sharding) -> None:
        self._sharding = sharding
        self._taken: dict[str, tuple[str, Tensor]] = {}
        self.tensors: dict[str, Tensor] = {}
        self.cut: dict[str, list[int]] = {}

    def take(self, name: str, key: str, tensor: Tensor) -> None:
        """Take a weight, or what an optimiser keeps for it, under a key."""
        pieces = self._sharding.stored(name, tensor)
        self.tensors.update({f"{key}{part}": piece for part, piece in pieces.items()})
        self._taken[key] = (name, tensor)
        if len(pieces) > 1:
            self.cut[key] = [len(pieces), self._sharding.cuts[name].dim]

    def fill(self, path: Path, cut: dict[str, list[int]]) -> None:
        """Fill all that was taken from a folder, where ``cut`` tells what is written in parts."""
        other = cut.keys() ^ self.cut.keys()  # what only one of both has in parts goes by way of the whole
        for key in other:
            for part in [key, *(f"{key}/{n}" for n in range(self.cut.get(key, [0])[0]))]:
                self.tensors.pop(part, None)
        sharded_checkpoints.load_into(self.tensors, path)
        for key in sorted(other & self._taken.keys()):
            name, tensor = self._taken[key]
            whole = sharded_checkpoints.read_whole(path, key, cut)
            local(tensor).copy_(local(self._sharding.share(name, whole, tensor)))
