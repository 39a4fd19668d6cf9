"""The operations that are counted are those that PyTorch counts."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xlab.transformer import Decoder
from xlab.transformer.flops import flops_per_token


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_it_is_what_a_step_takes(tie_embeddings: bool) -> None:
    decoder = Decoder(50, 16, 32, 2, 4, tie_embeddings=tie_embeddings)
    # the fused attention is not counted; written out, it is
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        decoder(torch.randint(50, (3, 16))).sum().backward()
    counted = counter.get_total_flops() / (3 * 16)
    assert flops_per_token(decoder, 16) == counted


def test_a_large_model_is_counted_on_no_device() -> None:
    with torch.device("meta"):
        decoder = Decoder(50_000, 1024, 1024, 12, 16)
    assert 6 * 190e6 < flops_per_token(decoder, 1024) < 6 * 250e6
