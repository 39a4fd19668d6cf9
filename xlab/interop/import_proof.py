"""Prove that an imported checkpoint is the model that was published, in a fresh process that reads both from the disk.

Run as a module this is that process: it is asked in JSON on standard input, and answers in JSON on its last line.
"""

import importlib.util
from pathlib import Path
from typing import Any

from xlab.errors import ConfigError
from xlab.interop import xlab_folder
from xlab.interop.errors import ConversionError
from xlab.interop.huggingface import is_gguf
from xlab.interop.worker import answer, ask

_LIMIT = 2e-5  # of the largest logit: fp32 sums, added in another order
_LIBRARIES = {
    "hf": ("transformers",),
    "gguf": ("transformers", "gguf", "accelerate"),
    "safetensors": ("safetensors",),
}


def check_libraries(source: str) -> None:
    """Refuse to begin what could not be proved.

    Raises:
        ConfigError: naming the packages that are missing, and how to install them.
    """
    if missing := [name for name in _LIBRARIES[_kind(source)] if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"the proof of an import needs {', '.join(missing)}, not installed here: pip install 'xlab[interop]', or "
            "give --no-verify"
        )


def prove(checkpoint: str | Path, source: str | Path) -> str:
    """Compare an imported checkpoint with what it was made of, as its own library reads that.

    Args:
        checkpoint: the file.
        source: the folder, or the GGUF file.

    Returns:
        What was compared, in a sentence.

    Raises:
        ConversionError: if they are not the same model, or the source cannot be read by its own library.
        ConfigError: if that library is not installed.
    """
    check_libraries(str(source))
    asked = {"checkpoint": str(checkpoint), "source": str(source), "kind": _kind(str(source))}
    found = ask("xlab.interop.import_proof", asked, purpose=f"{source} cannot be compared with what was made of it")
    said = f"{found['library']}: logits of {found['n_tokens']} tokens apart by {found['logits']:.2g} of the largest"
    if not found["logits"] <= _LIMIT:  # a NaN too
        raise ConversionError(f"what was made of {source} is not the model; {said} (limit {_LIMIT})")
    if found["tokenizer"] is not None:
        raise ConversionError(f"what was made of {source} has not its tokenizer: {found['tokenizer']}")
    return f"read by {said} (limit {_LIMIT}), {found['n_texts']} texts have the same tokens and come back the same"


class FileTokens:
    """A tokenizer.json as its own library reads it; transformers' classes of some families put parts of it aside.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        import tokenizers

        self._backend = tokenizers.Tokenizer.from_file(str(path))
        self._backend.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """A text's tokens, without marks of beginning and end."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of tokens."""
        text: str = self._backend.decode(ids, skip_special_tokens=True)
        return text


def compare(checkpoint: str, source: str, kind: str) -> dict[str, Any]:
    """Compare, on all tokens but those that XLab added to the vocabulary."""
    import torch

    from xlab import checkpoints
    from xlab.interop.proof_process import READERS, TEXTS, prompts, tokenizers_apart

    made = checkpoints.read(checkpoint)
    decoder, tokenizer = checkpoints.restore(made)
    reading = READERS[kind](Path(source), made)
    file = Path(source) / "tokenizer.json"
    tokens: Any = FileTokens(file) if file.is_file() else reading  # each has encode and decode
    with torch.inference_mode():
        n_rows = reading.logits(torch.zeros(1, 1, dtype=torch.int64)).size(-1)
        added = torch.tensor([number for number in made.info.get("added_tokens", []) if number < n_rows]).long()
        logits, n_tokens, largest = 0.0, 0, 0.0
        for ids in prompts({**made.model, "vocab_size": n_rows}):
            ids[torch.isin(ids, added)] = 0
            theirs = reading.logits(ids).index_fill(-1, added, 0.0)
            ours = decoder.float()(ids)[..., :n_rows].float().index_fill(-1, added, 0.0)
            logits = max(logits, float((ours - theirs).abs().max()))
            largest = max(largest, float(theirs.abs().max()))
            n_tokens += ids.numel()
    return {
        "library": reading.library,
        "n_tokens": n_tokens,
        "logits": logits / largest if largest else logits,
        "n_texts": len(TEXTS),
        "tokenizer": tokenizers_apart(tokenizer, tokens),
    }


def _kind(source: str) -> str:
    if xlab_folder.is_xlab_folder(source):
        return "safetensors"
    return "gguf" if is_gguf(source) else "hf"


if __name__ == "__main__":
    answer(compare)
