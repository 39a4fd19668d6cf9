"""GGUF files: what goes in comes out, in every number format; a file that lies is refused before it costs anything."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlab import checkpoints
from xlab.errors import CheckpointError, XLabError
from xlab.interop import gguf_reading, gguf_writing
from xlab.interop.errors import ConversionError
from xlab.interop.families import differences, normal
from xlab.interop.gguf_file import GGUFFile

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a small Llama."""
    folder = tmp_path_factory.mktemp("llama")
    source = small_models.write(folder / "a.pt", small_models.settings_of("llama"))
    gguf_writing.write(checkpoints.read(source), folder / "a.gguf")
    return folder / "a.gguf"


def written(folder: Path, settings: dict[str, Any], dtype: torch.dtype | None = None, **how: Any) -> Path:
    source = small_models.write(folder / "a.pt", settings, **how)
    gguf_writing.write(checkpoints.read(source), folder / "a.gguf", dtype)
    return folder / "a.gguf"


# --- round trip


@pytest.mark.parametrize("model_type", small_models.CONFIGS)
def test_a_model_comes_back(model_type: str, tmp_path: Path) -> None:
    settings = small_models.settings_of(model_type)
    back = gguf_reading.read(written(tmp_path, settings))
    source = checkpoints.read(tmp_path / "a.pt")
    assert differences(normal(settings), normal(back.model)) == []
    assert back.tokenizer == source.tokenizer
    assert back.weights.keys() == source.weights.keys()
    for name, weight in source.weights.items():
        # 1 is added to Gemma's norms and taken away again
        atol = 2e-7 if model_type == "gemma2" and "norm" in name else 0.0
        torch.testing.assert_close(back.weights[name], weight, rtol=0, atol=atol)
    checkpoints.restore(back)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 2.5},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 16.0},
        {**small_models.LLAMA3, "factor": 7.3, "high_freq_factor": 3.0},
    ],
)
def test_scaled_positions_come_back(scaling: dict[str, Any], tmp_path: Path) -> None:
    settings = small_models.settings_of("llama", rope_scaling=scaling)
    assert differences(normal(settings), normal(gguf_reading.read(written(tmp_path, settings)).model)) == []


def test_published_factors_of_llama_3_are_recognised(tmp_path: Path) -> None:
    scaling = {**small_models.LLAMA3, "original_max_position_embeddings": 8192}
    path = written(tmp_path, small_models.settings_of("llama", rope_scaling=scaling))
    file = GGUFFile(path)
    file.metadata = {key: value for key, value in file.metadata.items() if not key.startswith("xlab.")}
    settings, _ = gguf_reading.read_settings(file)
    assert settings["position"]["init_args"]["scaling"]["init_args"]["original_max_len"] == 8192


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matrices_are_rounded_and_vectors_are_not(dtype: torch.dtype, tmp_path: Path) -> None:
    back = gguf_reading.read(written(tmp_path, small_models.settings_of("llama"), dtype))
    for name, weight in checkpoints.read(tmp_path / "a.pt").weights.items():
        expected = weight.to(dtype) if weight.dim() > 1 else weight
        assert torch.equal(back.weights[name], expected), name


def test_a_checkpoint_in_bf16_stays_so(tmp_path: Path) -> None:
    source = small_models.write(tmp_path / "b.pt", small_models.settings_of("qwen3"), dtype=torch.bfloat16)
    gguf_writing.write(checkpoints.read(source), tmp_path / "a.gguf")
    assert GGUFFile(tmp_path / "a.gguf").tensor("token_embd.weight").dtype == torch.bfloat16


