"""Each kind of position against its paper's formula, written naively in float64."""

import cmath
import math

import pytest
import torch

from xlab.errors import ConfigError
from xlab.transformer import ALiBi, NoPosition, RotaryPosition, SinusoidalPosition


@pytest.mark.parametrize("base", [10_000.0, 50.0])
def test_rotary_turns_each_pair_as_a_complex_number(base: float) -> None:
    rotary = RotaryPosition(12, 2, 70, base=base)  # heads of 6: pairs (0, 3), (1, 4), (2, 5)
    x = torch.randn(2, 2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2], [5, 30, 69]])
    turned = rotary.rotate(x, positions)
    for b, h, t, i in torch.cartesian_prod(*map(torch.arange, (2, 2, 3, 3))).tolist():
        angle = positions[b, t].item() * base ** (-2 * i / 6)
        pair = complex(x[b, h, t, i], x[b, h, t, i + 3]) * cmath.exp(1j * angle)
        assert complex(turned[b, h, t, i], turned[b, h, t, i + 3]) == pytest.approx(pair, abs=1e-6)
    torch.testing.assert_close(rotary.rotate(x[1:], positions[1]), turned[1:])


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    rotary = RotaryPosition(8, 1, 5_000)
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(query_place: int, key_place: int) -> torch.Tensor:
        return (rotary.rotate(query, torch.tensor([query_place])) * rotary.rotate(key, torch.tensor([key_place]))).sum()

    torch.testing.assert_close(score(7, 3), score(4_999, 4_995), rtol=0.0, atol=1e-5)


def test_sinusoids_are_the_papers() -> None:
    d_model, max_len = 10, 300
    sinusoidal = SinusoidalPosition(d_model, 1, max_len, amplitude=1.0)
    positions = torch.tensor([[0, 1, 299]])
    waves = sinusoidal.embed(torch.zeros(1, 3, d_model, dtype=torch.float64), positions)
    for t, place in enumerate(positions[0].tolist()):
        for i in range(d_model // 2):
            angle = place / 10_000 ** (2 * i / d_model)
            assert waves[0, t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert waves[0, t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(
    ("n_heads", "slopes"),
    [
        (1, [2**-8]),
        (4, [2**-2, 2**-4, 2**-6, 2**-8]),
        (8, [2**-i for i in range(1, 9)]),
        # as in the authors' code: the power of two below, then every other slope of the power above
        (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),
        (12, [2**-i for i in range(1, 9)] + [2 ** (-i / 2) for i in (1, 3, 5, 7)]),
    ],
)
def test_alibi_lowers_scores_by_slope_times_distance(n_heads: int, slopes: list[float]) -> None:
    queries, keys = torch.tensor([[3, 4], [0, 1]]), torch.arange(5)
    bias = ALiBi(n_heads, n_heads, 5).bias(queries, keys)
    assert bias.shape == (2, n_heads, 2, 5)
    for head, slope in enumerate(slopes):
        expected = -slope * (queries.unsqueeze(-1) - keys)
        torch.testing.assert_close(bias[:, head], expected.float())


def test_no_position_does_nothing() -> None:
    x, places = torch.randn(1, 2, 3, 4), torch.arange(3)
    nothing = NoPosition(8, 2, 3)
    assert nothing.embed(x, places) is x
    assert nothing.rotate(x, places) is x
    assert nothing.bias(places, places) is None


def test_tables_are_no_part_of_a_checkpoint_and_real_on_the_meta_device() -> None:
    with torch.device("meta"):
        made = [RotaryPosition(8, 2, 6), SinusoidalPosition(8, 2, 6), ALiBi(8, 2, 6)]
    for position in made:
        assert not position.state_dict()
        (table,) = position.buffers()
        assert table.device.type == "cpu"
        before = table.clone()
        position.to_empty(device="cpu").reset_parameters()
        torch.testing.assert_close(next(position.buffers()), before)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RotaryPosition(10, 2, 4), "even d_model / n_heads, got 10 / 2 = 5"),
        (lambda: RotaryPosition(10, 4, 4), "10 / 4 = 2.5"),
        (lambda: RotaryPosition(8, 2, 4, base=0), "base of rotary positions must be above 0, got 0"),
        (lambda: SinusoidalPosition(9, 3, 4), "even d_model, got 9"),
    ],
)
def test_refusals(make, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
