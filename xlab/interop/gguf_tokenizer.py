"""Byte-level BPE as GGUF's metadata hold it, in both directions.

llama.cpp knows no regular expressions of one's own: where text is cut before pairs are merged has a name in its source,
and a tokenizer that cuts elsewhere has no equal there.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from xlab.data.tokenizers import Tokenizer
from xlab.data.tokenizers.pre_tokenization import PATTERNS
from xlab.data.tokenizers.special_tokens import combined
from xlab.errors import CheckpointError, DataError
from xlab.interop.errors import ConversionError

CHAT_TEMPLATE = "tokenizer.chat_template"
# the whole tokenizer.json: docs/gguf.md has this key for programs that read it
WHOLE = "tokenizer.huggingface.json"
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_DIGIT = r"\p{N}"
# llama.cpp's names (src/llama-vocab.cpp) of the cuts they stand for, one expression after another
_CUTS = {
    "gpt-2": [_GPT2],
    "smollm": [_DIGIT, _GPT2],
    "dbrx": [_LLAMA3],
    "llama-bpe": [_LLAMA3],  # which also takes a whole word that is a token as it is
    "qwen2": [_QWEN2],
    "gpt-4o": [PATTERNS["o200k"]],
}
# other names for the same
_NAMES = {
    **dict.fromkeys(("default", "olmo", "jais", "mpt", "phi-2", "trillion"), "gpt-2"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), "smollm"),
    **dict.fromkeys(("smaug-bpe",), "dbrx"),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "pixtral"), "llama-bpe"),
    **dict.fromkeys(("stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan"), "qwen2"),
    **dict.fromkeys(("llama4", "kanana2"), "gpt-4o"),
}
# expressions that say the same in other words; of cl100k, llama.cpp has no other form either: it is apart only in the
# spaces at a text's very end
_SAME = {
    PATTERNS["gpt2"]: _GPT2,
    PATTERNS["cl100k"]: _LLAMA3,
    _LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?i:'[sdmt]|'ll|'ve|'re)"): _LLAMA3,
    r"\p{N}{1,1}": _DIGIT,
}


def metadata_of(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """Describe a tokenizer in GGUF's keys.

    Args:
        tokenizer: a byte-level BPE.
        vocab_size: the rows of the model's embedding; ids that no token has get a name that no text gives.

    Raises:
        ConversionError: for a tokenizer of another kind, or one that cuts text where llama.cpp cannot.
    """
    content = json.loads(tokenizer.to_json())
    pre = pre_tokenizer_name(content)
    model = content["model"]
    names: dict[int, str] = {number: token for token, number in model["vocab"].items()}
    kinds = dict.fromkeys(names, _NORMAL)
    for token in content["added_tokens"]:
        names[token["id"]] = token["content"]
        kinds[token["id"]] = _CONTROL if token["special"] else _USER_DEFINED
    if surplus := sorted(number for number in names if number >= vocab_size and kinds[number] != _CONTROL):
        raise ConversionError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {vocab_size}: {names[surplus[0]]!r} has no row"
        )
    tokens = [names.get(number, f"[PAD{number}]") for number in range(vocab_size)]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kinds.get(number, _UNUSED) for number in range(vocab_size)],
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
    }
    roles = {"bos": tokenizer.sos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    metadata |= {f"tokenizer.ggml.{role}_token_id": number for role, number in roles.items() if number < vocab_size}
    # XLab's models saw their start before every document
    metadata["tokenizer.ggml.add_bos_token"] = tokenizer.sos_id < vocab_size
    metadata["tokenizer.ggml.add_eos_token"] = False
    return metadata | {WHOLE: tokenizer.to_json()}


def pre_tokenizer_name(content: Mapping[str, Any]) -> str:
    """Give llama.cpp's name for where a tokenizer.json cuts text.

    Raises:
        ConversionError: if it has none.
    """
    model = content["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or not _is_byte_level(content):
        raise ConversionError(
            "the tokenizer is no byte-level BPE, and GGUF is written of these alone; --format hf and safetensors "
            "hold any tokenizer"
        )
    if (content.get("normalizer") or {}).get("type") not in (None, "NFC"):  # llama.cpp leaves Qwen's NFC out too
        raise ConversionError("the tokenizer changes text before it encodes it (its normalizer), llama.cpp does not")
    cuts = [_SAME.get(cut, cut) for cut in _cuts(content.get("pre_tokenizer"))]
    fitting = [name for name, own in _CUTS.items() if own == cuts]
    if not fitting:
        raise ConversionError(
            f"llama.cpp has no name for where the tokenizer cuts text ({' then '.join(cuts) or 'nowhere'}); it knows "
            "the patterns gpt2 (also with digits: 1), cl100k, o200k, Llama 3's and Qwen 2's"
        )
    if model.get("ignore_merges"):
        if "llama-bpe" not in fitting:
            raise ConversionError(
                "the tokenizer ignores merges of whole words, which llama.cpp does for Llama 3's only"
            )
        return "llama-bpe"
    return fitting[0]


def tokenizer_of(metadata: Mapping[str, Any], path: object) -> Tokenizer:
    """Make the tokenizer that a GGUF file's metadata describe.

    Raises:
        CheckpointError: if there is none, it is damaged, or it is of a kind that XLab does not read from GGUF.
    """
    try:
        if isinstance(whole := metadata.get(WHOLE), str):
            return Tokenizer.from_json(whole)
        return _from_lists(metadata, path)
    except DataError as error:
        raise CheckpointError(f"{path}: its tokenizer is damaged: {error}") from error


def _from_lists(metadata: Mapping[str, Any], path: object) -> Tokenizer:
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2":
        raise CheckpointError(
            f"{path} has a tokenizer of the kind {kind!r}; XLab reads byte-level BPE (gpt2) from GGUF. Import the "
            "model's Hugging Face folder instead, with its tokenizer"
        )
    name = _NAMES.get(pre, pre)
    if name not in _CUTS:
        known = ", ".join(sorted({*_CUTS, *_NAMES}))
        raise CheckpointError(f"{path} cuts text as {pre!r} does, which XLab does not know; it knows {known}")
    tokens = _list(metadata, "tokenizer.ggml.tokens", str, path)
    merges = [tuple(merge.split(" ")) for merge in _list(metadata, "tokenizer.ggml.merges", str, path)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise CheckpointError(f"{path} is damaged: its vocabulary has a token twice")
    if wrong := [merge for merge in merges if len(merge) != 2 or "".join(merge) not in vocabulary]:
        raise CheckpointError(f"{path} is damaged: {' '.join(wrong[0])!r} is no merge of its vocabulary")
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name == "llama-bpe")
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(f"{path} is damaged: its vocabulary is none: {error}") from error
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = _pre_tokenizer(_CUTS[name])
    backend.decoder = decoders.ByteLevel()
    kinds = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    added = [
        tokenizers.AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=False)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    backend.add_tokens([token for token in added if not token.special])
    backend.add_special_tokens([token for token in added if token.special])
    return Tokenizer(backend, **_roles(metadata, tokens, backend))


def _roles(metadata: Mapping[str, Any], tokens: list[str], backend: tokenizers.Tokenizer) -> dict[str, str | None]:
    """Which tokens end, begin and pad a document; the end comes first, since a model has one."""
    proposed: dict[str, str | None] = {}
    for ours, theirs in {"eos_token": "eos", "sos_token": "bos", "pad_token": "padding"}.items():
        number = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        proposed[ours] = tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else None
    return combined(dict.fromkeys(proposed), proposed, backend)


def _list(metadata: Mapping[str, Any], key: str, kind: type, path: object) -> list[Any]:
    found = metadata.get(key)
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        raise CheckpointError(f"{path} has no tokenizer: {key} is missing")
    return found


def _pre_tokenizer(cuts: list[str]) -> pre_tokenizers.PreTokenizer:
    if cuts == [_GPT2]:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)  # which has that pattern built in
    splits = [pre_tokenizers.Split(tokenizers.Regex(cut), "isolated") for cut in cuts]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _cuts(part: Mapping[str, Any] | None) -> list[str]:
    """The expressions that cut text, in their order; what is no such cut stands as its own name, which fits nothing."""
    cuts = []
    for step in _steps(part):
        if step["type"] == "ByteLevel":
            cuts += ["a space before the text"] if step["add_prefix_space"] else []
            cuts += [_GPT2] if step["use_regex"] else []
        elif step["type"] == "Digits" and step["individual_digits"]:
            cuts.append(_DIGIT)
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            cuts.append(next(iter(step["pattern"].values())))
        else:
            cuts.append(str(step["type"]))
    return cuts


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return any(step["type"] == "ByteLevel" for step in _steps(content.get("pre_tokenizer")))


def _steps(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
    for inner in part.get("pretokenizers", []):
        yield from _steps(inner)
