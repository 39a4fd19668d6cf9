"""What a decoder would take is told without taking it, and what no machine holds is refused at once."""

import tracemalloc
from typing import Any

import pytest
import torch

from xlab import checkpoints
from xlab.errors import ConfigError
from xlab.transformer.footprint import claims_too_much, footprint, machine_memory, refuse_beyond_memory
from xlab.transformer.positions import NoPosition

SIZES = {"vocab_size": 64, "max_len": 40, "d_model": 16, "n_layers": 6, "n_heads": 4}
MEMORY = 8 * 2**30
MIXTURE = {"class_path": "MixtureOfExperts", "init_args": {"n_experts": 3, "top_k": 1}}


def refuse(settings: dict[str, Any]) -> None:
    refuse_beyond_memory(settings, checkpoints.build_decoder, memory=MEMORY)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_layers": 1, "max_len": 1},
        {"position": "LearnedPosition", "max_len": 1000, "tie_embeddings": False},
        {"position": "SinusoidalPosition", "max_len": 1000},
        {"position": "ALiBi", "feed_forward": MIXTURE},
        {"block": "SandwichNormBlock", "embedding_norm": "RMSNorm", "n_layers": 9},
    ],
)
def test_small_ones_tell_what_the_whole_takes(changes: dict[str, Any]) -> None:
    settings = SIZES | changes
    decoder = checkpoints.build_decoder(settings)
    found = footprint(settings, checkpoints.build_decoder)
    assert found is not None
    assert found.parameters == sum(weight.numel() for weight in decoder.parameters())
    assert found.table_numbers == sum(table.numel() for table in decoder.buffers())
    weights = 4 * found.parameters
    assert found.n_bytes(with_weights=True) == found.n_bytes(with_weights=False) + weights


WIDE_HEADS = {"class_path": "GroupedQueryAttention", "init_args": {"n_kv_heads": 2, "head_dim": 10**10}}
WIDE_TURNS = {"class_path": "RotaryPosition", "init_args": {"head_dim": 10**10}}
HOSTILE = [
    *({name: 10**9} for name in SIZES),
    *({name: 10**18} for name in SIZES),
    dict.fromkeys(SIZES, 10**9),
    dict.fromkeys(SIZES, 10**40),
    {"d_ff": 10**12},
    {"max_len": 10**9, "position": "SinusoidalPosition"},
    {"max_len": 10**9, "position": "LearnedPosition", "d_model": 64},
    {"n_heads": 10**9, "d_model": 10**9, "position": "ALiBi"},
    {"feed_forward": {"class_path": "MixtureOfExperts", "init_args": {"n_experts": 10**9}}},
    {"position": "NoPosition", "attention": WIDE_HEADS},
    {"position": WIDE_TURNS},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_what_no_machine_holds_is_refused_before_any_of_it_is_made(changes: dict[str, Any]) -> None:
    settings = SIZES | changes
    tracemalloc.start()
    with pytest.raises(
        ConfigError, match=r"would take .* GiB of memory .* this machine has 8\.0 GiB|beyond what a"
    ) as no:
        refuse(settings)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert "\n" not in str(no.value)


def test_on_the_meta_device_weights_are_free_and_layers_are_not() -> None:
    wide = SIZES | {"d_model": 2**17, "vocab_size": 2**17}
    with pytest.raises(ConfigError, match=r"the largest is \w+ 131,072"):
        refuse(wide)
    with torch.device("meta"):
        refuse(wide)
        with pytest.raises(ConfigError, match=r"the largest is n_layers 1,000,000,000"):
            refuse(SIZES | {"n_layers": 10**9})


def test_positions_without_a_table_may_be_many() -> None:
    refuse(SIZES | {"max_len": 10**9, "position": "NoPosition"})


@pytest.mark.parametrize("changes", [{"n_layers": 0}, {"d_model": "wide"}, {"max_len": None}])
def test_what_is_no_size_is_left_to_the_model(changes: dict[str, Any]) -> None:
    refuse(SIZES | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_heads": 3}, "d_model must be divisible by n_heads"),
        ({"attention": "Attention9"}, "XLab has no part 'Attention9'"),
        ({"attention": WIDE_HEADS}, "give both the same head_dim"),  # found before the wide heads are made
    ],
)
def test_parts_that_do_not_fit_say_so_themselves(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        refuse(SIZES | changes)


class Long(NoPosition):
    """Positions that need some room."""

    def __init__(self, d_model: int, n_heads: int, max_len: int) -> None:
        super().__init__(d_model, n_heads, max_len)
        if max_len < 36:
            raise ConfigError("too short")


def test_a_part_that_a_small_model_cannot_have_is_none_of_its_faults() -> None:
    settings = SIZES | {"position": f"{__name__}.Long"}
    found = footprint(settings, checkpoints.build_decoder)
    assert found is not None
    assert found.parameters == sum(weight.numel() for weight in checkpoints.build_decoder(settings).parameters())
    with pytest.raises(ConfigError, match="too short"):
        refuse(settings | {"max_len": 20})


def test_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    refuse(SIZES)
    assert torch.equal(before, torch.get_rng_state())


def test_one_number_shown_as_many_is_found() -> None:
    honest = {"a": torch.zeros(3, 4), "b": torch.zeros(5)}
    assert claims_too_much({}, honest) is None
    assert claims_too_much({}, {**honest, "tied": honest["a"]}) is None
    assert claims_too_much({}, {}) is None
    assert claims_too_much({}, {name: weight.to("meta") for name, weight in honest.items()}) is None
    inflated = claims_too_much({}, {**honest, "c": torch.zeros(1).expand(10**6, 10**6)})
    assert inflated == "c shows 4 bytes as 4,000,000,000,000"
    many = claims_too_much({}, {f"layer {i}": honest["a"] for i in range(100)})
    assert many == "its weights show 48 bytes as 4,800"


def test_layers_and_experts_without_weights_are_found() -> None:
    decoder = checkpoints.build_decoder(SIZES | {"feed_forward": MIXTURE})
    weights = decoder.state_dict()
    assert claims_too_much(SIZES | {"feed_forward": MIXTURE}, weights) is None
    told = claims_too_much(SIZES | {"n_layers": 10**6}, weights)
    assert told == f"it has {len(weights)} weights, too few for model.n_layers 1,000,000"
    many = {"class_path": "MixtureOfExperts", "init_args": {"n_experts": 10**6}}
    assert claims_too_much(SIZES | {"feed_forward": many}, weights) is not None
    nested = {"class_path": "MixtureOfExperts", "init_args": {"n_experts": 2, "expert": many}}
    assert claims_too_much(SIZES | {"feed_forward": nested}, weights) is not None


def test_this_machine_has_memory() -> None:
    assert 2**28 < machine_memory() < 2**50
