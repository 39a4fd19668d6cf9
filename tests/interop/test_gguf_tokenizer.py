"""Tokenizers in GGUF's lists: byte-level BPE comes back token for token, and what has no equal there is refused."""

from typing import Any

import pytest
import small_models

from xlab.data.tokenizers import ByteFallbackBPE
from xlab.errors import CheckpointError
from xlab.interop import gguf_tokenizer
from xlab.interop.errors import ConversionError
from xlab.interop.proof_process import texts


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({}, "gpt-2"),
        ({"digits": 1}, "smollm"),
        ({"pattern": "cl100k"}, "dbrx"),
        ({"pattern": "o200k"}, "gpt-4o"),
        ({"pattern": gguf_tokenizer._QWEN2}, None),
    ],
)
def test_a_tokenizer_comes_back_from_its_lists(how: dict[str, Any], name: str | None) -> None:
    own = small_models.tokenizer(**how)
    if name is None:  # a pattern of one's own has a cut before it
        with pytest.raises(ConversionError, match="no name for where the tokenizer cuts"):
            gguf_tokenizer.metadata_of(own, len(own))
        return
    metadata = gguf_tokenizer.metadata_of(own, len(own))
    assert metadata["tokenizer.ggml.pre"] == name
    assert gguf_tokenizer.tokenizer_of(metadata, "a").to_json() == own.to_json()
    del metadata[gguf_tokenizer.WHOLE]
    back = gguf_tokenizer.tokenizer_of(metadata, "a")
    assert (back.sos_id, back.eos_id, back.pad_id) == (own.sos_id, own.eos_id, own.pad_id)
    for text in texts(own):
        assert back.encode(text) == own.encode(text)
        assert back.decode(own.encode(text)) == own.decode(own.encode(text))


def test_rows_without_a_token_get_a_name() -> None:
    own = small_models.tokenizer()
    metadata = gguf_tokenizer.metadata_of(own, len(own) + 2)
    assert metadata["tokenizer.ggml.tokens"][-1] == f"[PAD{len(own) + 1}]"
    with pytest.raises(ConversionError, match="has no row"):
        gguf_tokenizer.metadata_of(own, len(own) - 1)


def test_other_tokenizers_are_refused_with_a_remedy() -> None:
    own = ByteFallbackBPE().make(iter(["the cat sees the dog, the dog sees the cat"] * 20), 270)
    with pytest.raises(ConversionError, match=r"no byte-level BPE.*--format hf and safetensors"):
        gguf_tokenizer.metadata_of(own, len(own))
    with pytest.raises(CheckpointError, match="of the kind 'llama'"):
        gguf_tokenizer.tokenizer_of({"tokenizer.ggml.model": "llama"}, "a")
    with pytest.raises(CheckpointError, match="'tekken'"):
        gguf_tokenizer.tokenizer_of({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken"}, "a")


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.ggml.tokens": None},
        {"tokenizer.ggml.tokens": ["a", "a"]},
        {"tokenizer.ggml.merges": ["a b c"]},
        {"tokenizer.ggml.merges": ["Ġ nothing"]},
        {"tokenizer.ggml.merges": [3]},
    ],
)
def test_a_damaged_vocabulary_is_refused(changes: dict[str, Any]) -> None:
    own = small_models.tokenizer()
    metadata = gguf_tokenizer.metadata_of(own, len(own)) | changes
    del metadata[gguf_tokenizer.WHOLE]
    with pytest.raises(CheckpointError, match=r"a\.gguf"):
        gguf_tokenizer.tokenizer_of(metadata, "a.gguf")
