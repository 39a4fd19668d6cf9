"""GGUF files in llama.cpp itself, where llama-cpp-python is installed: the same logits, the same tokens."""

from pathlib import Path
from typing import Any

import pytest
import small_models
import torch

from xlab import checkpoints
from xlab.interop import gguf_writing
from xlab.interop.proof_process import texts

pytest.importorskip("gguf", reason="the gguf package is not installed")
llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; it is built from its source")

LINEAR = {"rope_type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
# llama.cpp computes GELU from a table in half precision
TOLERANCES = {"gpt2": 2e-3, "gpt_neox": 2e-3, "gemma2": 2e-3}


def opened(folder: Path, settings: dict[str, Any], **how: Any) -> tuple[checkpoints.Checkpoint, Any]:
    own = small_models.tokenizer(**how)
    source = checkpoints.read(small_models.write(folder / "a.pt", settings, own=own))
    gguf_writing.write(source, folder / "a.gguf")
    # type_k and type_v 0: keys and values in float32
    sizes = {"n_ctx": 64, "n_batch": 64, "n_threads": 1, "type_k": 0, "type_v": 0}
    return source, llama_cpp.Llama(str(folder / "a.gguf"), logits_all=True, verbose=False, **sizes)


@pytest.mark.parametrize("model_type", small_models.CONFIGS)
def test_llama_cpp_computes_the_same(model_type: str, tmp_path: Path) -> None:
    source, model = opened(tmp_path, small_models.settings_of(model_type))
    ids = torch.randint(small_models.VOCAB_SIZE, (1, 40), generator=torch.Generator().manual_seed(0))
    expected = checkpoints.restore(source)[0](ids)[0]
    model.eval(ids[0].tolist())
    found = torch.from_numpy(model.scores[:40].copy())
    model.close()
    assert (found - expected).abs().max() <= TOLERANCES.get(model_type, 2e-5) * expected.abs().max()


@pytest.mark.parametrize("how", [{}, {"digits": 1}, {"pattern": "cl100k"}, {"pattern": "o200k"}])
def test_llama_cpp_gives_the_same_tokens(how: dict[str, Any], tmp_path: Path) -> None:
    source, model = opened(tmp_path, small_models.settings_of("llama"), **how)
    own = checkpoints.restore_tokenizer(source)
    for text in texts(own):
        assert model.tokenize(text.encode(), add_bos=False, special=False) == own.encode(text), text
    assert model.tokenize(b"fox") == [own.sos_id, *own.encode("fox")]
    assert (model.token_bos(), model.token_eos()) == (own.sos_id, own.eos_id)
    model.close()


# llama.cpp reads Llama 3's scaling in Llama's models alone; it is refused elsewhere
@pytest.mark.parametrize(
    ("model_type", "scaling"),
    [*((name, how) for name in ("llama", "qwen3") for how in (LINEAR, YARN)), ("llama", small_models.LLAMA3)],
)
def test_llama_cpp_scales_positions_alike(model_type: str, scaling: dict[str, Any], tmp_path: Path) -> None:
    source, model = opened(tmp_path, small_models.settings_of(model_type, rope_scaling=scaling))
    ids = torch.randint(small_models.VOCAB_SIZE, (1, 60), generator=torch.Generator().manual_seed(0))
    expected = checkpoints.restore(source)[0](ids)[0]
    model.eval(ids[0].tolist())
    found = torch.from_numpy(model.scores[:60].copy())
    model.close()
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
