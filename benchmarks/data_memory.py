"""How far memory grows in a fresh process: while a corpus is prepared, and while an enormous one is resumed."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.turns import Answer

STEP = 10**6  # where a run is resumed
BATCH_SIZE, SEQ_LEN = 8, 256


def prepare_growth(corpus: Path, tokenizer_file: Path, scratch: Path) -> tuple[Answer, Callable[[], Answer]]:
    """Prepare a corpus with a ready tokenizer; the answer has ``seconds``, and ``megabytes`` above the imports."""
    from xlab.data.preparation import prepare
    from xlab.data.sources import JsonLines
    from xlab.data.splits import Corpus
    from xlab.data.tokenizers import Tokenizer

    def turn() -> Answer:
        before, started = resident("VmRSS"), time.perf_counter()
        documents = Corpus(JsonLines(str(corpus)), {"train": 0.95, "val": 0.05})
        prepare(documents, Tokenizer.from_file(tokenizer_file), cache_dir=scratch)
        answer = {"seconds": time.perf_counter() - started, "megabytes": resident("VmHWM") - before}
        shutil.rmtree(scratch)
        return answer

    return {}, turn


def prepare_resume(store: Path) -> tuple[Answer, Callable[[], Answer]]:
    """Open a store, find the place of step ``STEP`` in its order, and read the batch that follows."""
    import torch

    from xlab.data.packing import ContiguousWindows, Layout
    from xlab.data.sampler import TrainBatchSampler
    from xlab.data.sharded_store import open_store

    torch.zeros(1)
    layout = Layout(SEQ_LEN, pad_id=0, sos_id=1, byte_lengths=np.ones(4096, dtype=np.int64))

    def turn() -> Answer:
        before, started = resident("VmRSS"), time.perf_counter()
        windows = ContiguousWindows().windows(open_store(store), layout)
        sampler = TrainBatchSampler(len(windows), BATCH_SIZE)
        sampler.resume(0, STEP)
        batch = windows.__getitems__(next(iter(sampler)))
        seconds = time.perf_counter() - started
        tokens = windows.store.n_tokens
        assert batch["inputs"].shape == (BATCH_SIZE, SEQ_LEN)
        return {"seconds": seconds, "megabytes": resident("VmHWM") - before, "tokens": tokens}

    return {}, turn


def resident(which: str) -> float:
    """MB of this process that are in memory (``VmRSS``), or that ever were (``VmHWM``)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == which:
            return int(value.split()[0]) * 1024 / 1e6
    raise ImportError(f"/proc/self/status tells no {which}: memory is measured on Linux alone")
