"""Low-rank adaptation: frozen projections with small trained corrections, which merge into them afterwards.

Letters: N outputs and K inputs of a projection, R rank.
"""

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.errors import CheckpointError, ConfigError

DEFAULT_TARGETS = ("*.attention.qkv", "*.attention.out")
A, B = "lora_a", "lora_b"  # the names of a correction's two factors, beside ``weight``


class LoRALinear(nn.Linear):
    """A frozen projection plus a correction of low rank, y = W x + s · B A x, that is zero to begin with.

    ``weight`` and ``bias`` are the projection's own, under their own names; ``lora_a`` (R, K) and ``lora_b`` (N, R)
    are beside them. Of a projection that makes queries, keys and values at once, the three share one A.

    Args:
        base: the projection; its parameters become this one's, frozen.
        rank: R.
        scale: s.
        dropout: share of the correction's inputs dropped in training.
    """

    def __init__(self, base: nn.Linear, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.requires_grad_(False)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        # as the authors' own code: variance 1 / (3 K), a new projection's in PyTorch
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        correction = F.linear(F.linear(self.dropout(x), self.lora_a), self.lora_b)
        return torch.add(F.linear(x, self.weight, self.bias), correction, alpha=self.scale)


class LoRA:
    """Train low-rank corrections of chosen projections, and nothing else (Hu et al. 2021, arXiv 2106.09685).

    A correction is alpha / rank · B A (section 4.1). A training checkpoint holds it beside the weights that it
    corrects; ``merged`` adds it to them, as is done on export and wherever a checkpoint is loaded to be used.

    Args:
        rank: R, of each correction.
        alpha: its size: with alpha in proportion to the rank, the rate need not be found anew for another rank.
        dropout: share of the corrections' inputs dropped in training.
        targets: patterns of the projections' names, such as ``*.feed_forward.down`` or ``blocks.3.*``; left out, those
            of attention, ``*.attention.qkv`` and ``*.attention.out``.

    Raises:
        ConfigError: for numbers out of range, or no targets.
    """

    def __init__(
        self, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: list[str] | None = None
    ) -> None:
        if rank < 1:
            raise ConfigError(f"model.lora.rank must be at least 1, got {rank}")
        if alpha <= 0:
            raise ConfigError(f"model.lora.alpha must be above 0, got {alpha}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.lora.dropout must be in [0, 1), got {dropout}")
        if targets is not None and not targets:
            raise ConfigError("model.lora.targets is empty; leave it out for attention's projections")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets = list(DEFAULT_TARGETS) if targets is None else list(targets)

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank

    def adapt(self, decoder: nn.Module) -> None:
        """Freeze a decoder, and put corrections beside the projections that the targets name.

        Raises:
            ConfigError: when a target names no projection; it names the nearest.
        """
        # the vocabulary projection is read as a matrix, not called; a router is a type of its own
        candidates = {
            name: part for name, part in decoder.named_modules() if type(part) is nn.Linear and name != "output"
        }
        for target in self.targets:
            if not any(fnmatchcase(name, target) for name in candidates):
                raise ConfigError(f"model.lora.targets: {target!r} names no projection{_nearest(target, candidates)}")
        decoder.requires_grad_(False)
        for name, projection in candidates.items():
            if any(fnmatchcase(name, target) for target in self.targets):
                parent, _, own_name = name.rpartition(".")
                adapted = LoRALinear(projection, rank=self.rank, scale=self.scale, dropout=self.dropout)
                setattr(decoder.get_submodule(parent), own_name, adapted)

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the corrections to the weights that they are beside.

        Args:
            weights: a decoder's state, by name; it stays as it is.

        Returns:
            The state of a decoder without corrections. Only what was corrected is copied.

        Raises:
            CheckpointError: for half a correction, or one of no weight.
        """
        plain = {name: weight for name, weight in weights.items() if name.rpartition(".")[2] not in (A, B)}
        for projection in sorted({name.rpartition(".")[0] for name in weights.keys() - plain.keys()}):
            parts = [weights.get(f"{projection}.{part}") for part in (A, B, "weight")]
            if any(part is None for part in parts):
                raise CheckpointError(f"{projection} has a LoRA correction that lacks {A}, {B} or its weight")
            a, b, weight = (part for part in parts if part is not None)
            if a.dim() != 2 or b.dim() != 2 or a.size(0) != b.size(1) or (b.size(0), a.size(1)) != weight.shape:
                shapes = " × ".join(str(tuple(part.shape)) for part in (b, a))
                raise CheckpointError(f"{projection} has a LoRA correction of {shapes} for {tuple(weight.shape)}")
            # in fp32: a small correction of a bf16 weight would be rounded twice
            wide = torch.promote_types(weight.dtype, torch.float32)
            corrected = torch.addmm(weight.to(wide), b.to(wide), a.to(wide), alpha=self.scale)
            plain[f"{projection}.weight"] = corrected.to(weight.dtype)
        return plain


def _nearest(target: str, names: Mapping[str, nn.Linear]) -> str:
    # without numbers: one layer's projections stand for all
    kinds = sorted({".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names})
    close = difflib.get_close_matches(target, kinds, n=3, cutoff=0.4) or kinds[:3]
    return f"; there are {', '.join(close)}" if close else ""
