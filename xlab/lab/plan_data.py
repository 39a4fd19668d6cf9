"""What a run's data are, without preparing them: measured where they are prepared already, else estimated."""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xlab import factories
from xlab.data.packing import Layout
from xlab.data.prefixes import PrefixedData, tokenizer_beside
from xlab.data.preparation import Wanted
from xlab.data.prepared import PreparedData, StoredSplits, open_prepared
from xlab.data.sources import HubChats, HubDataset, HubPrompts
from xlab.data.tokenizers import Tokenizer, TokenizerRecipe
from xlab.data.tokenizers.recipe import WithSeparator, made_without_text
from xlab.datamodules import XLabDataModule
from xlab.errors import ConfigError, DataError
from xlab.lab.plan_cache import why_not_reused
from xlab.lab.plan_steps import batch_shape, packing_of

_READ = 1 << 26  # bytes of text that are read of a corpus that is not prepared
_MEASURED = 1 << 20  # … and that a ready tokenizer is tried on
_PLANNED = 1_000_000_000  # tokens: a plan for more takes minutes
_ON_THE_HUB = {kind.__name__ for kind in (HubChats, HubDataset, HubPrompts)}


@dataclass(frozen=True)
class SplitSize:
    """How much a split holds; None is unknown.

    Args:
        tokens: in its documents, separators included.
        n_bytes: of text.
        windows: that its packing makes; micro-batches, where the packing makes those.
        waste: the share of the windows' positions that is padding.
    """

    tokens: int | None = None
    n_bytes: int | None = None
    windows: int | None = None
    waste: float | None = None


@dataclass(frozen=True)
class DataPlan:
    """A run's data.

    Args:
        origin: ``prepared``, ``estimated`` (from as much of the corpus as was read), or ``unknown``.
        how: in words, where the figures come from.
        splits: the sizes of train and val.
        disk_bytes: what the prepared data take, or will.
        cache: why the cache is not reused; None where it is.
    """

    origin: str
    how: str
    splits: dict[str, SplitSize] = field(default_factory=dict)
    disk_bytes: int | None = None
    cache: str | None = None

    @property
    def train(self) -> SplitSize:
        """The training split."""
        return self.splits.get("train", SplitSize())

    @property
    def val(self) -> SplitSize:
        """The validation split."""
        return self.splits.get("val", SplitSize())


def data_plan(datamodule: XLabDataModule, root: Path) -> DataPlan:
    """Look at a datamodule's corpus and cache; write nothing.

    Args:
        datamodule: nothing of it is prepared.
        root: of the runs, whose newest tells which settings the cache was made with.

    Raises:
        ConfigError: when the tokenizer cannot be what is asked.
        DataError: when the corpus is missing.
    """
    settings = datamodule.hparams
    recipe: TokenizerRecipe = factories.build(settings["tokenizer"])
    if datamodule.prefixes:
        recipe = tokenizer_beside(datamodule.prefixes["train"], recipe)
    if datamodule.meta is not None:
        recipe = WithSeparator(recipe)
    size, meta = datamodule.vocab_size, datamodule.meta
    if datamodule.prefixes:
        stored = PrefixedData(datamodule.prefixes, recipe, vocab_size=size, meta=meta, chat=datamodule.chat)
        how = f"stored already, in {datamodule.prefixes['train']}"
        return DataPlan("prepared", how, _sizes(stored, settings), 0)
    wanted = Wanted.of(datamodule.corpus, recipe, vocab_size=size, meta=meta, chat=datamodule.chat)
    cache = Path(settings["cache_dir"])
    tokenizer = _tokenizer(wanted, cache)
    prepared = None if tokenizer is None else _found(cache / wanted.tokens_identity(tokenizer))
    if prepared is not None:
        disk = sum(path.stat().st_size for path in prepared.directory.rglob("*") if path.is_file())
        return DataPlan("prepared", f"in {prepared.directory}", _sizes(prepared, settings), disk)
    reason = why_not_reused(wanted, cache, factories.plain(dict(settings), "data"), root)
    return _estimated(datamodule, tokenizer, reason)


def _tokenizer(wanted: Wanted, cache: Path) -> Tokenizer | None:
    """Give the tokenizer that is ready, or that the cache has."""
    assert isinstance(wanted.tokenizer, TokenizerRecipe)
    try:
        return Tokenizer.from_file(cache / f"{wanted.recipe_identity}.tokenizer.json")
    except DataError:
        with suppress(ConfigError):
            return made_without_text(wanted.tokenizer, wanted.vocab_size, "a plan")
        return None


def _found(directory: Path) -> PreparedData | None:
    try:
        return open_prepared(directory)
    except DataError:
        return None


