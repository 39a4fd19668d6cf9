"""A mixture of experts against a loop over tokens in float64; what is dropped, and what its losses are."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xlab.errors import ConfigError
from xlab.inference.weights import prepare
from xlab.transformer.decoder import Decoder
from xlab.transformer.feed_forward import GELUFeedForward, SwiGLU
from xlab.transformer.flops import flops_per_token
from xlab.transformer.mixture_of_experts import MixtureOfExperts, Routing, mixtures, take_routing

D = 6


def make(*, seed: int = 0, **changes: Any) -> MixtureOfExperts:
    torch.manual_seed(seed)
    layer = MixtureOfExperts(D, 4, **changes).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def by_hand(layer: MixtureOfExperts, x: Tensor, capacity: int | None = None) -> tuple[Tensor, int]:
    """Map token by token, in their order; also the number of pairs that found their expert full."""
    taken, dropped, y = [0] * layer.n_experts, 0, torch.zeros_like(x)
    for row, token in enumerate(x):
        probabilities = (layer.router.weight @ token).softmax(-1)
        best = probabilities.sort(descending=True).indices[: layer.top_k].tolist()
        total = sum(probabilities[expert] for expert in best) if layer.top_k > 1 else 1.0
        for expert in best:
            if capacity is not None and taken[expert] >= capacity:
                dropped += 1
                continue
            taken[expert] += 1
            y[row] += probabilities[expert] / total * layer.experts[expert](token)
        for shared in layer.shared:
            y[row] += shared(token)
    return y, dropped


sizes = st.tuples(st.integers(1, 6), st.integers(1, 6)).filter(lambda pair: pair[1] <= pair[0])


@settings(max_examples=40, deadline=None)
@given(
    size=sizes,
    n_tokens=st.integers(1, 20),
    n_shared=st.integers(0, 2),
    factor=st.none() | st.floats(0.1, 3.0),
    seed=st.integers(0, 1000),
    expert=st.sampled_from([SwiGLU, GELUFeedForward]),
)
def test_every_token_is_the_weighted_sum_of_its_experts(
    size: tuple[int, int], n_tokens: int, n_shared: int, factor: float | None, seed: int, expert: Any
) -> None:
    n_experts, top_k = size
    layer = make(seed=seed, n_experts=n_experts, top_k=top_k, n_shared=n_shared, capacity_factor=factor, expert=expert)
    x = torch.randn(n_tokens, D, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x.unsqueeze(0))[0], by_hand(layer, x)[0])  # nothing is dropped
    capacity = None if factor is None else math.ceil(factor * n_tokens * top_k / n_experts)
    expected, dropped = by_hand(layer, x, capacity)
    y = layer.train()(x.unsqueeze(0))[0]
    torch.testing.assert_close(y, expected)
    routing = layer.take_routing()
    assert routing is not None
    assert routing.dropped.item() == pytest.approx(dropped / (n_tokens * top_k))
    names, parameters = zip(*layer.named_parameters(), strict=True)
    # an expert without a token is in the loop's graph not at all
    wanted = torch.autograd.grad(expected.square().sum(), parameters, allow_unused=True, materialize_grads=True)
    found = torch.autograd.grad(y.square().sum(), parameters, allow_unused=top_k > 1 or n_experts == 1)
    for name, one, two in zip(names, found, wanted, strict=True):
        torch.testing.assert_close(torch.zeros_like(two) if one is None else one, two, msg=name)


def test_the_losses_are_those_of_the_papers() -> None:
    layer = make(n_experts=4, top_k=2, balance=0.3, z=0.2)
    x = torch.randn(5, 3, D, dtype=torch.float64)
    layer(x)
    routing = layer.take_routing()
    assert routing is not None
    scores = x.flatten(0, 1) @ layer.router.weight.T
    chosen = scores.topk(2).indices
    shares = torch.stack([(chosen == expert).double().mean() for expert in range(4)])
    balance = 4 * (shares * scores.softmax(-1).mean(0)).sum()
    torch.testing.assert_close(routing.balance, balance.detach())
    torch.testing.assert_close(routing.loss, 0.3 * balance + 0.2 * scores.logsumexp(-1).square().mean())


def test_balance_is_one_where_all_get_the_same_and_worst_where_few_get_all() -> None:
    layer = make(n_experts=4, top_k=2)
    with torch.no_grad():
        layer.router.weight.zero_()
        for expert in range(4):
            layer.router.weight[expert, expert] = 20.0
    pairs = [(0, 1), (2, 3), (1, 2), (3, 0)]
    even = torch.stack([torch.eye(D, dtype=torch.float64)[list(pair)].sum(0) for pair in pairs])
    layer(even)
    assert layer.take_routing().balance.item() == pytest.approx(1.0)
    layer(even[:1])
    assert layer.take_routing().balance.item() == pytest.approx(2.0)


def test_routing_is_taken_once_and_only_training_leaves_it() -> None:
    layers = [make(seed=seed, capacity_factor=0.5) for seed in range(2)]
    model, x = nn.Sequential(*layers), torch.randn(2, 9, D, dtype=torch.float64)
    assert take_routing(mixtures(model)) is None
    model(x)
    assert all(layer._routing is None for layer in mixtures(copy.deepcopy(model)))
    single = [copy.copy(layer._routing) for layer in layers]
    both = take_routing(mixtures(model))
    assert isinstance(both, Routing)
    torch.testing.assert_close(both.loss, single[0].loss + single[1].loss)
    torch.testing.assert_close(both.balance, (single[0].balance + single[1].balance) / 2)
    assert take_routing(mixtures(model)) is None
    with torch.no_grad():
        model(x)
    model.eval()(x)
    assert take_routing(mixtures(model)) is None


def decoder_of(**settings: Any) -> Decoder:
    torch.manual_seed(0)
    mixture = partial(MixtureOfExperts, **{"n_experts": 4, "n_shared": 1, **settings})
    return Decoder(50, 16, 32, 2, 4, d_ff=32, feed_forward=mixture).eval()


def test_a_cache_changes_nothing_even_where_training_would_drop() -> None:
    decoder = decoder_of(capacity_factor=0.1).double()
    ids = torch.randint(50, (3, 16))
    with torch.no_grad():
        whole, cache = decoder(ids), decoder.make_cache(3)
        pieces = [decoder(ids[:, at : at + 1], cache) for at in range(16)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole)


@pytest.mark.parametrize(("precision", "tolerance"), [("keep", 1e-6), ("bf16", 0.02), ("int8", 0.03)])
def test_inference_in_every_precision(precision: Any, tolerance: float) -> None:
    decoder, ids = decoder_of(), torch.randint(50, (2, 16))
    prepared = prepare(decoder, precision)
    with torch.no_grad():
        found, expected = prepared.project(prepared.decoder.hidden(ids)).float(), decoder(ids)
    assert (found - expected).abs().max() < tolerance * expected.abs().max() + 1e-6
    left = [type(part) for part in prepared.decoder.modules() if isinstance(part, nn.Linear)]
    assert {kind.__name__ for kind in left} == {"Router"}


def test_in_mixed_precision_the_router_decides_in_fp32() -> None:
    decoder, ids = decoder_of().train(), torch.randint(50, (2, 16))
    decoder.blocks[0].feed_forward.router.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    seen: list[torch.dtype] = []
    with torch.autocast("cpu", torch.bfloat16):
        hidden = decoder.hidden(ids)
    hidden.float().square().sum().backward()
    assert seen == [torch.float32]
    expected = decoder.eval().hidden(ids)
    assert (hidden - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(parameter.grad is not None for parameter in decoder.blocks.parameters())


def test_a_compiled_step_has_fixed_shapes() -> None:
    decoder, ids = decoder_of(top_k=3), torch.randint(50, (2, 4))
    with torch.no_grad():
        compiled = torch.compile(decoder, backend="eager", fullgraph=True)
        for length in (4, 3):  # at the second length the compiler takes it for a symbol
            torch.testing.assert_close(compiled(ids[:, :length]), decoder(ids[:, :length]))


def test_only_the_experts_that_a_token_meets_are_counted() -> None:
    decoder = decoder_of(n_experts=8, top_k=2, n_shared=1)
    as_many = Decoder(50, 16, 32, 2, 4, d_ff=3 * 32)  # as wide as two of eight, and the shared one
    routers = 6 * 2 * 8 * 32
    assert flops_per_token(decoder, 16) == flops_per_token(as_many, 16) + routers


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_experts": 0}, "n_experts must be at least 1, got 0"),
        ({"top_k": 9}, "top_k must be from 1 to n_experts, 8; got 9"),
        ({"top_k": 0}, "top_k must be from 1"),
        ({"n_shared": -1}, "n_shared must not be negative, got -1"),
        ({"capacity_factor": 0.0}, r"capacity_factor must be above 0, got 0\.0"),
        ({"balance": -0.1}, r"balance must not be negative, got -0\.1"),
        ({"z": -1.0}, "z must not be negative"),
    ],
)
def test_senseless_numbers_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MixtureOfExperts(D, **wrong)
