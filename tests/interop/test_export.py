"""Exports: whole or not at all, the same weights again, and nothing that was there is touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_models
import torch
from safetensors.torch import load_file

from xlab import checkpoints
from xlab.errors import CheckpointError, ConfigError
from xlab.interop import export as exports
from xlab.interop import xlab_folder
from xlab.interop.errors import ConversionError
from xlab.interop.export import Options, ProofError, export, export_pt
from xlab.interop.families import normal
from xlab.interop.huggingface import import_checkpoint
from xlab.interop.proof import Proof
from xlab.interop.safetensors_writing import PendingTensor, size_of, write_file, write_shards

FAILED = Proof("a library", 9, 0.5, 2e-5, 0.0, 0.0, "", 3, None)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small Llama."""
    folder = tmp_path_factory.mktemp("llama")
    return small_models.write(folder / "a.pt", small_models.settings_of("llama"))


def same_weights(one: checkpoints.Checkpoint, other: checkpoints.Checkpoint) -> bool:
    names = one.weights.keys()
    return names == other.weights.keys() and all(torch.equal(one.weights[name], other.weights[name]) for name in names)


# --- Hugging Face's folders


@pytest.mark.parametrize("model_type", small_models.CONFIGS)
def test_a_folder_that_is_imported_is_the_model_bit_for_bit(model_type: str, tmp_path: Path) -> None:
    settings = small_models.settings_of(model_type)
    own = small_models.tokenizer(pattern="gpt2") if model_type != "qwen2" else None
    source = checkpoints.read(small_models.write(tmp_path / "a.pt", settings, own=own))
    made, proof = export(tmp_path / "a.pt", tmp_path / "made", "hf", verify=False)
    assert (made, proof) == (tmp_path / "made", None)
    back = import_checkpoint(made)
    outputs = {name for name in back.weights if name.endswith(".attention.out.bias")} - source.weights.keys()
    if model_type == "qwen2":  # goes by the name of Llama, with biases that add nothing
        assert json.loads((made / "config.json").read_text())["model_type"] == "llama"
        assert outputs
        assert not any(back.weights.pop(name).any() for name in outputs)
    else:
        assert normal(back.model) == normal(source.model)
    assert same_weights(source, back)
    ids = checkpoints.restore_tokenizer(source).encode("The quick brown Zoë, 1234")
    assert checkpoints.restore_tokenizer(back).encode("The quick brown Zoë, 1234") == ids


def test_a_folder_says_what_programs_ask_for(llama: Path, tmp_path: Path) -> None:
    made, _ = export(llama, tmp_path / "made", "hf", options=Options("bf16"), verify=False)
    config, generation = (json.loads((made / name).read_text()) for name in ("config.json", "generation_config.json"))
    own = checkpoints.restore_tokenizer(checkpoints.read(llama))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    roles = {"bos_token_id": own.sos_id, "eos_token_id": own.eos_id, "pad_token_id": own.pad_id}
    assert generation == roles
    assert roles.items() <= config.items()
    assert {weight.dtype for weight in load_file(made / "model.safetensors").values()} == {torch.bfloat16}


def test_the_tokenizer_begins_a_text_as_documents_began(llama: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="reads the folder")
    made, _ = export(llama, tmp_path / "made", "hf", verify=False)
    theirs = transformers.AutoTokenizer.from_pretrained(made, local_files_only=True)
    own = checkpoints.restore_tokenizer(checkpoints.read(llama))
    assert theirs("a quick fox")["input_ids"] == [own.sos_id, *own.encode("a quick fox")]
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == (own.sos_token, own.eos_token, own.pad_token)
    assert theirs.model_max_length == 64


def test_parts_of_no_family_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    settings = {**small_models.settings_of("llama"), "feed_forward": "ReLUSquaredFeedForward"}
    small_models.write(tmp_path / "a.pt", settings)
    with pytest.raises(ConversionError, match="nearest is Llama"):
        export(tmp_path / "a.pt", tmp_path / "made", "hf", verify=False)
    assert os.listdir(tmp_path) == ["a.pt"]


# --- safetensors


def test_shards_hold_everything_once_and_the_index_says_where(llama: Path, tmp_path: Path) -> None:
    source = checkpoints.read(llama)
    made, _ = export(llama, tmp_path / "made", "safetensors", options=Options(max_shard_bytes=20_000), verify=False)
    index = json.loads((made / "model.safetensors.index.json").read_text())
    files = sorted(made.glob("model-*.safetensors"))
    assert len(files) > 2
    found = {}
    for file in files:
        tensors = load_file(file)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 20_000 or len(tensors) == 1
        assert all(index["weight_map"][name] == file.name for name in tensors)
        assert not tensors.keys() & found.keys()
        found |= tensors
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in source.weights.values())
    assert all(torch.equal(found[name], weight) for name, weight in source.weights.items())


def test_xlab_s_own_folder_is_read_again(llama: Path, tmp_path: Path) -> None:
    made, _ = export(llama, tmp_path / "made", "safetensors", verify=False)
    source, back = checkpoints.read(llama), xlab_folder.read(made)
    assert xlab_folder.is_xlab_folder(made)
    assert not xlab_folder.is_xlab_folder(tmp_path)
    assert same_weights(source, back)
    assert same_weights(source, import_checkpoint(made))
    assert (back.model, back.data, back.tokenizer, back.info) == (
        source.model,
        source.data,
        source.tokenizer,
        source.info,
    )


