"""The proof of an export: it holds where the export is the model, and fails for a single wrong weight or token."""

import json
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from xlab import checkpoints
from xlab.interop import export_huggingface, gguf_writing, proof_process
from xlab.interop.errors import ConversionError
from xlab.interop.export import MAX_SHARD_BYTES, Options, export, export_pt
from xlab.interop.proof import LIBRARIES, Proof, prove

for name in LIBRARIES["gguf"]:
    pytest.importorskip(name, reason="the proof reads exports with it")


def made(folder: Path, kind: str, settings: dict[str, Any], rounded: str = "keep", **how: Any) -> tuple[Path, Path]:
    source = small_models.write(folder / "a.pt", settings, **how)
    return source, export(source, folder / "made.gguf", kind, options=Options(rounded), verify=False)[0]


def compared(source: Path, export: Path, kind: str, dtype: str = "keep") -> Proof:
    return Proof(**proof_process.compare(str(source), str(export), kind, dtype))


# --- exports that are the model


@pytest.mark.parametrize("kind", ["hf", "gguf"])
@pytest.mark.parametrize("model_type", small_models.CONFIGS)
def test_every_family_is_the_same_in_transformers(model_type: str, kind: str, tmp_path: Path) -> None:
    proof = compared(*made(tmp_path, kind, small_models.settings_of(model_type)), kind)
    assert proof.holds, str(proof)
    assert proof.limit == 2e-5
    if kind == "hf" or model_type not in ("olmo2", "gpt_neox"):  # whose GGUF transformers does not read
        assert proof.library.startswith("transformers")


def test_sliding_windows_are_the_same_in_transformers(tmp_path: Path) -> None:
    settings = small_models.settings_of("mistral", sliding_window=8)
    assert compared(*made(tmp_path, "hf", settings), "hf").holds


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["hf", "gguf", "safetensors"])
def test_a_narrower_precision_has_its_own_limit(kind: str, dtype: str, tmp_path: Path) -> None:
    proof = compared(*made(tmp_path, kind, small_models.settings_of("llama"), dtype), kind, dtype)
    assert proof.holds, str(proof)
    assert proof.limit == {"fp32": 2e-5, "bf16": 8 * 2**-7, "fp16": 8 * 2**-10}[dtype]
    assert (proof.logits > 1e-5) == (dtype != "fp32")


def test_a_checkpoint_in_bf16_is_exported_as_it_is(tmp_path: Path) -> None:
    settings = small_models.settings_of("qwen3")
    assert compared(*made(tmp_path, "hf", settings, dtype=torch.bfloat16), "hf").holds


@pytest.mark.parametrize("how", [{"digits": 1}, {"pattern": "cl100k"}, {"pattern": "o200k"}])
@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_every_pattern_of_tokenizers_is_the_same(kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    settings = small_models.settings_of("llama")
    assert compared(*made(tmp_path, kind, settings, own=small_models.tokenizer(**how)), kind).holds


def test_a_window_is_shorter_than_the_longest_prompt() -> None:
    settings = {
        "vocab_size": 9,
        "max_len": 4000,
        "attention": {"class_path": "a", "init_args": {"windows": [700, None]}},
    }
    assert [ids.shape[1] for ids in proof_process.prompts(settings)] == [1400, 64, 1]
    settings["attention"] = "MultiHeadAttention"
    assert [ids.shape[1] for ids in proof_process.prompts(settings)] == [512, 64, 1]


# --- exports that are not


def test_a_fresh_process_finds_one_flipped_weight(tmp_path: Path) -> None:
    source, folder = made(tmp_path, "hf", small_models.settings_of("llama"))
    flip(folder / "model.safetensors", share=0.5)
    proof = prove(source, folder, "hf")
    assert not proof.holds
    assert "blocks." in proof.apart or "embedding" in proof.apart or "output" in proof.apart


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 31))
def test_no_bit_of_a_weight_can_be_flipped_unseen(
    tmp_path_factory: pytest.TempPathFactory, share: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    source, path = made(folder, "safetensors", small_models.settings_of("gpt2"))
    flip(path / "model.safetensors", share=share, bit=bit)
    assert not compared(source, path, "safetensors").holds


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_flipped_weight_of_a_gguf_file_is_found(share: float, tmp_path: Path) -> None:
    source, path = made(tmp_path, "gguf", small_models.settings_of("llama"))
    flip(path, share=0.3 + 0.7 * share)  # behind the header
    assert not compared(source, path, "gguf").holds


def test_a_changed_pt_is_found(tmp_path: Path) -> None:
    source = small_models.write(tmp_path / "a.pt", small_models.settings_of("llama"))
    path, _, proof = export_pt(source, tmp_path / "made")
    assert proof is not None
    assert proof.holds
    content = torch.load(path, weights_only=True)
    content["state_dict"]["decoder.norm.weight"][3] += 1e-3
    torch.save(content, path)
    assert not compared(source, path, "pt").holds


def test_a_weight_that_is_no_number_is_found_whatever_follows(tmp_path: Path) -> None:
    source, export = made(tmp_path, "safetensors", small_models.settings_of("llama"))
    file = export / "model.safetensors"
    tensors = load_file(file)
    tensors["blocks.0.attention.qkv.weight"][1, 2] = float("nan")
    save_file(tensors, file)
    proof = compared(source, export, "safetensors")
    assert (proof.weights, proof.apart) == (float("inf"), "blocks.0.attention.qkv.weight")


def test_another_setting_is_found(tmp_path: Path) -> None:
    source, folder = made(tmp_path, "hf", small_models.settings_of("llama"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 9e4}))
    proof = compared(source, folder, "hf")
    assert not proof.holds
    assert proof.weights == 0


