"""What the loader costs a training step: batches of every packing, beside a step of the default model."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from benchmarks.turns import Answer

STEPS, BATCHES = 3, 20  # timed in a turn; of a contender


def prepare_loaders(corpus: Path, tokenizer_file: Path, scratch: Path) -> tuple[Answer, Callable[[], Answer]]:
    """The default configuration with each packing, without and with a document mask; a turn times all of them.

    Its answer has ``step``, the seconds of a step on a batch that is there already, and ``loaders``, by packing and
    mask the seconds until a batch is there. The loader works in the training process: all of it is waited for.
    """
    import torch

    from xlab.data.packing import BestFit, ContiguousWindows, OneDocument, TokenBudget

    packings = [ContiguousWindows(), BestFit(), OneDocument(), TokenBudget(max_tokens=2048)]
    loaders = {
        f"{type(packing).__name__}{', mask' if masked else ''}": _batches(
            _datamodule(corpus, tokenizer_file, scratch, packing=packing, document_mask=masked)
        )
        for packing in packings
        for masked in (False, True)
    }
    train = _step(next(loaders["ContiguousWindows"]))

    def turn() -> Answer:
        train()
        steps = _seconds(train, STEPS)
        answer: dict[str, float] = {}
        for name, batches in loaders.items():
            next(batches)  # the caches hold something else
            answer[name] = _seconds(partial(next, batches), BATCHES)
        return {"step": steps, "loaders": answer}

    turn()
    return {"versions": {"torch": torch.__version__}}, turn


def prepare_masks(rounds: int, *, quick: bool) -> tuple[Answer, Callable[[], Answer]]:
    """What ``data_mask`` measures, in one turn."""
    import torch

    from benchmarks.data_mask import WORKS, Work, measure

    def turn() -> Answer:
        costs = measure([Work(2, 32, 8)] if quick else WORKS, rounds)
        return {"costs": [{**vars(cost.work), "plain": cost.plain, "masked": cost.masked} for cost in costs]}

    return {"versions": {"torch": torch.__version__}}, turn


def _datamodule(corpus: Path, tokenizer_file: Path, scratch: Path, **settings: Any) -> Any:
    from xlab.data.sources import JsonLines
    from xlab.data.tokenizers import TokenizerFile
    from xlab.datamodules import XLabDataModule

    made = XLabDataModule(
        source=JsonLines(str(corpus)),
        tokenizer=TokenizerFile(str(tokenizer_file)),
        batch_size=8,
        cache_dir=str(scratch),
        **settings,
    )
    made.prepare_data()
    made.setup("fit")
    return made


def _batches(datamodule: Any) -> Iterator[dict[str, Any]]:
    """Batches without end, epoch after epoch."""
    return chain.from_iterable(repeat(datamodule.train_dataloader()))


def _step(batch: dict[str, Any]) -> Callable[[], object]:
    """An optimiser step of the default model, with nothing around it."""
    import torch
    import torch.nn.functional as F

    from xlab.transformer.decoder import Decoder

    torch.manual_seed(0)
    decoder = Decoder(vocab_size=4096, max_len=256, d_model=192, n_layers=4, n_heads=4)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> None:
        F.cross_entropy(decoder(batch["inputs"]).flatten(0, 1), batch["targets"].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _seconds(work: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times