# --- number formats


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_blocks_are_dequantised(kind: str, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    number = gguf.GGMLQuantizationType[kind]
    blocks = gguf.quantize(numbers, number)
    tensor = GGUFFile(one_tensor(tmp_path / "a.gguf", blocks, number)).tensor("a")
    assert tensor.shape == (6, 64)
    error = (tensor - torch.from_numpy(numbers)).abs().max()
    assert error < {"Q8_0": 0.02, "Q5_0": 0.2, "Q5_1": 0.2}.get(kind, 0.4)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_types_are_dequantised_as_the_gguf_package_does(kind: str, tmp_path: Path) -> None:
    number = gguf.GGMLQuantizationType[kind]
    _, n_bytes = gguf.GGML_QUANT_SIZES[number]
    blocks = np.random.default_rng(0).integers(0, 60, size=(3, 2 * n_bytes), dtype=np.uint8)
    tensor = GGUFFile(one_tensor(tmp_path / "a.gguf", blocks, number)).tensor("a")
    assert tensor.shape == (3, 512)
    assert torch.equal(tensor, torch.from_numpy(gguf.dequantize(blocks, number)))


def test_a_model_in_q8_0_is_read(llama: Path, tmp_path: Path) -> None:
    path = requantised(llama, tmp_path / "q.gguf", gguf.GGMLQuantizationType.Q8_0)
    whole, rounded = gguf_reading.read(llama), gguf_reading.read(path)
    assert normal(whole.model) == normal(rounded.model)
    weight = "blocks.0.attention.qkv.weight"
    torch.testing.assert_close(rounded.weights[weight], whole.weights[weight], rtol=0, atol=0.01)
    assert not torch.equal(rounded.weights[weight], whole.weights[weight])


# --- what cannot be written


def test_what_llama_cpp_cannot_say_is_named(tmp_path: Path) -> None:
    settings = small_models.settings_of("mistral", sliding_window=8)
    with pytest.raises(ConversionError, match=r"llama.cpp's llama has no equal for attention.windows \[8, 8\]"):
        written(tmp_path, settings)
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize(
    ("model_type", "changes", "said"),
    [
        ("gpt2", {"activation_function": "gelu"}, "feed_forward.approximate"),
        ("gemma2", {"query_pre_attn_scalar": 16}, "attention.scale"),
        ("gemma2", {"attn_logit_softcapping": None}, "attention.cap"),
        ("qwen2", {"head_dim": 16}, "do not add up to d_model"),
        ("qwen3", {"rope_scaling": small_models.LLAMA3}, "Llama 3's scaling"),
    ],
)
def test_every_setting_without_a_key_is_refused(
    model_type: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=said):
        written(tmp_path, small_models.settings_of(model_type, **changes))


def test_parts_of_no_family_are_named_with_the_nearest(tmp_path: Path) -> None:
    settings = {**small_models.settings_of("llama"), "feed_forward": "ReLUSquaredFeedForward"}
    with pytest.raises(ConversionError, match=r"nearest is Llama.*feed_forward"):
        written(tmp_path, settings)


# --- bad files


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused_in_one_line(llama: Path, share: float) -> None:
    content, tensors = llama.read_bytes(), GGUFFile(llama).tensors.values()
    content = content[: max(tensor.start + tensor.n_bytes for tensor in tensors)]  # without what fills the last block
    short = llama.with_name("short.gguf")
    short.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError) as caught:
        gguf_reading.read(short)
    assert "\n" not in str(caught.value)
    assert "short.gguf" in str(caught.value)


@given(at=st.integers(0, 3000), new=st.binary(min_size=1, max_size=8))
def test_a_header_that_lies_is_read_or_refused(llama: Path, at: int, new: bytes) -> None:
    content = bytearray(llama.read_bytes())
    content[at : at + len(new)] = new
    damaged = llama.with_name("damaged.gguf")
    damaged.write_bytes(content)
    try:
        gguf_reading.read(damaged)
    except XLabError:
        return


