"""Figures on documents against plain sums, against training's own metrics, and against what nobody can beat."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_decoder import MAX_LEN, TEXT, tiny_decoder, tiny_tokenizer, uniform_decoder

from xlab.data.packing import ContiguousWindows, Layout
from xlab.data.sources import Document
from xlab.data.token_store import TokenStore, TokenStoreWriter
from xlab.data.tokenizers import ByteLevelBPE
from xlab.errors import CheckpointError, DataError
from xlab.evaluation import evaluate
from xlab.training.metrics import TokenMetrics

texts = st.lists(st.text(max_size=40), min_size=1, max_size=4).filter(any)


@given(texts, st.integers(1, MAX_LEN))
def test_who_knows_nothing_scores_tokens_times_log_v_over_bytes(documents: list[str], stride: int) -> None:
    tokenizer = tiny_tokenizer()
    figures = evaluate(uniform_decoder(), tokenizer, map(Document, documents), stride=stride)
    n_tokens = sum(len(tokenizer.encode(text)) + 1 for text in documents)  # eos is predicted, sos is given
    n_bytes = sum(len(text.encode()) for text in documents)
    assert (figures.documents, figures.tokens, figures.n_bytes) == (len(documents), n_tokens, n_bytes)
    # fp32's rounding of one logarithm
    assert figures.bits_per_byte == pytest.approx(n_tokens * math.log2(290) / n_bytes, rel=1e-6)
    assert figures.perplexity == pytest.approx(290, rel=1e-5)


def test_figures_are_the_plain_sums_over_tokens_not_over_documents() -> None:
    decoder, tokenizer = tiny_decoder(), tiny_tokenizer()
    documents = ["the cat", "a", "sees 🐈"]
    nats, hits = [], []
    for text in documents:
        ids = torch.tensor([tokenizer.sos_id, *tokenizer.encode(text), tokenizer.eos_id])
        logits = decoder(ids[None, :-1])[0].double()
        nats += F.cross_entropy(logits, ids[1:], reduction="none").tolist()
        hits += (logits.argmax(-1) == ids[1:]).tolist()
    figures = evaluate(decoder, tokenizer, map(Document, documents))
    assert figures.loss == pytest.approx(sum(nats) / len(nats), rel=1e-6)
    assert figures.perplexity == pytest.approx(math.exp(figures.loss))
    assert figures.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / len("".join(documents).encode()), rel=1e-6)
    assert figures.accuracy == pytest.approx(sum(hits) / len(hits))


def test_a_stride_of_the_whole_context_is_the_loss_that_training_logs(tmp_path: Path) -> None:
    decoder, tokenizer = tiny_decoder(), tiny_tokenizer()
    with TokenStoreWriter(tmp_path / "val", len(tokenizer)) as writer:
        writer.write([tokenizer.sos_id, *tokenizer.encode(TEXT), tokenizer.eos_id])
        writer.end_document()
    layout = Layout(
        MAX_LEN,
        pad_id=tokenizer.pad_id,
        sos_id=tokenizer.sos_id,
        byte_lengths=tokenizer.byte_lengths(),
        is_evaluation=True,
    )
    packed = ContiguousWindows().windows(TokenStore(tmp_path / "val"), layout)
    metrics = TokenMetrics()
    batch = packed.__getitems__(range(len(packed)))
    metrics.update(decoder(batch["inputs"]), batch["targets"], batch["n_bytes"])
    figures = evaluate(decoder, tokenizer, [Document(TEXT)], stride=MAX_LEN)
    for name, value in metrics.compute().items():
        assert getattr(figures, name) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    documents = [Document(TEXT[start : start + 40]) for start in range(0, 200, 17)]
    alone = evaluate(tiny_decoder(), tiny_tokenizer(), documents, batch_size=1)
    batched = evaluate(tiny_decoder(), tiny_tokenizer(), documents, batch_size=batch_size)
    assert vars(batched) == pytest.approx(vars(alone), rel=1e-6)


def test_a_document_scores_the_same_beside_others() -> None:
    decoder, tokenizer = tiny_decoder(), tiny_tokenizer()
    one, other = (evaluate(decoder, tokenizer, [Document(text)]) for text in ("the cat sees", "Zoë 🐈"))
    both = evaluate(decoder, tokenizer, map(Document, ["the cat sees", "Zoë 🐈"]))
    assert both.loss * both.tokens == pytest.approx(one.loss * one.tokens + other.loss * other.tokens, rel=1e-6)


def test_texts_without_a_character_are_refused() -> None:
    for documents in ([], [Document("")]):
        with pytest.raises(DataError, match="there is no text to evaluate on"):
            evaluate(tiny_decoder(), tiny_tokenizer(), documents)


def test_another_models_tokenizer_is_refused() -> None:
    larger = ByteLevelBPE().make(iter([TEXT]), 291)
    with pytest.raises(CheckpointError, match="the tokenizer has 291 tokens, the model 290"):
        evaluate(tiny_decoder(), larger, [Document(TEXT)])
