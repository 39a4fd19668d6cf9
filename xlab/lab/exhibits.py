"""What a trained model shows beside its figures: texts that it writes, where its heads look, how its words lie.

Letters: T positions, H heads, D width, W words.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xlab.errors import CheckpointError, DataError, GenerationError
from xlab.lab.comparison import Comparison
from xlab.lab.metrics_file import Numbers
from xlab.lab.runs import find_runs

if TYPE_CHECKING:  # a page without exhibits does without torch
    from xlab.data.tokenizers import Tokenizer
    from xlab.transformer.decoder import Decoder

LONGEST_TEXT = 96  # tokens that a sample adds
LONGEST_MAP = 32  # tokens of an attention map: more are no longer told apart
_WORDS = 400
SEED = 0


@dataclass(frozen=True)
class Sample:
    """What a variant's model writes.

    Attributes:
        variant: its name.
        checkpoint: the file.
        prompt: what the texts go on from.
        texts: without the prompt.
    """

    variant: str
    checkpoint: Path
    prompt: str
    texts: list[str]


@dataclass(frozen=True)
class View:
    """The inside of a checkpoint.

    Attributes:
        name: of the run or file.
        tokens: T texts of a prompt's tokens.
        maps: (H, T, T) attention of each layer.
        words: W texts of tokens, the vocabulary's first.
        places: (W, 2) of their embeddings along the two directions in which they differ most.
        explained: the share of their variance in these two.
    """

    name: str
    tokens: list[str]
    maps: list[Numbers]
    words: list[str]
    places: Numbers
    explained: float


def write_samples(comparison: Comparison, *, n: int, prompt: str) -> list[Sample]:
    """Let the first run of each variant that has a checkpoint write ``n`` texts, with the same seed.

    Raises:
        CheckpointError: when no run has a checkpoint, or one cannot be read.
        GenerationError: for a prompt that leaves a context no room.
    """
    found = []
    for variant in comparison.variants:
        path = next((run.checkpoint for run in variant.runs if run.checkpoint is not None), None)
        if path is not None:
            found.append(Sample(variant.name, path, prompt, texts(path, n=n, prompt=prompt)))
    if not found:
        raise CheckpointError("--samples needs checkpoints, and none of these runs has kept one")
    return found


def texts(path: Path, *, n: int, prompt: str) -> list[str]:
    """Let a checkpoint write ``n`` texts after a prompt, at temperature 0.8, with a seed of its own.

    Raises:
        CheckpointError: if it cannot be read.
        GenerationError: for a prompt that leaves its context no room.
    """
    from xlab import checkpoints
    from xlab.inference import Engine, Request

    decoder, tokenizer = checkpoints.load(path)
    ids = [tokenizer.sos_id, *tokenizer.encode(prompt)]
    if len(ids) >= decoder.max_len:
        raise GenerationError(
            f"the prompt has {len(ids)} tokens, and the context of {path} {decoder.max_len}; shorten it"
        )
    request = Request(
        ids,
        max_new_tokens=min(LONGEST_TEXT, decoder.max_len - len(ids)),
        temperature=0.8,
        n=n,
        seed=SEED,
        eos_ids=[tokenizer.eos_id],
        banned_ids=tokenizer.marker_ids,
    )
    result = Engine(decoder, tokenizer).generate([request])[0]
    if result.error is not None:
        raise result.error
    return [completion.text for completion in result.completions]


def view(place: str | Path, *, prompt: str) -> View:
    """Look into a checkpoint.

    Args:
        place: a run folder (its best), or a file.
        prompt: the text of the maps; without any the model writes one.

    Raises:
        CheckpointError: if it cannot be read.
        DataError: for a folder of several runs.
        GenerationError: when there is no text to look at.
    """
    import torch

    from xlab import checkpoints
    from xlab.lab.attention_maps import attention_maps

    path = checkpoints.find(_of_run(place) or place)
    decoder, tokenizer = checkpoints.load(path)
    ids = [tokenizer.sos_id, *tokenizer.encode(prompt)][: min(LONGEST_MAP, decoder.max_len)]
    if len(ids) < 2:
        ids += tokenizer.encode(texts(path, n=1, prompt="")[0])[: min(LONGEST_MAP, decoder.max_len) - 1]
    if len(ids) < 2:
        raise GenerationError(f"the model of {path} writes nothing by itself; give --prompt a text for its attention")
    maps = [each.numpy().astype(np.float64) for each in attention_maps(decoder, torch.tensor(ids))]
    words, places, explained = embedding_map(decoder, tokenizer)
    return View(str(place), [spell(tokenizer, token) for token in ids], maps, words, places, explained)


def _of_run(place: str | Path) -> Path | None:
    if not Path(place).is_dir():
        return None
    found = find_runs([place])
    if len(found) > 1:
        raise DataError(f"there are {len(found)} runs under {place}; name one of them, such as {found[0].folder}")
    return found[0].checkpoint


def embedding_map(decoder: "Decoder", tokenizer: "Tokenizer") -> tuple[list[str], Numbers, float]:
    """Lay the embeddings of the vocabulary's first words out in a plane, by principal components.

    A vocabulary that was trained by merging has its commonest words first.

    Returns:
        W words, (W, 2) places, and the share of the variance that these show.
    """
    words = [token for token in range(len(tokenizer)) if tokenizer.token_bytes(token)]  # special ones are none
    spelt = [(token, spell(tokenizer, token)) for token in words]
    shown = [(token, word) for token, word in spelt if len(word.strip()) > 1 and word.isprintable() and "�" not in word]
    shown = (shown or spelt)[:_WORDS]
    weight = decoder.embedding.weight.detach().float().cpu().numpy().astype(np.float64)
    vectors = weight[[token for token, _ in shown]]
    centred = vectors - vectors.mean(axis=0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(shown), 2))
    n = min(2, len(scales))
    places[:, :n] = left[:, :n] * scales[:n]
    total = float((scales**2).sum())
    return [word for _, word in shown], places, float((scales[:2] ** 2).sum()) / total if total else 0.0


def spell(tokenizer: "Tokenizer", token: int) -> str:
    """Write a token for people; a special one by its name."""
    text = tokenizer.token_bytes(token).decode("utf-8", "replace")
    return text or tokenizer.decode([token], skip_special_tokens=False)
