"""Muon is the published one, projection by projection; everything else is AdamW's, to the bit."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.tiny import LIGHTNING_NOISE, Recorder, make_data, make_model, make_trainer, write_corpus
from xlab.checkpoints import build_decoder
from xlab.errors import ConfigError
from xlab.training.layouts import Exchange, Layout
from xlab.training.muon import COEFFICIENTS, MATRICES, MuonAdamW, orthogonalised
from xlab.training.optimizers import decay_groups, hold_still, projections, scale_rates
from xlab.transformer.lora import LoRA

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

SIZES = {"vocab_size": 11, "max_len": 8, "d_model": 16, "n_layers": 2, "n_heads": 4}
GROUPED = {"class_path": "GroupedQueryAttention", "init_args": {"n_kv_heads": 2, "bias": True}}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_embeddings": False, "attention": GROUPED},
    {"feed_forward": {"class_path": "MixtureOfExperts", "init_args": {"n_experts": 2, "n_shared": 1}}},
    {"value_mix": "ValueEmbeddings", "position": "LearnedPosition", "norm": "LayerNorm"},
    {"value_mix": "ValueResidual", "feed_forward": "ReLUSquaredFeedForward", "block": "EmbeddingShortcutBlock"},
]
ADJUSTED = {"match_rms_adamw": lambda a, b: 0.2 * max(a, b) ** 0.5, "original": lambda a, b: max(1, a / b) ** 0.5}


def by_singular_values(matrix: Tensor, ns_steps: int) -> Tensor:
    """The iteration on each singular value by itself, in float64."""
    u, values, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    a, b, c = COEFFICIENTS
    for _ in range(ns_steps):
        values = a * values + b * values**3 + c * values**5
    return (u * values) @ vh


def fill_gradients(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) if parameter.requires_grad else None


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6), steps=st.integers(1, 5)
)
def test_all_matrices_at_once_are_each_by_its_singular_values(shapes: list[tuple[int, int]], steps: int) -> None:
    matrices = [torch.randn(shape) for shape in shapes]
    made = orthogonalised(matrices, ns_steps=steps, dtype=torch.float32)
    for matrix, found in zip(matrices, made, strict=True):
        torch.testing.assert_close(found.double(), by_singular_values(matrix, steps), atol=2e-4, rtol=2e-4)


def test_singular_values_come_near_one_and_zero_stays_zero() -> None:
    made, nothing = orthogonalised([torch.randn(32, 48), torch.zeros(32, 48)], dtype=torch.float32)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert torch.equal(nothing, torch.zeros(32, 48))


@pytest.mark.parametrize("adjust_lr", ADJUSTED)
@pytest.mark.parametrize("nesterov", [True, False])
def test_a_plain_matrix_moves_as_with_torch_s_muon(adjust_lr: str, nesterov: bool) -> None:
    decoder = build_decoder({**SIZES, "feed_forward": "ReLUSquaredFeedForward"})
    own, theirs = decoder.blocks[1].feed_forward.up.weight, decoder.blocks[1].feed_forward.up.weight.detach().clone()
    theirs.requires_grad_()
    ours = MuonAdamW(decay_groups(decoder), lr=0.01, nesterov=nesterov, adjust_lr=adjust_lr)
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn=adjust_lr)
    start = own.detach().clone()
    for seed in range(3):
        fill_gradients(decoder, seed)
        theirs.grad = own.grad.clone()
        ours.step()
        reference.step()
    moved = (theirs - start).norm()
    assert (own - theirs).norm() < 0.02 * moved  # bf16, which theirs always reckons in


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_muon_s_is_the_blocks_projections(variant: dict[str, Any]) -> None:
    decoder = build_decoder({**SIZES, **variant})
    names = {parameter: name for name, parameter in decoder.named_parameters()}
    found = {names[weight]: rows for weight, rows in projections(decoder).items()}  # type: ignore[index]
    ends = r"(qkv|out|gate_up|up|down)\.weight"
    assert found.keys() == {name for name in names.values() if re.fullmatch(rf"blocks\..*{ends}", name)}
    for weight, rows in projections(decoder).items():
        assert sum(rows) == weight.size(0)
    optimizer = MuonAdamW(decay_groups(decoder))
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert len(trained) == len(set(trained)) == len(names)
    muons = {names[weight] for group in optimizer.param_groups if group[MATRICES] for weight in group["params"]}
    assert muons == found.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_part_of_a_fused_weight_moves_by_itself_and_the_rest_as_with_adamw(
    variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlab.training.muon.fast_dtype", lambda device: torch.float32)
    decoder, other = build_decoder({**SIZES, **variant}), build_decoder({**SIZES, **variant})
    other.load_state_dict(decoder.state_dict())
    ours = MuonAdamW(decay_groups(decoder), lr=0.01, weight_decay=0.2, momentum=0.9)
    adamw = torch.optim.AdamW(decay_groups(other), lr=0.01, weight_decay=0.2, betas=(0.9, 0.95), fused=True)
    before = named_weights(decoder)
    fill_gradients(decoder)
    fill_gradients(other)
    ours.step()
    adamw.step()
    parts = {id(weight): rows for weight, rows in projections(decoder).items()}
    expected = dict(other.named_parameters())
    for name, weight in decoder.named_parameters():
        if id(weight) not in parts:
            assert torch.equal(weight, expected[name]), name
            continue
        assert weight.grad is not None
        pieces = zip(*(each.split(parts[id(weight)]) for each in (weight, before[name], weight.grad)), strict=True)
        for moved, start, gradient in pieces:
            step = orthogonalised([gradient])[0].float()
            size = 0.01 * ADJUSTED["match_rms_adamw"](*moved.shape)
            torch.testing.assert_close(moved.detach(), start * (1 - 0.002) - size * step, atol=2e-6, rtol=0)


def test_queries_keys_and_values_of_unequal_size_are_parted_where_they_are() -> None:
    decoder = build_decoder({**SIZES, "attention": GROUPED})
    parts = projections(decoder)
    assert parts[decoder.blocks[0].attention.qkv.weight] == [16, 8, 8]
    assert parts[decoder.blocks[0].feed_forward.gate_up.weight] == [64, 64]


@pytest.mark.parametrize("tied", [False, True])
def test_tables_have_a_rate_of_their_own_and_decay_as_the_rest(tied: bool) -> None:
    variant = {"tie_embeddings": tied, "value_mix": "ValueEmbeddings", "position": "LearnedPosition"}
    decoder = build_decoder({**SIZES, **variant})
    optimizer = MuonAdamW(decay_groups(decoder), lr=0.01, embedding_factor=40.0, weight_decay=0.1)
    scale_rates(optimizer)
    names = {parameter: name for name, parameter in decoder.named_parameters()}
    rates = {names[weight]: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    tables = {"value_mix.tables.1.weight"} | (set() if tied else {"embedding.weight"})
    assert {name for name, rate in rates.items() if rate == pytest.approx(0.4)} == tables
    assert {name for name, rate in rates.items() if rate == 0.01} == set(names.values()) - tables
    assert optimizer.param_groups[0]["lr"] == 0.01  # what is logged as the optimiser's
    before = named_weights(decoder)
    for parameter in decoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, weight in decoder.named_parameters():
        kept = 1.0 if weight.ndim < 2 else 1 - 0.01 * 0.1
        torch.testing.assert_close(weight, kept * before[name])


def test_frozen_weights_stay_and_factors_count_for_both() -> None:
    decoder = build_decoder(SIZES)
    hold_still(decoder, ["blocks.0.*"])
    rates = {"*.attention.*": 0.5, "embedding*": 0.1}
    optimizer = MuonAdamW(decay_groups(decoder, learning_rates=rates), lr=0.01, muon_lr=0.02)
    scale_rates(optimizer)
    names = {parameter: name for name, parameter in decoder.named_parameters()}
    found = {names[weight]: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert found["embedding.weight"] == pytest.approx(0.001)
    assert found["norm.weight"] == pytest.approx(0.01)
    assert found["blocks.1.attention.qkv.weight"] == pytest.approx(0.01)
    assert found["blocks.1.feed_forward.down.weight"] == pytest.approx(0.02)
    before = named_weights(decoder)
    fill_gradients(decoder)
    optimizer.step()
    for name, weight in decoder.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("blocks.0."), name


@pytest.mark.parametrize("adjust_lr", ADJUSTED)
def test_under_mup_an_update_changes_what_it_maps_as_much_at_every_width(adjust_lr: str) -> None:
    """Its spectral norm is as √(outputs / inputs) (Yang et al. 2023, arXiv 2310.17813, condition 1)."""
    norms = []
    for width in (16, 64):
        mup = {"class_path": "MuPInitialisation", "init_args": {"base_width": 16}}
        sizes = {**SIZES, "d_model": width, "d_ff": 4 * width, "tie_embeddings": False, "initialisation": mup}
        decoder = build_decoder(sizes)

        def widening(name: str, parameter: nn.Parameter, decoder: Any = decoder) -> float:
            return float(decoder.initialisation.learning_rate_factor(name, parameter, decoder))

        optimizer = MuonAdamW(decay_groups(decoder, widening=widening), lr=0.01, adjust_lr=adjust_lr)
        scale_rates(optimizer)
        for group in optimizer.param_groups:
            if group[MATRICES]:
                assert group["lr"] * group["weight_decay"] == pytest.approx(0.01 * 0.1)
                group["weight_decay"] = 0.0
        before = named_weights(decoder)
        fill_gradients(decoder)
        optimizer.step()
        after = named_weights(decoder)
        moved = {name: torch.linalg.matrix_norm(after[name] - before[name], ord=2) for name in PLAIN}
        norms.append([float(moved[name] / (after[name].size(0) / after[name].size(1)) ** 0.5) for name in PLAIN])
    assert norms[0] == pytest.approx(norms[1], rel=0.25)  # singular values come near 1, not to it


PLAIN = ["blocks.0.attention.out.weight", "blocks.1.feed_forward.down.weight"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"muon_lr": -1.0}, "model.optimizer.muon_lr must not be negative, got -1.0"),
        ({"embedding_factor": 0.0}, "model.optimizer.embedding_factor must be above 0, got 0.0; model.freeze holds"),
        ({"momentum": 1.0}, "model.optimizer.momentum must be in [0, 1), got 1.0"),
        ({"ns_steps": 0}, "model.optimizer.ns_steps must be at least 1, got 0"),
        ({"adjust_lr": "mine"}, "model.optimizer.adjust_lr must be match_rms_adamw or original, got 'mine'"),
    ],
)
def test_numbers_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        MuonAdamW(decay_groups(build_decoder(SIZES)), **settings)


def test_a_model_without_trained_projections_is_refused() -> None:
    adapted, frozen = build_decoder(SIZES), build_decoder(SIZES)
    LoRA().adapt(adapted)
    hold_still(frozen, ["blocks.*"])
    for decoder in (adapted, frozen):
        with pytest.raises(ConfigError, match=r"finds no projection .* among what is trained .*AdamW, as conf/extra"):
            MuonAdamW(decay_groups(decoder))


def test_shards_of_which_nothing_was_said_are_refused(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        decoder = build_decoder(SIZES)
        up = decoder.blocks[0].feed_forward.gate_up
        up.weight = nn.Parameter(distribute_tensor(up.weight.detach(), init_device_mesh("cpu", (1,)), [Shard(0)]))
        optimizer = MuonAdamW(decay_groups(decoder))
        up.weight.grad = torch.zeros_like(up.weight)
        with pytest.raises(ConfigError, match=r"not told how its weights are sharded; take .*ddp$"):
            optimizer.step()
        optimizer.train_shards(Exchange({weight: Layout(weight.shape, dim=0) for weight in decoder.parameters()}))
        before = up.weight.full_tensor().clone()
        optimizer.step()
        torch.testing.assert_close(up.weight.full_tensor(), before * (1 - 1e-3 * 0.1))
    finally:
        distributed.destroy_process_group()


MUON = {"class_path": "xlab.training.muon.MuonAdamW", "init_args": {"lr": 0.01}}
WARM = {"class_path": "Linear", "init_args": {"warmup_tokens": 4 * 64}}  # 4 steps of 4 rows of 16 tokens


def test_a_run_has_one_schedule_and_one_checkpoint_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", 60)
    path = tmp_path / "a.ckpt"
    whole, rest = Recorder({5: path}), Recorder()
    settings = {"optimizer": MUON, "schedule": WARM, "learning_rates": {"*.attention.*": 0.5}}
    model, resumed = make_model(**settings), make_model(seed=9, **settings)
    trainer = make_trainer(tmp_path, 10, whole)
    trainer.fit(model, datamodule=make_data(corpus))
    assert whole.rates == pytest.approx([0.01 * f for f in (0.2, 0.4, 0.6, 0.8, *(1 - n / 6 for n in range(6)))])
    assert [group["lr"] / group["learning_rate_factor"] for group in trainer.optimizers[0].param_groups] == (
        pytest.approx([0.0] * len(trainer.optimizers[0].param_groups))
    )
    make_trainer(tmp_path, 10, rest).fit(resumed, datamodule=make_data(corpus), ckpt_path=path, weights_only=True)
    assert rest.losses == whole.losses[5:]
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
