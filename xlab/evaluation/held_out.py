"""Loss, perplexity, bits per byte and accuracy on documents, each with a long context of its own text.

Of conversations the answers count alone. Letters: N tokens of a document.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xlab.data.chat import Chat
from xlab.data.chat_encoding import ChatEncoder
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
        loss: nats a token; the tokens are the documents' own and an eos after each, of conversations those of answers.
        perplexity: e to the loss.
        bits_per_byte: bits for all tokens, over the bytes of their UTF-8: comparable between tokenizers.
        accuracy: share of tokens that were the likeliest.
        documents: how many there were.
        tokens: how many were predicted.
        n_bytes: of the UTF-8 of what was predicted.
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


@dataclass(frozen=True)
class _Encoded:
    """A document as it is stored for training: from sos to eos.

    Attributes:
        tokens: (N,)
        counts: (N,) which of them are predicted; the first never is.
        n_bytes: of the UTF-8 of those.
    """

    tokens: NDArray[np.int64]
    counts: NDArray[np.bool_]
    n_bytes: int


def evaluate(
    decoder: Decoder,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    *,
    stride: int | None = None,
    batch_size: int = 8,
    chat_template: str | None = None,
) -> Figures:
    """Predict every token of every document once, and the eos after it, from sos and what came before.

    Of a conversation the tokens of answers, and what ends them, as supervised fine-tuning learns them.

    Windows of the model's ``max_len`` slide over each document: a token sees all before it, or at least
    ``max_len - stride`` tokens. A smaller stride gives more context and takes more time. Documents are streamed;
    pass a model in eval mode.

    Args:
        decoder: the model.
        tokenizer: the one it was trained with.
        documents: read once.
        stride: from 1 to the model's ``max_len``; half of that if not given.
        batch_size: windows in a forward pass; changes nothing but speed and memory.
        chat_template: how conversations are written; a plain script if not given.

    Raises:
        ConfigError: for a stride or batch size that cannot be.
        CheckpointError: when the tokenizer has ids that the model has not.
        DataError: when there is no text, or the template does not take a conversation.
        GenerationError: when a loss is not finite.
    """
    if len(tokenizer) > decoder.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {decoder.vocab_size}; they do not belong together"
        )
    stride = max(1, decoder.max_len // 2) if stride is None else stride
    n_documents = n_bytes = 0

    def windows() -> Iterator[tuple[NDArray[np.bool_], Window]]:
        nonlocal n_documents, n_bytes
        chats: ChatEncoder | None = None  # made where there is one: other models' templates may be none
        for document in documents:
            n_documents += 1
            if document.messages and chats is None:
                # windows slide over a long one, so nothing is cut
                chats = ChatEncoder(Chat(chat_template, max_tokens=sys.maxsize).settled(decoder.max_len), tokenizer)
            of_chat = chats if document.messages else None
            encoded = _text(document, tokenizer) if of_chat is None else _conversation(document, of_chat, tokenizer)
            n_bytes += encoded.n_bytes
            done = 1
            for window in sliding(encoded.tokens, max_len=decoder.max_len, stride=stride):
                counts = encoded.counts[done : done + window.n_scored]
                done += window.n_scored
                if counts.any():
                    yield counts, window

    nats, n_tokens, n_hits = 0.0, 0, 0
    for counts, score in scores(decoder, windows(), batch_size=batch_size):
        those = torch.from_numpy(counts)
        nats += score.nats[those].sum().item()
        n_tokens += int(those.sum())
        n_hits += int(score.hits[those].sum())
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


def _text(document: Document, tokenizer: Tokenizer) -> _Encoded:
    # piece by piece: encoding a long text at once takes a hundred times its memory
    ids = [np.array(tokenizer.encode(piece), dtype=np.int64) for piece in pieces(document.text)]
    tokens = np.concatenate([[tokenizer.sos_id], *ids, [tokenizer.eos_id]])
    return _Encoded(tokens, np.ones(len(tokens), dtype=np.bool_), len(document.text.encode()))


def _conversation(document: Document, chats: ChatEncoder, tokenizer: Tokenizer) -> _Encoded:
    (encoded,) = chats.encode([document])
    assert encoded is not None  # there is room for any prompt
    n_bytes = int(tokenizer.byte_lengths()[encoded.tokens[encoded.answers]].sum())  # as in validation
    return _Encoded(encoded.tokens, encoded.answers, n_bytes)
