"""An inspection counts what is there, and takes no memory for it."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import LIGHTNING_NOISE, Run, train
from xlab import checkpoints
from xlab.errors import CheckpointError, ConfigError
from xlab.lab.inspection import as_json, inspect_checkpoint, inspect_model
from xlab.lab.inspection_text import lines

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

SIZES = {"vocab_size": 64, "max_len": 32, "d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 32}
# TinyLlama's (Zhang et al. 2024, arXiv 2401.02385, table 1): 1.1 billion
BILLION = {
    **{"vocab_size": 32_000, "max_len": 2048, "d_model": 2048, "n_layers": 22, "n_heads": 32, "d_ff": 5632},
    **{"attention": {"class_path": "GroupedQueryAttention", "init_args": {"n_kv_heads": 4}}, "tie_embeddings": False},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"))


def test_a_billion_parameters_take_no_memory() -> None:
    tracemalloc.start()
    model = inspect_model(BILLION)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.n_parameters == 1_100_048_384
    assert peak < 20e6
    assert model.cache_bytes_per_token == 2 * 22 * 4 * 64 * 4


def test_a_mixture_counts_all_and_those_that_a_token_meets() -> None:
    experts = {"class_path": "MixtureOfExperts", "init_args": {"n_experts": 4, "top_k": 1, "n_shared": 1}}
    dense, mixture = inspect_model(SIZES), inspect_model({**SIZES, "feed_forward": experts})
    one = dense.parameters["feed-forward"]
    router = 2 * 16 * 4
    assert mixture.parameters["feed-forward"] == 5 * one + router
    assert mixture.active == dense.n_parameters + one + router
    assert dense.active == dense.n_parameters


def test_layers_are_told_by_how_far_they_see() -> None:
    attention = {"class_path": "MultiHeadAttention", "init_args": {"windows": [8, None]}}
    model = inspect_model({**SIZES, "n_layers": 3, "attention": attention}, dtype=torch.bfloat16)
    assert model.windows == {8: 2, None: 1}
    assert model.cache_bytes_per_token == 2 * 3 * 16 * 2
    assert "2 see 8 tokens, 1 see everything" in "\n".join(lines(model, None))


@pytest.mark.parametrize("kind", ["ckpt", "pt"])
def test_a_checkpoint_is_told_whole(run: Run, kind: str) -> None:
    checkpoint = checkpoints.read(run.trained if kind == "ckpt" else run.exported)
    model, file = inspect_checkpoint(checkpoint)
    decoder = checkpoints.restore_decoder(checkpoint)
    assert model.n_parameters == sum(weight.numel() for weight in decoder.parameters())
    assert file.weights == {"float32": model.n_parameters}
    assert file.resumable == (kind == "ckpt")
    assert file.info["data_fingerprint"] == run.datamodule.fingerprint
    assert file.tokenizer["size"] == len(run.datamodule.tokenizer)
    assert set(file.tokenizer["specials"].values()) == {
        *(run.datamodule.tokenizer.sos_id, run.datamodule.tokenizer.eos_id, run.datamodule.tokenizer.pad_id)
    }
    told = "\n".join(lines(model, file))
    for figure in (f"{model.n_parameters:,}", run.datamodule.fingerprint, f"{file.info['step']:,}"):
        assert str(figure) in told
    assert json.loads(json.dumps(as_json(model, file)))["model"]["n_parameters"] == model.n_parameters


def test_corrections_of_low_rank_are_counted_beside_the_model(run: Run, tmp_path: Path) -> None:
    whole: dict[str, Any] = torch.load(run.exported, weights_only=True)
    plain, _ = inspect_checkpoint(checkpoints.read(run.exported))
    name = next(name for name in whole["state_dict"] if name.endswith("attention.out.weight"))
    n_out, n_in = whole["state_dict"][name].shape
    projection = name.removesuffix(".weight")
    whole["state_dict"] |= {f"{projection}.lora_a": torch.zeros(2, n_in), f"{projection}.lora_b": torch.zeros(n_out, 2)}
    whole["xlab"]["model"]["lora"] = {"class_path": "LoRA", "init_args": {"rank": 2}}
    torch.save(whole, tmp_path / "adapted.pt")
    model, file = inspect_checkpoint(checkpoints.read(tmp_path / "adapted.pt"))
    assert model.n_parameters == plain.n_parameters
    assert file.corrections == 2 * (n_in + n_out)


def test_weights_that_are_not_the_model_s_are_refused(run: Run, tmp_path: Path) -> None:
    whole: dict[str, Any] = torch.load(run.exported, weights_only=True)
    whole["xlab"]["model"]["n_layers"] += 1
    torch.save(whole, tmp_path / "longer.pt")
    with pytest.raises(CheckpointError, match="do not fit the model: attention"):
        inspect_checkpoint(checkpoints.read(tmp_path / "longer.pt"))


def test_settings_that_make_no_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_heads"):
        inspect_model({**SIZES, "n_heads": 3})