def test_a_model_of_no_family_has_a_folder_too(tmp_path: Path) -> None:
    settings = {**small_models.settings_of("llama"), "feed_forward": "ReLUSquaredFeedForward"}
    small_models.write(tmp_path / "a.pt", settings)
    made, _ = export(tmp_path / "a.pt", tmp_path / "made", "safetensors", verify=False)
    assert xlab_folder.read(made).model == checkpoints.read(tmp_path / "a.pt").model


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("xlab.json", "{", "no whole JSON"),
        ("xlab.json", "[]", "damaged"),
        ("xlab.json", '{"format": 9, "model": {}, "data": {}, "info": {}}', "format 9"),
        (
            "xlab.json",
            '{"format": 1, "model": {"norm": "os.system"}, "data": {}, "info": {}}',
            "os.system, whose code is not XLab's",
        ),
        ("model.safetensors", "x" * 99, "damaged"),
    ],
)
def test_a_damaged_folder_is_refused(llama: Path, tmp_path: Path, name: str, content: str, said: str) -> None:
    made, _ = export(llama, tmp_path / "made", "safetensors", verify=False)
    (made / name).write_text(content)
    with pytest.raises(CheckpointError, match=said):
        xlab_folder.read(made)


def test_the_library_reads_every_type_that_is_written(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    tensors = {str(kind): torch.arange(5).to(kind) for kind in [*kinds, torch.int8, torch.uint8, torch.bool]}
    tensors |= {"ü": torch.tensor(3.0), "none": torch.empty(0, 4), "turned": torch.arange(6.0).view(2, 3).t()}
    write_file(
        tmp_path / "a.safetensors",
        [PendingTensor(name, tuple(t.shape), t.dtype, lambda t=t: t) for name, t in tensors.items()],
    )
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path: Path) -> None:
    sizes = {"a": 1, "b": 100, "c": 1}
    pending = [PendingTensor(name, (n,), torch.float32, lambda n=n: torch.ones(n)) for name, n in sizes.items()]
    paths = write_shards(tmp_path, pending, 40)
    assert [list(load_file(path)) for path in paths] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5kb", 1500), (" 20 M ", 20 * 10**6), ("7", 7)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GB", "5XB", "GB", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        size_of(text)


# --- whole or not at all


@pytest.mark.parametrize("kind", ["hf", "safetensors", "gguf"])
@pytest.mark.parametrize("there", ["file", "folder", "link", "dangling"])
def test_what_is_there_is_not_touched(llama: Path, tmp_path: Path, kind: str, there: str) -> None:
    target = tmp_path / "made"
    if there == "file":
        target.write_text("mine")
    elif there == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path if there == "link" else tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="exists; remove it" if there in ("file", "folder") else "symbolic link"):
        export(llama, target, kind, verify=False)
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.parametrize("kind", ["hf", "safetensors", "gguf", "pt"])
def test_an_export_whose_proof_fails_leaves_nothing(
    llama: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "prove", lambda *_, **__: FAILED)
    monkeypatch.setattr(exports, "check_libraries", lambda _: None)
    with pytest.raises(ProofError, match="is not the model, and was removed: read again by a library"):
        export_pt(llama, tmp_path) if kind == "pt" else export(llama, tmp_path / "made", kind)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["hf", "safetensors", "gguf"])
def test_what_is_too_large_for_half_precision_is_told(kind: str, tmp_path: Path) -> None:
    if kind == "gguf":
        pytest.importorskip("gguf", reason="GGUF files are written with its package")
    source = small_models.write(tmp_path / "a.pt", small_models.settings_of("llama"))
    content = torch.load(source, weights_only=True)
    content["state_dict"]["decoder.blocks.1.feed_forward.down.weight"][2, 3] = 1e5
    torch.save(content, source)
    with pytest.raises(ConversionError, match=r"down(_proj)?\.weight has numbers beyond 65504, the largest in --dtype"):
        export(source, tmp_path / "made", kind, options=Options("fp16"), verify=False)
    assert os.listdir(tmp_path) == ["a.pt"]
    export(source, tmp_path / "made", kind, options=Options("bf16"), verify=False)


def test_a_full_disk_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))\n"
        "from xlab.interop.export import export\n"
        "export(sys.argv[1], sys.argv[2], sys.argv[3], verify=False)"
    )
    for kind in ("hf", "gguf"):
        command = [sys.executable, "-c", code, str(llama), str(tmp_path / "made"), kind]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "CheckpointError: cannot write" in ended.stderr
        assert os.listdir(tmp_path) == []


def test_a_missing_library_is_told_before_work_begins(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs transformers, not installed here: pip install 'xlab\[interop\]'"):
        export(llama, tmp_path / "made", "hf")
    assert os.listdir(tmp_path) == []


def test_left_out_the_output_is_named_by_content(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digest = checkpoints.content_hash(checkpoints.read(llama))[:16]
    assert export(llama, None, "safetensors", verify=False)[0] == Path("exports") / f"xlab-{digest}"
    assert export(llama, None, "gguf", verify=False)[0] == Path("exports") / f"xlab-{digest}.gguf"
    with pytest.raises(CheckpointError, match="exists"):
        export(llama, None, "gguf", verify=False)


def test_a_pt_is_named_by_content_and_written_once(llama: Path, tmp_path: Path) -> None:
    path, was_there, _ = export_pt(llama, tmp_path, verify=False)
    assert not was_there
    assert same_weights(checkpoints.read(path), checkpoints.read(llama))
    assert export_pt(llama, tmp_path, verify=False)[:2] == (path, True)
    assert os.listdir(tmp_path) == [path.name]


def test_a_checkpoint_that_could_not_be_used_is_not_exported(tmp_path: Path) -> None:
    source = small_models.write(tmp_path / "a.pt", small_models.settings_of("llama"))
    content = torch.load(source, weights_only=True)
    del content["state_dict"]["decoder.norm.weight"]
    torch.save(content, source)
    with pytest.raises(CheckpointError, match=r"norm.weight is missing"):
        export(source, tmp_path / "made", "safetensors", verify=False)
