"""What is added to values, against formulas."""

import pytest
import torch

from xlab.errors import ConfigError
from xlab.training.optimizers import decay_groups
from xlab.transformer import Context, MultiHeadAttention, NoPosition, Placement, ValueEmbeddings, ValueResidual

G, DH, LAYERS = 2, 3, 4


def mixed(mix: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values of each layer before and after, (L, B, G, T, Dh), and what the layers read."""
    values = torch.randn(LAYERS, *ids.shape, G, DH).transpose(2, 3)
    x = torch.randn(*ids.shape, 6)
    context = Context(NoPosition(6, 2, 9), Placement(ids.size(1), ids.device), ids, mix)
    after = torch.stack([context.mix_values(values[layer], layer, x) for layer in range(LAYERS)])
    return values, after, x


@torch.no_grad()
def test_value_embeddings_reach_every_second_layer_and_the_last() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[1, 4, 1], [0, 2, 3]])
    mix = ValueEmbeddings(5, 6, G, DH, LAYERS, gate_width=2)
    before, after, x = mixed(mix, ids)
    assert sorted(mix.tables) == ["1", "3"]
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    for layer in ("1", "3"):
        for b, t, head in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(G)).tolist():
            gate = 2 / (1 + torch.exp(-(mix.gates[layer].weight[head] @ x[b, t, :2])))
            own = mix.tables[layer].weight[ids[b, t]][head * DH : (head + 1) * DH]
            torch.testing.assert_close(after[int(layer), b, head, t], before[int(layer), b, head, t] + gate * own)


@torch.no_grad()
def test_the_first_layers_values_reach_all_others() -> None:
    torch.manual_seed(0)
    mix = ValueResidual(5, 6, G, DH, LAYERS, share=0.25)
    mix.own_scale[1], mix.first_scale[1] = 2.0, -1.0
    before, after, _ = mixed(mix, torch.tensor([[1, 4, 1]]))
    assert torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1], 0.75 * before[1] + 0.25 * before[0])
    torch.testing.assert_close(after[2], 2 * before[2] - before[0])


def test_shares_of_values_do_not_decay() -> None:
    assert [group["weight_decay"] for group in decay_groups(ValueResidual(5, 6, G, DH, LAYERS))] == [0.0]


def test_without_a_mix_values_are_what_the_layer_made() -> None:
    attention = MultiHeadAttention(6, 2, 0)
    context = Context(NoPosition(6, 2, 9), Placement(2, torch.device("cpu")))
    x = torch.randn(1, 2, 6)
    assert attention(x, context).shape == x.shape


@pytest.mark.parametrize("settings", [{"every": 0}, {"gate_width": 0}])
def test_refusals(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="value embeddings need every and gate_width of at least 1"):
        ValueEmbeddings(5, 6, G, DH, LAYERS, **settings)