def _sizes(prepared: StoredSplits, settings: Any) -> dict[str, SplitSize]:
    splits = {}
    for name in ("train", "val"):
        if not prepared.n_documents(name):
            continue
        n_tokens, windows, waste = prepared.store(name).n_tokens, None, None
        if n_tokens <= _PLANNED:
            windows, waste = _windows(prepared, name, settings)
        splits[name] = SplitSize(n_tokens, prepared.n_bytes(name), windows, waste)
    return splits


def _windows(prepared: StoredSplits, split: str, settings: Any) -> tuple[int, float]:
    """Count a split's windows and their waste; a plan that is not in the cache is made elsewhere, and forgotten."""
    tokenizer, cache = prepared.tokenizer, Path(settings["cache_dir"])
    with TemporaryDirectory(prefix="xlab-plan-") as scratch:
        for plan in cache.glob("*.plan"):
            (Path(scratch) / plan.name).symlink_to(plan.resolve())
        layout = Layout(
            settings["seq_len"],
            pad_id=tokenizer.pad_id,
            sos_id=tokenizer.sos_id,
            byte_lengths=tokenizer.byte_lengths(),
            split=split,
            is_evaluation=split != "train",
            cache_dir=scratch,
        )
        windows = packing_of(settings).windows(prepared.store(split), layout)
        return len(windows), float(windows.report()["waste"])


def _estimated(datamodule: XLabDataModule, tokenizer: Tokenizer | None, reason: str) -> DataPlan:
    settings = datamodule.hparams
    if _is_remote(factories.plain(dict(settings), "data")):
        return DataPlan("unknown", "on the hub, and not prepared yet: nothing is known of its size", cache=reason)
    sizes, sample, is_whole = _read(datamodule)
    if sizes is None:
        return DataPlan("unknown", "not prepared yet, and its source does not tell its size", cache=reason)
    if tokenizer is None:
        per_token, said = guessed_bytes_per_token(datamodule.vocab_size), "guessed from the vocabulary's size"
    else:
        n_tokens = sum(map(len, tokenizer.encode_batch(sample)))
        per_token = sum(len(text.encode()) for text in sample) / max(n_tokens, 1)
        said = "measured on its beginning"
    rows, seq_len = batch_shape(settings)
    splits = {}
    for name in ("train", "val"):
        if sizes.get(name):
            tokens = math.ceil(sizes[name] / per_token)
            makes_batches = packing_of(settings).batch_size(settings["batch_size"]) != settings["batch_size"]
            windows = math.ceil(tokens / (seq_len * (rows if makes_batches else 1)))
            splits[name] = SplitSize(tokens, sizes[name], windows)
    item_size = 2 if datamodule.vocab_size <= 1 << 16 else 4
    disk = sum(math.ceil(size / per_token) for size in sizes.values()) * item_size
    read = "all of its text read" if is_whole else "its beginning read"
    how = f"not prepared yet; {read}, {per_token:.2f} bytes per token {said}, no padding"
    return DataPlan("estimated", how, splits, disk, reason)


def guessed_bytes_per_token(vocab_size: int) -> float:
    """Guess what byte-pair encoding makes of English or code, in bytes: 3.1 with 2,048 tokens, 4.7 with 32,768."""
    doublings = math.log2(max(vocab_size, 256) / 256)
    return 1.0 + 1.05 * float(doublings**0.64)


def _read(datamodule: XLabDataModule) -> tuple[dict[str, int] | None, list[str], bool]:
    """Read the corpus, or its beginning: bytes by split, scaled up to the whole; training texts; if it was whole."""
    sizes: dict[str, int] = {}
    sample: list[str] = []
    sampled = 0
    for assigned in datamodule.corpus.documents():
        sizes[assigned.split] = sizes.get(assigned.split, 0) + assigned.n_bytes
        if assigned.split == "train" and sampled < _MEASURED:
            sample.append(assigned.document.text[: _MEASURED - sampled])
            sampled += len(sample[-1])
        if sum(sizes.values()) >= _READ:
            whole = datamodule.corpus.n_bytes()
            scale = None if whole is None else whole / sum(sizes.values())
            return None if scale is None else {k: round(n * scale) for k, n in sizes.items()}, sample, False
    return sizes, sample, True


def _is_remote(settings: Any) -> bool:
    """Whether any source among plain settings is on the hub: to read of it would fetch and keep it."""
    if isinstance(settings, list):
        return any(map(_is_remote, settings))
    if not isinstance(settings, dict):
        return False
    named = str(settings.get("class_path", "")).rpartition(".")[2] in _ON_THE_HUB
    path = (settings.get("init_args") or {}).get("path", "") if named else ""
    return (named and not Path(str(path)).expanduser().is_dir()) or any(map(_is_remote, settings.values()))
