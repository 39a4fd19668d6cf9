"""Loss, perplexity, bits per byte and accuracy on documents, each with a long context of its own text."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlab.data.sources import Document
from xlab.data.text_pieces import pieces
from xlab.data.tokenizers import Tokenizer
from xlab.errors import CheckpointError, DataError
from xlab.evaluation.windows import Window, scores, sliding
from xlab.transformer.decoder import Decoder


@dataclass(frozen=True)
class Figures:
    """A model's figures on a set of documents, each over all of its tokens.

    Attributes:
        loss: nats a token; the tokens are the documents' own and an eos after each.
        perplexity: e to the loss.
        bits_per_byte: bits for all tokens, over the bytes of the documents' UTF-8: comparable between tokenizers.
        accuracy: share of tokens that were the likeliest.
        documents: how many there were.
        tokens: how many were predicted.
        n_bytes: of the documents' UTF-8.
        stride: how far apart the windows began.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    accuracy: float
    documents: int
    tokens: int
    n_bytes: int
    stride: int


def evaluate(
    decoder: Decoder,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    *,
    stride: int | None = None,
    batch_size: int = 8,
) -> Figures:
    """Predict every token of every document once, and the eos after it, from sos and what came before.

    Windows of the model's ``max_len`` slide over each document: a token sees all before it, or at least
    ``max_len - stride`` tokens. A smaller stride gives more context and takes more time. Documents are streamed;
    pass a model in eval mode.

    Args:
        decoder: the model.
        tokenizer: the one it was trained with.
        documents: read once.
        stride: from 1 to the model's ``max_len``; half of that if not given.
        batch_size: windows in a forward pass; changes nothing but speed and memory.

    Raises:
        ConfigError: for a stride or batch size that cannot be.
        CheckpointError: when the tokenizer has ids that the model has not.
        DataError: when there is no text.
        GenerationError: when a loss is not finite.
    """
    if len(tokenizer) > decoder.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {decoder.vocab_size}; they do not belong together"
        )
    stride = max(1, decoder.max_len // 2) if stride is None else stride
    n_documents = n_bytes = 0

    def windows() -> Iterator[tuple[None, Window]]:
        nonlocal n_documents, n_bytes
        for document in documents:
            n_documents += 1
            n_bytes += len(document.text.encode())
            for window in sliding(_encode(document.text, tokenizer), max_len=decoder.max_len, stride=stride):
                yield None, window

    nats, n_tokens, n_hits = 0.0, 0, 0
    for _, score in scores(decoder, windows(), batch_size=batch_size):
        nats += score.nats.sum().item()
        n_tokens += len(score.nats)
        n_hits += int(score.hits.sum())
    if not n_bytes:
        raise DataError("there is no text to evaluate on: every document is empty, or there is none")
    loss = nats / n_tokens
    return Figures(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),  # e**710 is beyond float64
        bits_per_byte=nats / math.log(2) / n_bytes,
        accuracy=n_hits / n_tokens,
        documents=n_documents,
        tokens=n_tokens,
        n_bytes=n_bytes,
        stride=stride,
    )


def _encode(text: str, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Give a document as it is stored for training: sos, tokens, eos."""
    # piece by piece: encoding a long text at once takes a hundred times its memory
    ids = [np.array(tokenizer.encode(piece), dtype=np.int64) for piece in pieces(text)]
    return np.concatenate([[tokenizer.sos_id], *ids, [tokenizer.eos_id]])
