"""The process behind ``proof``: read an export with its own library, and the original with XLab's, and compare.

It is asked in JSON on standard input, and answers in JSON on the last line of standard output.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlab import checkpoints
from xlab.checkpoints import Checkpoint
from xlab.data.tokenizers import Tokenizer
from xlab.interop.families import Family, family_of
from xlab.interop.worker import answer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_EXACT = 2e-5  # what fp32 sums, added in another order, may be apart
_ROUNDINGS = 8  # what a model makes of the rounding of its weights, in units of the precision's last place
_TOKENS = 512  # of the longest prompt, unless a window asks for more
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces,\ttab\nline\r\nother line\n\n\nthree  \n and  more",
    "I'm sure it's what they'd've said: DON'T, we'll; HE'S",
    "1 22 333 4444 55555 3.14159 -2e10 2026-11-22 ½ ²",
    "def f(x: int) -> str:\n    return f'{x!r}' * 2  # <b>&amp;</b>\n",
    "Zoë naïve façade — «Привет, мир» 你好，世界 こんにちは 한국어 עברית العربية ไทย",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\u00a0 ﬁ ℌ 𝕏",
    "",
    " ",
    "a",
]


class Reading(ABC):
    """An export as its own library reads it."""

    library: str

    @abstractmethod
    def logits(self, ids: Tensor) -> Tensor:
        """Logits (1, T, V) in float32."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """The weights under XLab's names, in XLab's layout."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """A text's tokens, without marks of beginning and end."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """The text of tokens."""


class OwnReading(Reading):
    """An export that gives a checkpoint of XLab's again."""

    def __init__(self, checkpoint: Checkpoint, library: str) -> None:
        self.library = library
        self._checkpoint = checkpoint
        self._decoder, self._tokenizer = checkpoints.restore(checkpoint)

    def logits(self, ids: Tensor) -> Tensor:
        found: Tensor = self._decoder.float()(ids)
        return found.float()

    def weights(self) -> Mapping[str, Tensor]:
        return self._checkpoint.weights

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)


class TransformersReading(Reading):
    """An export that ``transformers`` reads: a folder of its own, or a GGUF file.

    Args:
        model: the model, in float32.
        tokenizer: its tokenizer.
        family: of the model.
        settings: of the original.
        library: its name.
    """

    def __init__(self, model: Any, tokenizer: Any, family: Family, settings: Mapping[str, Any], library: str) -> None:
        self.library = library
        self._model, self._tokenizer = model.eval(), tokenizer
        self._family, self._settings = family, settings

    def logits(self, ids: Tensor) -> Tensor:
        found: Tensor = self._model(input_ids=ids).logits
        return found.float()

    def weights(self) -> Mapping[str, Tensor]:
        state = {self._family.renamed.get(name, name): tensor for name, tensor in self._model.state_dict().items()}
        rules = self._family.tensors(self._settings)
        return {rule.ours: rule.join([state[name] for name in rule.theirs]) for rule in rules}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def read_hf(path: Path, original: Checkpoint) -> Reading:
    """Read a Hugging Face folder."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    family = family_of(model.config.model_type)
    return TransformersReading(model, tokenizer, family, original.model, f"transformers {transformers.__version__}")


def read_gguf(path: Path, original: Checkpoint) -> Reading:
    """Read a GGUF file with transformers' reader, or with XLab's where transformers' lacks the architecture."""
    import transformers
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    from xlab.interop import gguf_reading
    from xlab.interop.gguf_file import GGUFFile

    file = GGUFFile(path)
    if file.metadata["general.architecture"] not in GGUF_SUPPORTED_ARCHITECTURES:
        return OwnReading(gguf_reading.read(path), "XLab (transformers has no GGUF reader of this architecture)")
    # the configuration comes from the file too, but by XLab: transformers' passes over scalings, biases and head sizes
    settings, told = gguf_reading.read_settings(file)
    family = family_of(told["model_type"])
    config = transformers.AutoConfig.for_model(**family.config(settings))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, config=config, dtype=torch.float32, local_files_only=True
    )
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True
    )
    return TransformersReading(
        model, tokenizer, family, settings, f"transformers {transformers.__version__}'s GGUF reader"
    )


