"""Attention by whole scores is attention, to bf16's rounding, in both directions, and only where it is faster."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xlab.transformer import cpu_attention
from xlab.transformer.cpu_attention import causal_attention, is_faster
from xlab.transformer.kernels import FusedAttention


def parts(n_kv_heads: int = 4, n_tokens: int = 9, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    heads = (4, n_kv_heads, n_kv_heads)
    # as a fused projection leaves them: strided
    made = [torch.randn(2, n_tokens, h, 8, generator=generator).to(dtype).transpose(1, 2) for h in heads]
    return [part.detach().requires_grad_() for part in made]


def with_gradients(mixed: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    upstream = torch.linspace(-1, 1, mixed.numel()).reshape(mixed.shape).to(mixed.dtype)
    return [mixed, *torch.autograd.grad(mixed, inputs, upstream)]


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_values_and_gradients_are_those_of_the_formula(n_kv_heads: int, scale: float | None) -> None:
    inputs = parts(n_kv_heads=n_kv_heads)
    wide = [part.detach().double().requires_grad_() for part in inputs]
    formula = F.scaled_dot_product_attention(*wide, is_causal=True, scale=scale, enable_gqa=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(causal_attention(*inputs, scale=scale), inputs)
    for own, exact in zip(found, with_gradients(formula, wide), strict=True):
        assert own.dtype == torch.bfloat16
        torch.testing.assert_close(own.double(), exact, atol=0.03, rtol=0.03)  # bf16 has eight bits


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated")  # dynamo does so itself
def test_a_compiled_pass_gives_the_same() -> None:
    inputs = parts()
    compiled = torch.compile(FusedAttention(), backend="aot_eager", fullgraph=True)
    found = with_gradients(compiled(*inputs, is_causal=True), inputs)
    for own, eager in zip(found, with_gradients(causal_attention(*inputs), inputs), strict=True):
        torch.testing.assert_close(own, eager)


def test_the_kernel_takes_it_where_it_is_faster_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(cpu_attention, "causal_attention", lambda q, k, v, scale: taken.append(1) or q)
    kernel = FusedAttention()
    kernel(*parts(), is_causal=True)
    assert taken == [1]
    kernel(*parts(), is_causal=True, dropout_p=0.1)
    kernel(*parts(), attn_mask=torch.ones(9, 9, dtype=torch.bool))
    kernel(*parts())
    kernel(*parts(dtype=torch.float32), is_causal=True)
    kernel(*parts(n_tokens=1), is_causal=True)
    assert taken == [1]
    queries, keys, _ = parts()
    assert not is_faster(queries[:, :, -1:], keys)  # a step of decoding
    assert not is_faster(queries, keys.float())  # of a wider cache
    assert is_faster(queries.to("meta"), keys.to("meta")) is False
    monkeypatch.setattr(cpu_attention, "MOST_BYTES", 2 * 4 * 9 * 9 * 2 - 1)
    assert not is_faster(queries, keys)
