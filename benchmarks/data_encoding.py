"""What encodes and what trains a tokenizer in ``data_speed``: XLab from a file, its peers from texts in memory."""

import platform
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.data_corpus import read_texts
from benchmarks.turns import Answer

Prepared = tuple[Answer, Callable[[], Answer]]


def prepare_xlab(corpus: Path, tokenizer_file: Path, scratch: Path) -> Prepared:
    """Raw text to token store: read, hash, divide, encode, write, describe, and open again."""
    from xlab.data.preparation import prepare
    from xlab.data.sources import JsonLines
    from xlab.data.splits import Corpus
    from xlab.data.tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_file)
    documents = Corpus(JsonLines(str(corpus)), {"train": 1.0})

    def turn() -> Answer:
        started = time.perf_counter()
        made = prepare(documents, tokenizer, cache_dir=scratch)
        seconds = time.perf_counter() - started
        split = made.description["splits"]["train"]
        shutil.rmtree(scratch)
        return {"seconds": seconds, "tokens": split["tokens"] - 2 * split["documents"]}  # sos and eos are ours alone

    return _introduced(turn, "tokenizers")


def prepare_bare(corpus: Path, tokenizer_file: Path, scratch: Path, *, fast: bool) -> Prepared:
    """The library's encoder on texts in memory: nothing is read, and nothing kept of what it gives.

    ``fast`` is its way without the places of tokens in the text, which XLab takes too.
    """
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    backend.encode_special_tokens = True
    encode = backend.encode_batch_fast if fast else backend.encode_batch
    texts = read_texts(corpus)
    tokens = sum(map(len, encode(texts, add_special_tokens=False)))

    def turn() -> Answer:
        started = time.perf_counter()
        encode(texts, add_special_tokens=False)
        return {"seconds": time.perf_counter() - started, "tokens": tokens}

    return _introduced(turn, "tokenizers")


def prepare_datasets(corpus: Path, tokenizer_file: Path, scratch: Path) -> Prepared:
    """``datasets.map`` of texts in memory, batched as its documentation advises, into an Arrow file."""
    import datasets
    import tokenizers

    datasets.disable_progress_bars()
    backend = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    backend.encode_special_tokens = True
    texts = datasets.Dataset.from_dict({"text": read_texts(corpus)})
    features = datasets.Features({"ids": datasets.Sequence(datasets.Value("int32"))})
    numbers = iter(range(1 << 30))

    def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
        return {"ids": [e.ids for e in backend.encode_batch_fast(rows["text"], add_special_tokens=False)]}

    def turn() -> Answer:
        scratch.mkdir(parents=True, exist_ok=True)
        number = next(numbers)
        started = time.perf_counter()
        made = texts.map(
            encode,
            batched=True,
            remove_columns=["text"],
            features=features,
            cache_file_name=str(scratch / f"{number}.arrow"),
            new_fingerprint=f"turn{number}",  # nothing is found again, and the function need not be hashed
        )
        seconds = time.perf_counter() - started
        tokens = sum(len(ids) for ids in made.data.column("ids").to_pylist()) if not number else None
        del made
        shutil.rmtree(scratch)
        return {"seconds": seconds, "tokens": tokens}

    return _introduced(turn, "tokenizers", "datasets")


def train_xlab(corpus: Path, vocab_size: int) -> Prepared:
    """XLab's training: read the file, hash and divide the documents, train."""
    from xlab.data.preparation import train_tokenizer
    from xlab.data.sources import JsonLines
    from xlab.data.splits import Corpus
    from xlab.data.tokenizers import ByteLevelBPE

    documents = Corpus(JsonLines(str(corpus)), {"train": 1.0})

    def turn() -> Answer:
        started = time.perf_counter()
        made = train_tokenizer(ByteLevelBPE(), documents, vocab_size)
        return {"seconds": time.perf_counter() - started, "tokens": len(made)}

    return _introduced(turn, "tokenizers", warm_up=False)


def train_bare(corpus: Path, vocab_size: int) -> Prepared:
    """The library's training on texts in memory."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    texts = read_texts(corpus)

    def turn() -> Answer:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=["<|pad|>", "<|sos|>", "<|eos|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        started = time.perf_counter()
        backend.train_from_iterator(iter(texts), trainer)
        return {"seconds": time.perf_counter() - started, "tokens": backend.get_vocab_size()}

    return _introduced(turn, "tokenizers", warm_up=False)


def _introduced(turn: Callable[[], Answer], *packages: str, warm_up: bool = True) -> Prepared:
    known = {"python": platform.python_version(), **{package: version(package) for package in packages}}
    first = turn() if warm_up else {}
    return {"versions": known, "tokens": first.get("tokens")}, turn
