"""Published models as checkpoints: the same logits, one vocabulary for model and tokenizer, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interop.folders import EOS, change_config, write_folder
from xlab import checkpoint_writing, checkpoints
from xlab.data.tokenizers import Tokenizer
from xlab.errors import CheckpointError, ConfigError, DataError, XLabError
from xlab.interop import export_huggingface, gguf_writing, huggingface
from xlab.interop.errors import ConversionError
from xlab.interop.vocabulary import PretrainedTokenizer, with_rows
from xlab.models import XLabModel

pytest.importorskip("transformers", reason="the folders are made by transformers")

N_OWN = 273  # tokens of the tests' tokenizer: GPT-2's bytes, a few merges, its end


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A GPT-2, which has no token that starts a document, and no rows to spare."""
    folder = tmp_path_factory.mktemp("gpt2")
    return folder, write_folder(folder)


@pytest.fixture
def folder(published: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(published[0], tmp_path / "copy"))


def ids_of(n_tokens: int, n_rows: int = N_OWN) -> torch.Tensor:
    return torch.randint(0, n_rows, (1, n_tokens), generator=torch.Generator().manual_seed(0))


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


class TestImport:
    def test_a_checkpoint_stands_alone_and_has_the_logits(self, published: tuple[Path, Any], tmp_path: Path) -> None:
        folder, model = published
        made = huggingface.import_checkpoint(folder)
        head = checkpoints.header(model=made.model, data=made.data, tokenizer=made.tokenizer, info=made.info)
        checkpoint_writing.write({"xlab": head, "state_dict": made.weights}, tmp_path / "made.pt")
        decoder, tokenizer = checkpoints.load(tmp_path / "made.pt")
        ids = ids_of(64)
        assert apart(decoder(ids)[..., :N_OWN], model(ids).logits) < 2e-5
        assert tokenizer.decode(tokenizer.encode("the cat sees")) == "the cat sees"
        assert str(folder) not in json.dumps([made.model, made.data])
        assert XLabModel.load_from_checkpoint(str(tmp_path / "made.pt")).max_len == 64

    @pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
    def test_shards_and_padded_rows(self, tmp_path: Path, model_type: str) -> None:
        model = write_folder(tmp_path, model_type, n_rows=320, shard="20KB", tie_word_embeddings=False)
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        made = huggingface.import_checkpoint(tmp_path)
        decoder, tokenizer = checkpoints.restore(made)
        assert len(tokenizer) == decoder.vocab_size == 320
        ids = ids_of(30)
        assert apart(decoder(ids), model(ids).logits) < 2e-5
        assert tokenizer.decode([300, 319]) == ""  # rows that no text has

    def test_half_precision_stays_what_it_is(self, tmp_path: Path) -> None:
        write_folder(tmp_path, dtype="bfloat16")
        weights = huggingface.import_checkpoint(tmp_path).weights
        stored = {weight.dtype for weight in weights.values()}
        assert len(stored) == 1

    def test_a_shorter_context(self, published: tuple[Path, Any]) -> None:
        folder, model = published
        decoder, _ = checkpoints.restore(huggingface.import_checkpoint(folder, max_len=16))
        ids = ids_of(16)
        assert decoder.max_len == 16
        assert apart(decoder(ids)[..., :N_OWN], model(ids).logits) < 2e-5
        with pytest.raises(CheckpointError, match="has learned places for 64 tokens; it cannot read 65"):
            huggingface.import_checkpoint(folder, max_len=65)

    def test_the_bare_model_without_a_prefix_and_with_masks(self, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        before = huggingface.import_checkpoint(folder)
        path = folder / "model.safetensors"
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)  # as the first GPT-2 of the hub has it
        save_file(tensors, path)
        after = huggingface.import_checkpoint(folder)
        assert all(weight.equal(before.weights[name]) for name, weight in after.weights.items())

    def test_the_vocabulary_and_merges_of_an_old_folder(self, folder: Path) -> None:
        before = huggingface.import_checkpoint(folder)
        content = json.loads((folder / "tokenizer.json").read_text())["model"]
        (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]]
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
        (folder / "tokenizer.json").unlink()
        after = huggingface.import_checkpoint(folder)
        texts = ["the cat sees a dog", "Zoë’s 3"]
        one, other = (Tokenizer.from_json(made.tokenizer) for made in (before, after))
        assert one.encode_batch(texts) == other.encode_batch(texts)