def read_safetensors(path: Path, original: Checkpoint) -> Reading:
    """Read XLab's own folder, its tensors with the safetensors library."""
    from dataclasses import replace

    import safetensors
    from safetensors.torch import load_file

    from xlab.interop import xlab_folder

    weights: dict[str, Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        weights |= load_file(file)
    return OwnReading(replace(xlab_folder.read(path), weights=weights), f"safetensors {safetensors.__version__}")


def read_pt(path: Path, original: Checkpoint) -> Reading:
    """Read a .pt."""
    return OwnReading(checkpoints.read(path), f"XLab, torch {torch.__version__}")


READERS: dict[str, Callable[[Path, Checkpoint], Reading]] = {
    "hf": read_hf,
    "gguf": read_gguf,
    "safetensors": read_safetensors,
    "pt": read_pt,
}


@torch.inference_mode()
def compare(checkpoint: str, export: str, kind: str, dtype: str, modules: tuple[str, ...] = ()) -> dict[str, Any]:
    """Compare, and give what ``Proof`` holds.

    The weights are compared with the original's as they are rounded: that finds a single wrong one, whatever the
    precision is. Logits are compared with those of the original as it is.
    """
    for module in modules:
        checkpoints.allow_module(module)
    original = checkpoints.merged(checkpoints.read(checkpoint))
    decoder, tokenizer = checkpoints.restore(original)
    rows = prompts(original.model)
    expected = [decoder.float()(ids).float() for ids in rows]
    del decoder
    reading = READERS[kind](Path(export), original)
    largest = max(float(logits.abs().max()) for logits in expected)
    apart = max(float((reading.logits(ids) - own).abs().max()) for ids, own in zip(rows, expected, strict=True))
    weights, name = _farthest(original.weights, reading.weights(), kind, DTYPES.get(dtype))
    stored = DTYPES.get(dtype, torch.float32)
    rounding = 0.0 if stored == torch.float32 else _ROUNDINGS * torch.finfo(stored).eps
    return {
        "library": reading.library,
        "n_tokens": sum(ids.numel() for ids in rows),
        "logits": apart / max(largest, torch.finfo(torch.float32).tiny),
        "limit": max(_EXACT, rounding),
        "weights": weights,
        "weights_limit": 0.0 if kind != "gguf" else 1e-6,  # Gemma's norms are written plus one
        "apart": name,
        "n_texts": len(texts(tokenizer)),
        "tokenizer": tokenizers_apart(tokenizer, reading),
    }


def prompts(settings: Mapping[str, Any]) -> list[Tensor]:
    """Give the prompts, (1, T) each, the same for every export of a model: one is longer than a sliding window."""
    vocab_size, max_len = settings["vocab_size"], settings["max_len"]
    windows = [window for window in _windows(settings.get("attention")) if window < max_len]
    longest = min(max_len, max(_TOKENS, 2 * min(windows, default=0)))
    generator = torch.Generator().manual_seed(0)
    lengths = (longest, min(max_len, 64), 1)
    return [torch.randint(vocab_size, (1, length), generator=generator) for length in lengths]


def _windows(attention: Any) -> list[int]:
    arguments = attention.get("init_args") or {} if isinstance(attention, Mapping) else {}
    return [window for window in arguments.get("windows") or [] if window is not None]


def _farthest(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], kind: str, dtype: torch.dtype | None
) -> tuple[float, str]:
    """The largest difference of two weights, divided by the largest of their tensor, and that tensor's name."""
    if own.keys() != found.keys():
        return float("inf"), ", ".join(sorted(own.keys() ^ found.keys()))
    farthest, at = 0.0, ""
    for name, weight in own.items():
        is_rounded = dtype is not None and weight.is_floating_point() and (kind != "gguf" or weight.dim() > 1)
        expected = (weight.to(dtype) if is_rounded else weight).float()
        if expected.shape != found[name].shape:
            return float("inf"), name
        apart = float((expected - found[name].float()).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not math.isfinite(apart):
            return float("inf"), name
        if apart > farthest:
            farthest, at = apart, name
    return farthest, at


def texts(tokenizer: Tokenizer) -> list[str]:
    """Give the texts: some for every tokenizer, and some spelt with tokens of its own, drawn alike every time."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(tokenizer), (4, 500), generator=generator).tolist()
    return [*TEXTS, *(tokenizer.decode(ids) for ids in drawn)]


def tokenizers_apart(tokenizer: Tokenizer, reading: Reading) -> str | None:
    """Say where a text has other tokens, or comes back otherwise; None where all are the same."""
    for text in texts(tokenizer):
        ids = tokenizer.encode(text)
        if (found := reading.encode(text)) != ids:
            at = next((i for i, (one, other) in enumerate(zip(found, ids, strict=False)) if one != other), 0)
            return (
                f"the tokenizer gives {text!r} other tokens: {found[at : at + 4]} from {at} on, not {ids[at : at + 4]}"
            )
        if (back := reading.decode(ids)) != tokenizer.decode(ids):
            return f"the tokenizer gives {back[:60]!r} back of {text[:60]!r}"
    return None


if __name__ == "__main__":
    answer(compare)
