"""Every parameter of a model belongs to one part."""

import pytest
import torch

from xlab import checkpoints
from xlab.lab.parameters import PARTS, by_part, part_of

SIZES = {"vocab_size": 11, "max_len": 8, "d_model": 8, "n_layers": 2, "n_heads": 2}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("embedding.weight", "embedding"),
        ("position.table.weight", "positions"),
        ("blocks.3.attention.qkv.weight", "attention"),
        ("blocks.3.attention.qk_norm.query.weight", "attention"),
        ("blocks.3.feed_forward.experts.1.down.weight", "feed-forward"),
        ("blocks.3.feed_forward_out_norm.weight", "norms"),
        ("blocks.3.stream_scale", "other"),
        ("embedding_norm.weight", "norms"),
        ("norm.weight", "norms"),
        ("value_mix.tables.0.weight", "values"),
        ("output.weight", "output"),
        ("a_part_of_mine.weight", "other"),
    ],
)
def test_a_name_tells_the_part(name: str, part: str) -> None:
    assert part_of(name) == part


def test_the_parts_sum_up_to_all() -> None:
    with torch.device("meta"):
        decoder = checkpoints.build_decoder({**SIZES, "position": "LearnedPosition", "tie_embeddings": False})
    counts = by_part((name, weight.numel()) for name, weight in decoder.named_parameters())
    assert tuple(counts) == PARTS
    assert sum(counts.values()) == sum(weight.numel() for weight in decoder.parameters())
    assert counts["embedding"] == counts["output"] == 11 * 8
    assert counts["positions"] == 8 * 8
    assert counts["attention"] == 2 * 4 * 8 * 8