def test_another_tokenizer_is_found(tmp_path: Path) -> None:
    source, folder = made(tmp_path, "hf", small_models.settings_of("llama"))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][::-1]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    proof = compared(source, folder, "hf")
    assert not proof.holds
    assert proof.logits < proof.limit
    assert "other tokens" in str(proof)


def test_what_cannot_be_read_again_is_said_in_one_line(tmp_path: Path) -> None:
    source, path = made(tmp_path, "gguf", small_models.settings_of("llama"))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ConversionError, match=r"cannot be read again: .*was cut short") as caught:
        prove(source, path, "gguf")
    assert "\n" not in str(caught.value)


def test_not_a_number_is_no_proof() -> None:
    proof = Proof("a library", 9, float("nan"), 2e-5, 0.0, 0.0, "", 3, None)
    assert not proof.holds


# --- from one format to the next


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mistral", "qwen3", "gemma2"])
def test_transformers_own_model_goes_through_xlab_and_gguf_and_back(model_type: str, tmp_path: Path) -> None:
    import transformers

    from xlab.interop.huggingface import import_checkpoint

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **small_models.CONFIGS[model_type], initializer_range=0.2)
    own = small_models.tokenizer()
    config.bos_token_id, config.eos_token_id, config.pad_token_id = own.sos_id, own.eos_id, own.pad_id
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    own.save(tmp_path / "theirs" / "tokenizer.json")
    gguf_writing.write(import_checkpoint(tmp_path / "theirs"), tmp_path / "a.gguf")
    reading = proof_process.read_gguf(tmp_path / "a.gguf", import_checkpoint(tmp_path / "theirs"))
    ids = torch.randint(small_models.VOCAB_SIZE, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = model(input_ids=ids).logits, reading.logits(ids)
    assert reading.library.endswith("GGUF reader")
    assert (expected - found).abs().max() <= 2e-5 * expected.abs().max()


def test_a_writer_that_errs_is_caught_before_anything_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlab.interop.export import ProofError

    source = small_models.write(tmp_path / "a.pt", small_models.settings_of("gpt2"))
    right = export_huggingface.write

    def wrong(checkpoint: checkpoints.Checkpoint, folder: Path, *, dtype: Any, max_shard_bytes: int) -> None:
        right(checkpoint, folder, dtype=dtype, max_shard_bytes=MAX_SHARD_BYTES)
        flip(folder / "model.safetensors", share=0.1)

    monkeypatch.setattr(export_huggingface, "write", wrong)
    with pytest.raises(ProofError, match="weights by"):
        export(source, tmp_path / "made", "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def flip(path: Path, *, share: float, bit: int = 30) -> None:
    """Flip a bit of the number that lies at that share of the file, behind a safetensors header."""
    content = bytearray(path.read_bytes())
    first = 8 + int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else 0
    at = first + int(share * (len(content) - first)) // 4 * 4
    content[at + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