class TestVocabulary:
    def test_a_start_that_the_model_lacks_reads_as_its_own_beginning(self, published: tuple[Path, Any]) -> None:
        folder, model = published
        made = huggingface.import_checkpoint(folder)
        decoder, tokenizer = checkpoints.restore(made)
        assert tokenizer.eos_token == EOS
        assert tokenizer.sos_id >= N_OWN
        text = tokenizer.encode("the dog")
        ours = decoder(torch.tensor([[tokenizer.sos_id, *text]]))[..., :N_OWN]
        assert apart(ours, model(torch.tensor([[tokenizer.eos_id, *text]])).logits) < 2e-5

    def test_added_rows_are_the_mean(self) -> None:
        rows = torch.randn(5, 3)
        found = with_rows({"embedding.weight": rows, "output.weight": 2 * rows, "norm.weight": rows[0]}, 7)
        assert found["embedding.weight"][:5].equal(rows)
        torch.testing.assert_close(found["embedding.weight"][5:], rows.mean(0).expand(2, -1))
        torch.testing.assert_close(found["output.weight"][5:], 2 * rows.mean(0).expand(2, -1))
        with pytest.raises(ConversionError, match="vocabulary of 4 tokens is smaller than the model's, 5"):
            with_rows({"embedding.weight": rows}, 4)

    def test_a_tokenizer_larger_than_the_model_is_refused(self, folder: Path) -> None:
        change_config(folder, vocab_size=200)
        with pytest.raises(DataError, match=f"has {N_OWN} tokens, and the model's vocab_size is 200"):
            huggingface.import_checkpoint(folder)

    def test_a_folder_without_tokenizer(self, folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        with pytest.raises(DataError, match="has no tokenizer"):
            huggingface.import_checkpoint(folder)

    def test_ends_that_only_the_configuration_names(self, folder: Path) -> None:
        (folder / "tokenizer_config.json").unlink()
        (folder / "generation_config.json").unlink()
        change_config(folder, eos_token_id=[5, 0], bos_token_id=6)
        tokenizer = PretrainedTokenizer(str(folder)).load()
        assert (tokenizer.eos_id, tokenizer.sos_id) == (5, 6)


TEMPLATE = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"


class TestChatTemplate:
    @pytest.mark.parametrize("kind", ["text", "several", "file", "none"])
    def test_it_comes_along(self, folder: Path, kind: str) -> None:
        several = [{"name": "tools", "template": "x"}, {"name": "default", "template": TEMPLATE}]
        told = {"text": {"chat_template": TEMPLATE}, "several": {"chat_template": several}}.get(kind, {})
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | told))
        if kind == "file":
            (folder / "chat_template.jinja").write_text(TEMPLATE)
        made = huggingface.import_checkpoint(folder)
        assert made.info.get("chat_template") == (None if kind == "none" else TEMPLATE)

    def test_it_is_handed_on(self, folder: Path, tmp_path: Path) -> None:
        from transformers import AutoTokenizer

        (folder / "chat_template.jinja").write_text(TEMPLATE)
        made = huggingface.import_checkpoint(folder)
        (tmp_path / "hf").mkdir()
        export_huggingface.write(made, tmp_path / "hf", dtype=None, max_shard_bytes=10**9)
        theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
        assert theirs.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a<|endoftext|>"
        assert huggingface.import_checkpoint(tmp_path / "hf").info["chat_template"] == TEMPLATE
        pytest.importorskip("gguf", reason="GGUF files are written with its package")
        gguf_writing.write(made, tmp_path / "a.gguf")
        assert huggingface.import_checkpoint(tmp_path / "a.gguf").info["chat_template"] == TEMPLATE

    def test_one_that_is_no_text(self, folder: Path) -> None:
        (folder / "chat_template.jinja").write_bytes(b"\xff")
        with pytest.raises(CheckpointError, match=r"chat_template\.jinja is no text"):
            huggingface.import_checkpoint(folder)


