"""How weights are cut, and what is refused before anything is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback

from tests.conftest import ROOT
from tests.tiny import LIGHTNING_NOISE, make_data, make_model, make_trainer, write_corpus
from xlab.commands.callbacks import TextSamples
from xlab.commands.lightning_cli import run
from xlab.errors import ConfigError, XLabError
from xlab.strategies import Sharded
from xlab.training.ema import EMA
from xlab.training.objectives import NextToken
from xlab.training.sharding import refuse_optimizer
from xlab.training.tensor_parallel import Cut, obstacles
from xlab.transformer.feed_forward import SwiGLU

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

T = "xlab.transformer."


class OwnActivation(SwiGLU):
    """Computes as SwiGLU does, but for the activation."""

    def activation(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh()


class OwnGate(SwiGLU):
    """Computes in a way of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        y: torch.Tensor = self.down(gate + up)
        return y


class WeightedObjective(NextToken):
    """An objective that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))


@given(parts=st.lists(st.integers(1, 4), min_size=1, max_size=3), n_ranks=st.integers(1, 4), dim=st.integers(0, 1))
def test_the_pieces_of_all_ranks_are_the_whole(parts: list[int], n_ranks: int, dim: int) -> None:
    cut = Cut(dim, tuple(part * n_ranks for part in parts))
    shape = [3, 3]
    shape[dim] = sum(cut.parts)
    whole = torch.arange(shape[0] * shape[1]).reshape(shape)
    pieces = [cut.pieces(cut.of(whole, rank, n_ranks), n_ranks) for rank in range(n_ranks)]
    # each part is of all ranks in their order, and the parts in theirs
    assert torch.equal(torch.cat([torch.cat(of_part, dim) for of_part in zip(*pieces, strict=True)], dim), whole)
    assert torch.equal(cut.whole([cut.of(whole, rank, n_ranks) for rank in range(n_ranks)]), whole)


def grouped(**settings: Any) -> dict[str, Any]:
    return {"attention": {"class_path": f"{T}GroupedQueryAttention", "init_args": {"n_kv_heads": 2, **settings}}}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (grouped(n_kv_heads=1), "blocks.0.attention has n_kv_heads 1, which 2 does not divide"),
        ({"d_ff": 25}, "blocks.0.feed_forward has d_ff 25, which 2 does not divide"),
        (grouped(dropout=0.1), "all ranks would drop the same"),
        (grouped(qk_norm={"class_path": f"{T}WidthQKNorm"}), "WidthQKNorm (blocks.0.attention) looks at all heads"),
        (grouped(sinks=True), "blocks.0.attention has sinks"),
        (
            {"feed_forward": {"class_path": f"{T}MixtureOfExperts", "init_args": {"n_experts": 2, "top_k": 1}}},
            "nothing says how MixtureOfExperts (blocks.0.feed_forward) is divided",
        ),
        ({"lora": {"class_path": f"{T}LoRA", "init_args": {"rank": 2}}}, "blocks.0.attention is a LoRALinear"),
        ({"feed_forward": "tests.training.test_sharding.OwnGate"}, "nothing says how OwnGate"),
    ],
)
def test_what_cannot_be_divided_is_named(settings: dict[str, Any], reason: str) -> None:
    found = list(obstacles(make_model(**settings).decoder, 2))
    assert found
    assert reason in found[0]


def test_what_can_be_divided_is() -> None:
    assert not list(obstacles(make_model(**grouped(), n_heads=4).decoder, 2))
    assert not list(obstacles(make_model(feed_forward="tests.training.test_sharding.OwnActivation").decoder, 2))


@pytest.mark.parametrize(
    ("callbacks", "settings", "says"),
    [
        ([EMA()], {}, "EMA would average shards"),
        ([TextSamples(["the"])], {}, "TextSamples needs them whole"),
        (
            [],
            {"optimizer": {"class_path": "xlab.training.schedule_free.ScheduleFreeAdamW"}},
            r"model\.optimizer would average shards",
        ),
        ([], {"objective": "tests.training.test_sharding.WeightedObjective"}, "has weights of its own"),
    ],
)
def test_what_cannot_be_sharded_is_one_line(
    one_rank: None, tmp_path: Path, callbacks: list[Callback], settings: dict[str, Any], says: str
) -> None:
    data = make_data(write_corpus(tmp_path / "corpus.jsonl"))
    trainer = make_trainer(tmp_path, 2, *callbacks, strategy=Sharded())
    with pytest.raises(ConfigError, match=says):
        trainer.fit(make_model(**settings), datamodule=data)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Muon([torch.zeros(2, 2)]), torch.optim.LBFGS([torch.zeros(2, requires_grad=True)])]
)
def test_an_optimiser_of_whole_matrices_is_refused(optimizer: torch.optim.Optimizer) -> None:
    with pytest.raises(ConfigError, match=r"take torch\.optim\.AdamW"):
        refuse_optimizer(optimizer)


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ("fsdp", r"clips gradients by each rank's own norm; take FSDP2, -c conf/extra/fsdp\.yaml"),
        ("{class_path: lightning.pytorch.strategies.ModelParallelStrategy}", "take xlab.strategies.Sharded"),
        (
            "{class_path: xlab.strategies.Sharded, init_args: {tensor_parallel_size: 0}}",
            "is 0, which does not divide the 1 ranks",
        ),
        (
            "{class_path: xlab.strategies.Sharded, init_args: {tensor_parallel_size: 3}}",
            "tensor_parallel_size is 3, which does not divide the 1 ranks",
        ),
    ],
)
def test_a_strategy_that_cannot_be_is_one_line(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    small = ["--data.source=JsonLines", f"--data.source.paths={corpus}", "--data.source.text_column=body"]
    small += ["--data.vocab_size=300", "--data.seq_len=16", "--model.d_model=16", "--model.n_heads=2"]
    steps = ["--trainer.max_steps=2", "--model.schedule.warmup_steps=1", "--trainer.accelerator=cpu"]
    with pytest.raises(XLabError, match=says):
        run("fit", [*small, *steps, f"--trainer.strategy={strategy}"])
    with pytest.raises(XLabError, match="tensor_parallel_size is 2, which does not divide the 1 ranks"):
        run("fit", [*small, *steps, "-c", str(ROOT / "conf" / "extra" / "tp.yaml")])
