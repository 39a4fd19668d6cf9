"""What is added to the values of attention: an embedding of the token itself, or what the first layer made of it.

Letters: B batch, T positions, D width, G key-value heads, Dh width of a head, V vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.transformer.attention import Context


class ValueMix(nn.Module):
    """Changes each layer's values; made as ``value_mix(vocab_size, d_model, n_kv_heads, head_dim, n_layers)``."""

    def forward(self, values: Tensor, layer: int, x: Tensor, context: "Context") -> Tensor:
        """Map a layer's values to those that are stored and attended to.

        Args:
            values: (B, G, T, Dh).
            layer: from 0.
            x: (B, T, D), what the layer's attention reads.
            context: of this forward pass.
        """
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Fill weights that no projection or embedding holds."""


class ValueEmbeddings(ValueMix):
    """A table of values for each token, beside that of embeddings, added to those of every second layer.

    Each head adds its share of it times a gate, 2 · sigmoid of a projection of the first numbers of x: as in nanochat,
    after Zhou et al. 2024 (arXiv 2410.17897) and modded-nanogpt.

    Args:
        vocab_size: V.
        d_model: D.
        n_kv_heads: G.
        head_dim: Dh.
        n_layers: of the model.
        every: the last layer has one, and every so many before it.
        gate_width: how many numbers of x the gates read.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_kv_heads: int,
        head_dim: int,
        n_layers: int,
        every: int = 2,
        gate_width: int = 32,
    ) -> None:
        super().__init__()
        if every < 1 or gate_width < 1:
            raise ConfigError(f"value embeddings need every and gate_width of at least 1, got {every} and {gate_width}")
        self.gate_width = min(gate_width, d_model)
        layers = [str(layer) for layer in range(n_layers) if (n_layers - 1 - layer) % every == 0]
        self.tables = nn.ModuleDict({layer: nn.Embedding(vocab_size, n_kv_heads * head_dim) for layer in layers})
        self.gates = nn.ModuleDict({layer: nn.Linear(self.gate_width, n_kv_heads, bias=False) for layer in layers})

    def forward(self, values: Tensor, layer: int, x: Tensor, context: "Context") -> Tensor:
        if (key := str(layer)) not in self.tables:
            return values
        of_tokens = self.tables[key](context.ids).unflatten(-1, (values.size(1), -1)).transpose(1, 2)  # (B, G, T, Dh)
        gates = 2 * torch.sigmoid(self.gates[key](x[..., : self.gate_width]))  # (B, T, G)
        return torch.addcmul(values, gates.transpose(1, 2).unsqueeze(-1), of_tokens.to(values.dtype))


class ValueResidual(ValueMix):
    """The first layer's values mixed into those of every other (Zhou et al. 2024, arXiv 2410.17897, eq. 4).

    Args:
        vocab_size: V.
        d_model: D.
        n_kv_heads: G.
        head_dim: Dh.
        n_layers: of the model.
        share: of the first layer's values at the start; the layer's own have the rest.
    """

    def __init__(
        self, vocab_size: int, d_model: int, n_kv_heads: int, head_dim: int, n_layers: int, share: float = 0.5
    ) -> None:
        super().__init__()
        self.share = share
        # vectors, which no weight decay draws to zero
        self.own_scale = nn.Parameter(torch.empty(n_layers - 1))
        self.first_scale = nn.Parameter(torch.empty(n_layers - 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.own_scale.fill_(1 - self.share)
        self.first_scale.fill_(self.share)

    def forward(self, values: Tensor, layer: int, x: Tensor, context: "Context") -> Tensor:
        if layer == 0:
            context.first_values = values
            return values
        assert context.first_values is not None
        own, first = (scale[layer - 1].to(values.dtype) for scale in (self.own_scale, self.first_scale))
        return own * values + first * context.first_values