class TestRefusals:
    def test_a_folder_without_config(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            huggingface.import_checkpoint(folder)

    def test_a_file_that_is_no_configuration(self, folder: Path) -> None:
        with pytest.raises(CheckpointError, match=r"is a file, and no config\.json"):
            huggingface.model_settings(folder / "model.safetensors")

    def test_what_is_no_published_model(self, folder: Path) -> None:
        with pytest.raises(CheckpointError, match="name of a published model is empty"):
            huggingface.model_settings("")
        (folder / "xlab.json").write_text("{}")
        with pytest.raises(CheckpointError, match=r"a folder of XLab's own.*import-checkpoint .*copy, then"):
            huggingface.model_settings(folder)

    def test_a_context_that_no_memory_holds(self, folder: Path) -> None:
        change_config(folder, n_positions=10**12)
        with pytest.raises(ConversionError, match="n_positions 1000000000000, which is not"):
            huggingface.import_checkpoint(folder)

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"vocab_size": 10**12}, r"claims vocab_size 1000000000000, and the widest of its tensors has 273 rows"),
            ({"n_embd": 10**9}, r"claims d_model 1000000000, d_ff 4000000000, and"),
            ({"n_layer": 10_000}, r"claims 10000 blocks, and has 28 tensors"),
            ({"n_head": 64}, r"copy: d_model must be divisible by n_heads, got 32 and 64"),
        ],
    )
    def test_sizes_that_no_tensor_has_room_for(self, folder: Path, fields: dict[str, Any], said: str) -> None:
        change_config(folder, **fields)
        with pytest.raises(ConversionError, match=said):
            huggingface.import_checkpoint(folder)

    def test_whole_numbers_are_no_weights(self, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["transformer.h.0.attn.bias"] = torch.ones(64, 64, dtype=torch.uint8)  # a mask, as old files have it
        save_file(tensors, path)
        huggingface.import_checkpoint(folder)
        tensors["transformer.h.1.mlp.c_fc.weight"] = torch.ones(32, 128, dtype=torch.int8)
        save_file(tensors, path)
        with pytest.raises(ConversionError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight is of whole numbers"):
            huggingface.import_checkpoint(folder)

    def test_an_embedding_that_is_not_there_is_named(self, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        tensors = load_file(path)
        del tensors["transformer.wte.weight"]
        save_file(tensors, path)
        with pytest.raises(ConversionError, match=r"transformer\.wte\.weight is missing"):
            huggingface.import_checkpoint(folder)

    def test_heads_as_wide_as_no_tensor(self, tmp_path: Path) -> None:
        write_folder(tmp_path, "llama")
        change_config(tmp_path, head_dim=10**9)  # would make a table of as many angles for every place
        with pytest.raises(ConversionError, match="claims head_dim 1000000000"):
            huggingface.import_checkpoint(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", "\x00"])
    def test_a_config_that_is_none(self, folder: Path, text: str) -> None:
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json is no"):
            huggingface.import_checkpoint(folder)

    def test_an_unknown_family(self, folder: Path) -> None:
        change_config(folder, model_type="bert")
        with pytest.raises(ConversionError, match=r"does not know the model_type 'bert'; it knows gpt2, llama,"):
            huggingface.import_checkpoint(folder)

    def test_every_tensor_that_does_not_fit_is_named(self, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["transformer.h.9.ln_1.weight"] = tensors.pop("transformer.h.0.ln_1.weight")
        tensors["transformer.ln_f.bias"] = torch.zeros(31)
        del tensors["transformer.h.1.mlp.c_fc.bias"]
        save_file(tensors, path)
        with pytest.raises(ConversionError) as raised:
            huggingface.import_checkpoint(folder)
        for said in (
            "transformer.h.0.ln_1.weight is missing",
            "transformer.h.1.mlp.c_fc.bias is missing",
            "transformer.h.9.ln_1.weight is surplus",
            "transformer.ln_f.bias is (31,), not (32,)",
        ):
            assert said in str(raised.value)

    def test_a_projection_that_is_not_the_embedding_though_the_config_says_so(self, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
        save_file(tensors, path)
        huggingface.import_checkpoint(folder)
        tensors["lm_head.weight"][3] += 1
        save_file(tensors, path)
        with pytest.raises(ConversionError, match=r"lm_head\.weight is not .*wte\.weight, though tie_word_embeddings"):
            huggingface.import_checkpoint(folder)

    @pytest.mark.parametrize("source", ["/nowhere", "./nowhere", "~/nowhere/at/all", "a/b/c", "https://example.org/x"])
    def test_a_folder_that_is_not_there(self, source: str) -> None:
        with pytest.raises(XLabError, match=r"there is no folder|is no folder"):
            huggingface.import_checkpoint(source)

    def test_a_name_without_the_net(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        def offline(*args: Any, **kwargs: Any) -> str:
            raise OSError("no route to host\nand more")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
        with pytest.raises(CheckpointError, match="could not be fetched from the hub: no route to host") as raised:
            huggingface.import_checkpoint("someone/model")
        assert "\n" not in str(raised.value)


class TestAModelInPython:
    def test_settings_that_are_not_the_models_are_named(self, published: tuple[Path, Any]) -> None:
        settings = huggingface.model_settings(published[0])
        huggingface.refuse_others(settings | {"max_len": 16, "vocab_size": 300}, published[0], "pretrained")
        with pytest.raises(ConfigError, match=r"d_model 64 \(there 32\); norm RMSNorm \(there LayerNorm\)"):
            huggingface.refuse_others(settings | {"d_model": 64, "norm": "RMSNorm"}, published[0], "pretrained")

    def test_a_decoder_is_filled(self, published: tuple[Path, Any]) -> None:
        folder, model = published
        settings = huggingface.model_settings(folder) | {"max_len": 20, "vocab_size": 280}
        decoder = checkpoints.build_decoder(settings).eval()
        huggingface.fill(decoder, folder)
        ids = ids_of(20)
        assert apart(decoder(ids)[..., :N_OWN].detach(), model(ids).logits) < 2e-5
        with pytest.raises(CheckpointError, match="do not fit the model"):
            huggingface.fill(checkpoints.build_decoder(settings | {"d_model": 64}), folder)