@pytest.mark.parametrize(
    ("at", "form", "said"),
    [
        (8, "<Q", "claims 4611686018427387904 tensors"),
        (16, "<Q", "claims 4611686018427387904 metadata entries"),
        (24, "<Q", "claims 4611686018427387904 bytes"),
        (4, "<I", "version 1073741824"),
    ],
)
def test_huge_counts_are_refused_before_anything_is_made(llama: Path, at: int, form: str, said: str) -> None:
    content = bytearray(llama.read_bytes())
    struct.pack_into(form, content, at, 1 << (62 if form == "<Q" else 30))
    damaged = llama.with_name("huge.gguf")
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        gguf_reading.read(damaged)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    for name, content in {"empty": b"", "text": b"no model", "magic": b"GGUF"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            gguf_reading.read(tmp_path / name)
    with pytest.raises(CheckpointError, match="No such file"):
        gguf_reading.read(tmp_path / "missing")
    writer = gguf.GGUFWriter(str(tmp_path / "rwkv"), "rwkv7")
    close(writer)
    with pytest.raises(ConversionError, match="architecture 'rwkv7'; XLab reads llama"):
        gguf_reading.read(tmp_path / "rwkv")


def test_all_tensors_that_do_not_fit_are_named(llama: Path, tmp_path: Path) -> None:
    file = GGUFFile(llama)
    tensors = {name: file.tensor(name).numpy() for name in file.tensors}
    del tensors["blk.1.ffn_down.weight"]
    tensors["blk.9.ffn_down.weight"] = np.zeros((2, 2), np.float32)
    tensors["output_norm.weight"] = np.zeros(5, np.float32)
    copied(file, tensors, tmp_path / "a.gguf")
    with pytest.raises(CheckpointError) as caught:
        gguf_reading.read(tmp_path / "a.gguf")
    for said in ("blk.1.ffn_down.weight is missing", "blk.9.ffn_down.weight is not in", "output_norm.weight is [5]"):
        assert said in str(caught.value)


def test_a_number_of_blocks_that_cannot_be_builds_nothing(llama: Path, tmp_path: Path) -> None:
    file = GGUFFile(llama)
    file.metadata = {**file.metadata, "llama.block_count": 9000}
    with pytest.raises(CheckpointError, match="claims 9000 blocks"):
        gguf_reading.read_settings(file)


@pytest.mark.parametrize("key", ["attention.head_count", "embedding_length", "feed_forward_length"])
def test_a_size_that_no_tensor_has_builds_nothing(llama: Path, key: str) -> None:
    file = GGUFFile(llama)
    file.metadata = {**file.metadata, f"llama.{key}": 1 << 40}
    with pytest.raises(CheckpointError, match=f"{1 << 40}, and the widest of its tensors has 300 rows"):
        gguf_reading.read_settings(file)


def test_keys_and_values_of_different_widths_are_refused(llama: Path) -> None:
    file = GGUFFile(llama)
    file.metadata = {**file.metadata, "llama.attention.key_length": 16}
    with pytest.raises(ConversionError, match="different widths"):
        gguf_reading.read_settings(file)


def test_a_context_without_end_takes_no_memory(llama: Path, tmp_path: Path) -> None:
    file = GGUFFile(llama)
    file.metadata = {**file.metadata, "llama.context_length": 1 << 24}
    copied(file, {name: file.tensor(name).numpy() for name in file.tensors}, tmp_path / "a.gguf")
    assert gguf_reading.read(tmp_path / "a.gguf").model["max_len"] == 1 << 24


def test_one_of_several_parts_is_refused(llama: Path) -> None:
    file = GGUFFile(llama)
    file.metadata = {**file.metadata, "split.count": 3}
    with pytest.raises(CheckpointError, match="one of several parts"):
        gguf_reading.read_settings(file)


def test_a_tied_projection_that_must_be_written_is_found_to_be_a_copy(tmp_path: Path) -> None:
    path = written(tmp_path, small_models.settings_of("olmo2"))
    assert "output.weight" in GGUFFile(path).tensors
    assert gguf_reading.read(path).model["tie_embeddings"]
    # another projection in its place makes it a model of two matrices
    file = GGUFFile(path)
    tensors = {name: file.tensor(name).numpy() for name in file.tensors}
    tensors["output.weight"] = tensors["output.weight"] + 1
    copied(file, tensors, tmp_path / "b.gguf")
    assert not gguf_reading.read(tmp_path / "b.gguf").model["tie_embeddings"]


# --- making files


def one_tensor(path: Path, content: Any, kind: Any) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tensor("a", content, raw_dtype=kind)
    close(writer)
    return path


def requantised(source: Path, target: Path, kind: Any) -> Path:
    file = GGUFFile(source)
    tensors = {name: file.tensor(name).numpy() for name in file.tensors}
    copied(file, tensors, target, kind)
    return target


def copied(file: GGUFFile, tensors: dict[str, Any], path: Path, kind: Any = None) -> None:
    writer = gguf.GGUFWriter(str(path), file.metadata["general.architecture"])
    for key, value in file.metadata.items():
        if key not in ("general.architecture", "general.file_type"):
            gguf_writing._add(writer, key, value)
    for name, numbers in tensors.items():
        if kind is not None and numbers.ndim == 2 and numbers.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, numbers)
    close(writer)


def close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
