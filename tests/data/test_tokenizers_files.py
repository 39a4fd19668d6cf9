"""Foreign tokenizers keep their ids; which of their tokens start and end a document is known, or told."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from xlab.data.tokenizers import ByteLevelBPE, HubTokenizer, Tokenizer, TokenizerFile, VocabularyAndMerges
from xlab.errors import ConfigError, DataError

CORPUS = ["the cat's hat\n", "the dog's dinner isn't here\r\n", "naïve café 12345 twelve thousand"] * 5


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return ByteLevelBPE().make(iter(CORPUS), 300)


@pytest.fixture
def gpt2(trained: Tokenizer, tmp_path: Path) -> Path:
    return write_gpt2(trained, tmp_path)


def write_gpt2(trained: Tokenizer, folder: Path) -> Path:
    """A folder with a trained vocabulary in GPT-2's two files, its end of text last."""
    model = json.loads(trained.to_json())["model"]
    tokens = [token for token in sorted(model["vocab"], key=model["vocab"].__getitem__) if not token.startswith("<|")]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_foreign(path: Path, special: list[str]) -> Path:
    """A tokenizer.json made without XLab: the alphabet, and special tokens behind it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    path.mkdir(exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    return path / "tokenizer.json"


def roles(tokenizer: Tokenizer) -> tuple[str, str, str]:
    return tokenizer.sos_token, tokenizer.eos_token, tokenizer.pad_token


def made(recipe: Any) -> Tokenizer:
    size = recipe.vocab_size_of(None)
    tokenizer = recipe.make(iter(()), size)
    assert len(tokenizer) == size
    assert recipe.identity() != ""
    return tokenizer


class TestRoles:
    def test_named_tokens_win_and_travel(self, tmp_path: Path) -> None:
        path = write_foreign(tmp_path, ["<s>", "</s>", "<|im_end|>", "<|im_start|>"])
        recipe = TokenizerFile(str(path), sos_token="<|im_start|>", eos_token="<|im_end|>")
        tokenizer = made(recipe)
        assert roles(tokenizer) == ("<|im_start|>", "<|im_end|>", "<|pad|>")
        assert (tokenizer.sos_id, tokenizer.eos_id, tokenizer.pad_id) == (259, 258, 260)
        again = Tokenizer.from_json(tokenizer.to_json())
        assert roles(again) == roles(tokenizer)
        assert again.to_json() == tokenizer.to_json()
        # the library reads it, and knows nothing of roles
        bare = tokenizers.Tokenizer.from_str(tokenizer.to_json())
        assert bare.encode("naïve<s>").ids == tokenizer.encode_with_specials("naïve<s>")
        # another's choice decides what a model learns
        assert recipe.identity() != TokenizerFile(str(path)).identity()

    def test_what_we_saved_keeps_its_roles_in_a_file_and_in_a_folder(self, tmp_path: Path) -> None:
        path = write_foreign(tmp_path / "theirs", ["<a>", "<b>", "</s>"])
        tokenizer = made(TokenizerFile(str(path), sos_token="<a>", eos_token="<b>"))
        (tmp_path / "ours").mkdir()
        tokenizer.save(tmp_path / "ours" / "tokenizer.json")
        (tmp_path / "ours" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
        for recipe in (TokenizerFile(f"{tmp_path}/ours/tokenizer.json"), HubTokenizer(f"{tmp_path}/ours")):
            assert made(recipe).fingerprint == tokenizer.fingerprint
        assert roles(made(HubTokenizer(f"{tmp_path}/ours", eos_token="</s>"))) == ("<a>", "</s>", "<|pad|>")

    def test_usual_names_leave_the_json_as_the_library_writes_it(self, tmp_path: Path) -> None:
        path = write_foreign(tmp_path, ["<s>", "</s>", "<pad>"])
        named = made(TokenizerFile(str(path), sos_token="<s>", eos_token="</s>", pad_token="<pad>"))
        assert named.to_json() == tokenizers.Tokenizer.from_file(str(path)).to_str()

    def test_roles_that_cannot_be(self, tmp_path: Path) -> None:
        path = str(write_foreign(tmp_path, ["<s>", "</s>"]))
        with pytest.raises(DataError, match=r"tokenizer.json: The vocabulary has no token '<eot>' for eos_token; name"):
            TokenizerFile(path, eos_token="<eot>").vocab_size_of(None)
        with pytest.raises(DataError, match=r"two roles \(sos_token '</s>', eos_token '</s>', pad_token '<|pad|>'\)"):
            TokenizerFile(path, sos_token="</s>", eos_token="</s>").vocab_size_of(None)
        # a name that another role has taken is passed over
        assert roles(made(TokenizerFile(path, sos_token="</s>"))) == ("</s>", "<|eos|>", "<|pad|>")

    def test_a_vocabulary_that_leaves_ids_out(self, tmp_path: Path) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        for last, fits in ((300, True), (257, False)):
            ids = {token: i for i, token in enumerate(alphabet)} | {"ab": last}
            backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=[]))
            if fits:
                tokenizer = Tokenizer(backend)
                assert len(tokenizer) == 301
                assert tokenizer.token_bytes(280) == b""
                assert tokenizer.decode([280]) == ""
            else:  # the library numbers what is added by how many there are
                with pytest.raises(DataError, match="gives two tokens one id"):
                    Tokenizer(backend)


class TestVocabularyAndMerges:
    def test_ids_follow_the_file(self, trained: Tokenizer, files: VocabularyAndMerges) -> None:
        tokenizer = made(files)

        @given(text=st.text() | st.sampled_from(CORPUS))
        def check(text: str) -> None:
            assert tokenizer.encode(text) == [token - 3 for token in trained.encode(text)]

        check()

    @pytest.fixture
    def files(self, gpt2: Path) -> VocabularyAndMerges:
        return VocabularyAndMerges(f"{gpt2}/vocab.json", f"{gpt2}/merges.txt")

    def test_the_end_of_text_keeps_its_id(self, files: VocabularyAndMerges) -> None:
        tokenizer = made(files)
        assert roles(tokenizer) == ("<|sos|>", "<|endoftext|>", "<|pad|>")
        assert (tokenizer.eos_id, len(tokenizer)) == (297, 300)
        assert tokenizer.decode(tokenizer.encode("<|endoftext|>")) == "<|endoftext|>"
        with pytest.raises(ConfigError, match=r"data.vocab_size is 8192, but .*vocab.json has 300 tokens"):
            files.vocab_size_of(8192)

    def test_windows_line_ends(self, gpt2: Path, files: VocabularyAndMerges) -> None:
        fingerprint = made(files).fingerprint
        merges = gpt2 / "merges.txt"
        merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))
        assert made(VocabularyAndMerges(f"{gpt2}/vocab.json", str(merges))).fingerprint == fingerprint

    def test_another_pattern(self, gpt2: Path) -> None:
        cut = made(VocabularyAndMerges(f"{gpt2}/vocab.json", f"{gpt2}/merges.txt", pattern="."))
        assert len(cut.encode("the cat")) == 7

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("vocab.json", '{"!": 0, ', "is no whole JSON file"),
            ("vocab.json", "[" * 100_000, "is no whole JSON file"),
            ("vocab.json", '["!"]', "is no vocabulary: it must be one JSON object"),
            ("vocab.json", '{"!": "0"}', "is no vocabulary: it must be one JSON object"),
            ("vocab.json", '{"!": 0, "a": 0}', "its ids must be numbers from 0 on, each of one token"),
            ("vocab.json", '{"!": 0}', "lacks 255 of the 256 bytes"),
            ("merges.txt", "", "has no merges"),
            ("merges.txt", "#version: 0.2\nt h e\n", "line 2: 't h e' is no merge"),
            ("merges.txt", "i n\nin\n", "line 2: 'in' is no merge"),
            ("merges.txt", "q z\n", "line 1: 'q z' needs the token 'qz', which is not in the vocabulary"),
            ("merges.txt", b"t \xff", "is not a list of merges: it is not UTF-8 at byte 2"),
        ],
    )
    def test_damaged_files(self, gpt2: Path, name: str, content: str | bytes, message: str) -> None:
        (gpt2 / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError, match=message):
            VocabularyAndMerges(f"{gpt2}/vocab.json", f"{gpt2}/merges.txt").vocab_size_of(None)

    def test_missing_files(self, gpt2: Path) -> None:
        (gpt2 / "merges.txt").unlink()
        with pytest.raises(DataError, match=r"merges.txt cannot be read: No such file"):
            VocabularyAndMerges(f"{gpt2}/vocab.json", f"{gpt2}/merges.txt").vocab_size_of(None)
        with pytest.raises(ConfigError, match="VocabularyAndMerges' merges is empty"):
            VocabularyAndMerges(f"{gpt2}/vocab.json", "")


class TestHubTokenizer:
    def test_a_folder_tells_its_roles(self, tmp_path: Path) -> None:
        write_foreign(tmp_path, ["<s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"])
        settings = {"bos_token": {"content": "<|im_start|>", "lstrip": False}, "eos_token": "<|im_end|>"}
        settings |= {"pad_token": "<nowhere>", "auto_map": {"AutoTokenizer": "evil.py"}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        assert roles(made(HubTokenizer(str(tmp_path)))) == ("<|im_start|>", "<|im_end|>", "<|pad|>")
        named = HubTokenizer(str(tmp_path), eos_token="<|endoftext|>", pad_token="<|im_end|>")
        assert roles(made(named)) == ("<|im_start|>", "<|endoftext|>", "<|im_end|>")

    def test_one_token_for_everything_is_the_end(self, gpt2: Path) -> None:
        everything = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
        (gpt2 / "tokenizer_config.json").write_text(json.dumps(everything))
        assert roles(made(HubTokenizer(str(gpt2)))) == ("<|sos|>", "<|endoftext|>", "<|pad|>")

    def test_a_name_on_the_hub(self, gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        constants = importlib.import_module("huggingface_hub.constants")
        commit = "0123456789" * 4
        cached = tmp_path / "hub" / "models--some-one--small-model"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text(commit)
        (cached / "snapshots" / commit).mkdir(parents=True)
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(gpt2 / name, cached / "snapshots" / commit)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        tokenizer = made(HubTokenizer("some-one/small-model"))
        assert len(tokenizer) == 300
        assert made(HubTokenizer("some-one/small-model", revision=commit)).fingerprint == tokenizer.fingerprint
        with pytest.raises(DataError, match=r"of some-one/other could not be fetched: .* set data.tokenizer.path to"):
            HubTokenizer("some-one/other").vocab_size_of(None)

    def test_folders_that_hold_none(self, gpt2: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for path, message in {
            f"{tmp_path}/empty": "empty has no tokenizer; it needs tokenizer.json, vocab.json with merges.txt",
            f"{tmp_path}/nowhere": r"nowhere is no folder \(looked from",
            f"{gpt2}/vocab.json": "is a file; HubTokenizer reads a folder",
        }.items():
            with pytest.raises(DataError, match=message):
                HubTokenizer(path).vocab_size_of(None)
        (gpt2 / "merges.txt").unlink()
        with pytest.raises(DataError, match=r"has a vocab.json without its merges.txt"):
            HubTokenizer(str(gpt2)).vocab_size_of(None)
        with pytest.raises(DataError, match=r"is a folder, not a tokenizer.json; HubTokenizer reads folders"):
            TokenizerFile(str(gpt2)).vocab_size_of(None)
        with pytest.raises(ConfigError, match="HubTokenizer's path is empty"):
            HubTokenizer("")

    def test_a_truncated_tokenizer_json(self, tmp_path: Path) -> None:
        path = write_foreign(tmp_path, [])
        whole = path.read_text()
        path.write_text(whole[: len(whole) // 2])
        for recipe in (TokenizerFile(str(path)), HubTokenizer(str(tmp_path))):
            with pytest.raises(DataError, match=r"tokenizer.json is not a tokenizer.json of Hugging Face's"):
                recipe.vocab_size_of(None)
        path.write_text(whole)
        for text in ('{"eos_token": ', "[" * 100_000):
            (tmp_path / "tokenizer_config.json").write_text(text)
            with pytest.raises(DataError, match=r"tokenizer_config.json is no whole JSON object"):
                HubTokenizer(str(tmp_path)).vocab_size_of(None)
