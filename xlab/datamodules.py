"""XLabDataModule: from a source of documents to the batches that Lightning asks for."""

import sys
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from xlab import checkpoints, factories
from xlab.checkpoint_data import CheckpointTokenizer, data_arguments
from xlab.data.chat import AnswerPlaces, Chat
from xlab.data.loader_workers import outlive_signals
from xlab.data.meta import Meta, MetaPlaces
from xlab.data.packing import Batch, ContiguousWindows, GivenPlaces, Layout, Packing, Windows, as_is
from xlab.data.place import batches_until, count_anew, refuse_another_order
from xlab.data.prefixes import PrefixedData, chat_beside, tokenizer_beside
from xlab.data.preparation import prepare
from xlab.data.prepared import StoredSplits
from xlab.data.prompts import Prompts
from xlab.data.ranks import data_ranks
from xlab.data.sampler import EvalBatchSampler, TrainBatchSampler
from xlab.data.sources import PythonDocs, Source
from xlab.data.splits import Corpus, Splits
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerRecipe
from xlab.data.tokenizers.recipe import WithSeparator
from xlab.errors import CheckpointError, ConfigError, DataError, XLabError

__all__ = ["CheckpointTokenizer", "Splits", "XLabDataModule"]


class XLabDataModule(LightningDataModule):
    """Documents, tokenizer, prepared tokens, and batches of packed windows."""

    def __init__(
        self,
        source: Source = PythonDocs(),  # noqa: B008 (it holds settings only, and reads nothing)
        val_source: Source | None = None,
        test_source: Source | None = None,
        predict_source: Source | None = None,
        splits: Splits = Splits(),  # noqa: B008
        tokenizer: TokenizerRecipe = ByteLevelBPE(),  # noqa: B008
        vocab_size: int | None = None,
        packing: Packing = ContiguousWindows(),  # noqa: B008
        document_mask: bool = False,
        seq_len: int = 256,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        prompt_len: int = 32,
        max_new_tokens: int = 64,
        cache_dir: str = ".cache",
        meta: Meta | None = None,
        chat: Chat | None = None,
        train_data_prefix: str | None = None,
        val_data_prefix: str | None = None,
        test_data_prefix: str | None = None,
        predict_data_prefix: str | None = None,
    ) -> None:
        """Take the settings; no corpus is read before ``prepare_data``.

        Args:
            source: PythonDocs, TextFiles, JsonLines, HubDataset, ChatRecords, PromptResponses: where the documents
                come from, divided by splits.
            val_source: documents to validate on, if they are not a share of source.
            test_source: documents to test on, if they are not a share of source.
            predict_source: documents whose beginnings are continued, if they are not a share of source.
            splits: shares of source; splits with a source of their own take no part.
            tokenizer: ByteLevelBPE, trained on the training documents, or TokenizerFile.
            vocab_size: tokens in a vocabulary that is trained; a ready tokenizer brings its own.
            packing: ContiguousWindows, BestFit, OneDocument, TokenBudget: how documents become windows and batches.
            document_mask: whether a document in a window sees nothing of the others, and its places count from its own
                beginning.
            seq_len: tokens in a window; also the model's context.
            batch_size: windows in a micro-batch, on each rank.
            num_workers: processes that load batches; 0 loads in the training process.
            seed: fixes the order of the training windows, and nothing else.
            prompt_len: tokens of each document that `predict` continues.
            max_new_tokens: how long its continuations get.
            cache_dir: where tokenizers and prepared tokens are kept; it can be deleted at any time.
            meta: how what is known about documents comes before their text; null leaves it out.
            chat: how conversations become tokens, and what of them counts; null refuses them.
            train_data_prefix: train on these tokens instead of a source: PREFIX.bin and PREFIX.idx, as prepare-data
                or Megatron-LM writes them, or a set of shards PREFIX-00000-of-00004.
            val_data_prefix: tokens to validate on.
            test_data_prefix: tokens to test on.
            predict_data_prefix: tokens whose documents' beginnings are continued.

        Raises:
            ConfigError: if a setting cannot mean anything.
            DataError: if a tokenizer file cannot be read.
        """
        super().__init__()
        at_least = {"seq_len": 1, "batch_size": 1, "num_workers": 0, "prompt_len": 0, "max_new_tokens": 0}
        given = {name: value for name, value in locals().items() if name in at_least}
        for name, least in at_least.items():
            if given[name] < least:
                raise ConfigError(f"data.{name} must be at least {least}, got {given[name]}")
        self.save_hyperparameters()  # under LightningCLI the configuration itself, in Python the arguments
        settings = dict(self.hparams)
        if chat is not None and meta is not None:
            raise ConfigError("data.chat and data.meta both say what stands before a text; leave one out")
        if chat is not None:
            if train_data_prefix is not None:
                chat = chat_beside(train_data_prefix, chat)
            settings["chat"] = chat = chat.settled(seq_len)
        for name in ("splits", "meta", "chat"):
            if isinstance(settings.get(name), Splits | Meta | Chat):
                settings[name] = asdict(settings[name])
        self._set_hparams(factories.plain(settings, "data"))
        if not isinstance(packing, Packing):
            raise ConfigError(f"data.packing is {packing!r}; give a packing, such as ContiguousWindows")
        self._packing = packing
        own_sources = {"val": val_source, "test": test_source, "predict": predict_source}
        self.corpus = Corpus(
            source, asdict(splits), {split: own for split, own in own_sources.items() if own is not None}
        )
        prefixes = {
            "train": train_data_prefix,
            "val": val_data_prefix,
            "test": test_data_prefix,
            "predict": predict_data_prefix,
        }
        self.prefixes = {split: prefix for split, prefix in prefixes.items() if prefix is not None}
        if self.prefixes:
            self._check_prefixes()
            tokenizer = tokenizer_beside(self.prefixes["train"], tokenizer)
        self.meta = meta
        self.chat = chat
        self._recipe = tokenizer if meta is None else WithSeparator(tokenizer)
        self.vocab_size = self._recipe.vocab_size_of(vocab_size)
        # where it was left open: Lightning logs model and data together, and would find two sizes
        self.hparams["vocab_size"] = self.vocab_size
        self._hparams_initial["vocab_size"] = self.vocab_size  # type: ignore[attr-defined]
        self._prepared: StoredSplits | None = None
        self._tokenizer: Tokenizer | None = None
        self._resumed_at: dict[str, int] | None = None
        self._n_windows = 0

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str, map_location: Any = None, **changes: Any
    ) -> "XLabDataModule":
        """Rebuild the datamodule of a ``.ckpt``, a ``.pt`` or a run folder, with its tokenizer; no corpus is read.

        Args:
            checkpoint_path: a local path.
            map_location: taken so that models and data are loaded by the same line; the data stay where they are.
            changes: settings to override.

        Raises:
            CheckpointError: if the file cannot be read.
        """
        checkpoint = checkpoints.read(checkpoint_path)
        made = checkpoints.restore_tokenizer(checkpoint)
        recipe = CheckpointTokenizer(str(checkpoint.path))
        try:
            datamodule = cls(**{**data_arguments(checkpoint), "tokenizer": recipe, "vocab_size": len(made), **changes})
        except XLabError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{checkpoint.path}: its settings make no data: {error}") from error
        datamodule._tokenizer = made
        return datamodule

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer: a checkpoint's, or the prepared one.

        Raises:
            DataError: before ``prepare_data``, if it has yet to be trained.
        """
        return self._tokenizer or self.prepared.tokenizer

    @property
    def fingerprint(self) -> str:
        """The digest of the documents that were prepared, and of the tokenizer."""
        return self.prepared.fingerprint

    @property
    def prepared(self) -> StoredSplits:
        """The stores and their tokenizer, after ``prepare_data``."""
        if self._prepared is None:
            raise DataError("the data are not prepared yet; call prepare_data() first")
        return self._prepared

    def prepare_data(self) -> None:
        """Read the corpus, train the tokenizer and store the tokens, unless the cache has them.

        Any number of processes may call this at the same time: one works, the others wait on a lock file. Tokens that
        are named by ``train_data_prefix`` are opened, and compared with the tokenizer.
        """
        self._prepared = self._made()
        for split in ("train", "val", "test"):
            if self._prepared.n_documents(split):
                self._packing.prepare(self._prepared.store(split), self._layout(split))

    def _made(self) -> StoredSplits:
        tokenizer = self._tokenizer or self._recipe
        if self.prefixes:
            return PrefixedData(self.prefixes, tokenizer, vocab_size=self.vocab_size, meta=self.meta, chat=self.chat)
        cache_dir, size = self.hparams["cache_dir"], self.vocab_size
        return prepare(self.corpus, tokenizer, cache_dir=cache_dir, vocab_size=size, meta=self.meta, chat=self.chat)

    def state_dict(self) -> dict[str, Any]:
        """Give the place in the order of the windows that a checkpoint is taken at, in windows of all ranks."""
        if self.trainer is None:
            return {}
        n_batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        at_once = self._batch_size() * self._ranks()["world_size"]
        place = {"place": n_batches * at_once, "windows_per_batch": at_once, "n_windows": self._n_windows}
        place["seed"] = self.hparams["seed"]
        return {"epoch": self.trainer.current_epoch, **place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember that place; Lightning restores its own counters later than it may ask for the loader."""
        self._resumed_at = {name: int(value) for name, value in state_dict.items()}

    def count_as_here(self, checkpoint: dict[str, Any]) -> None:
        """Turn a checkpoint's counts of micro-batches into those of this run, which may have other ranks and batches.

        Raises:
            DataError: when this run's micro-batches do not meet at the checkpoint's place.
        """
        state = checkpoint.get(type(self).__qualname__)
        if state is None or "windows_per_batch" not in state:  # of a run that knew no other world size
            return
        world_size = self._ranks()["world_size"]
        batches_until(state, self._batch_size(), world_size)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            count_anew(counts, state, self._batch_size() * world_size)

    def setup(self, stage: str) -> None:
        """Open the prepared tokens on this rank."""
        if self._prepared is None:
            self.prepare_data()  # finds what another rank has made
        if self._batch_size() != self.hparams["batch_size"] and self._ranks()["rank"] == 0:
            kind = type(self._packing).__name__
            print(f"note: {kind} makes the batches; data.batch_size is not used", file=sys.stderr)

    def train_dataloader(self) -> DataLoader[Batch]:
        windows = self.windows("train")
        self._n_windows = len(windows)
        accumulated = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        sampler = TrainBatchSampler(
            len(windows), self._batch_size(), **self._ranks(), seed=self.hparams["seed"], accumulated=accumulated
        )
        if self._resumed_at is not None:  # after --ckpt_path, the epoch goes on where the checkpoint was taken
            refuse_another_order(self._resumed_at, len(windows), self.hparams["seed"])
            # once an epoch could end amid an optimiser step, later than it does now
            batch = batches_until(self._resumed_at, self._batch_size(), self._ranks()["world_size"])
            sampler.resume(self._resumed_at["epoch"], min(batch, len(sampler)))
        return self._loader(windows, sampler)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self.prefixes and "val" not in self.prefixes:
            if self.trainer is not None and self.trainer.state.fn == "validate":
                raise DataError("there is no validation data: data.val_data_prefix is not set")
            return []
        if not self.prefixes and not self.prepared.n_documents("val") and "val" not in self.corpus.split_sources:
            if self.corpus.shares.get("val"):
                self.prepared.store("val")  # says that the share came out empty, and what to do
            if self.trainer is not None and self.trainer.state.fn == "validate":
                raise DataError("there is no validation data: data.splits.val is 0 and data.val_source is not set")
            return []
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        if self._ranks()["world_size"] > 1:
            raise ConfigError("predict writes one file in one process; set trainer.devices to 1")
        settings = self.hparams
        lengths = settings["prompt_len"], settings["max_new_tokens"]
        return DataLoader(Prompts(self.prepared, "predict", *lengths, meta=self.meta, chat=self.chat), batch_size=1)

    def _check_prefixes(self) -> None:
        """Refuse settings that stored tokens leave no use for."""
        if "train" not in self.prefixes:
            split = next(iter(self.prefixes))
            raise ConfigError(f"data.{split}_data_prefix goes with a data.train_data_prefix, which is not set")
        for split in self.corpus.split_sources:
            raise ConfigError(
                f"data.{split}_source is set beside data.train_data_prefix; prepare its documents with "
                f"./manage.py prepare-data, and set data.{split}_data_prefix"
            )

    def windows(self, split: str) -> Windows:
        """Give the windows that a split is read in: those a sampler orders, and whose ``report`` tells of waste.

        Raises:
            DataError: before ``prepare_data``, and when the split has no documents or gives no window.
        """
        return self._packing.windows(self.prepared.store(split), self._layout(split))

    def _layout(self, split: str) -> Layout:
        tokenizer = self.prepared.tokenizer
        return Layout(
            self.hparams["seq_len"],
            pad_id=tokenizer.pad_id,
            sos_id=tokenizer.sos_id,
            byte_lengths=tokenizer.byte_lengths(),
            split=split,
            is_evaluation=split != "train",
            with_documents=self.hparams["document_mask"],
            cache_dir=self.hparams["cache_dir"],
            given=self._given(split),
        )

    def _given(self, split: str) -> GivenPlaces | None:
        """Find what is given, not predicted; None where all of a document counts."""
        if self.chat is not None and not self.chat.prompt_in_loss:
            return AnswerPlaces(self.prepared.answers(split))
        if self.meta is not None and not self.meta.in_loss:
            return MetaPlaces.of(self.prepared.tokenizer, self.meta)
        return None

    def _batch_size(self) -> int:
        return self._packing.batch_size(self.hparams["batch_size"])

    def _eval_loader(self, split: str) -> DataLoader[Batch]:
        windows = self.windows(split)
        return self._loader(windows, EvalBatchSampler(len(windows), self._batch_size(), **self._ranks()))

    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        rank, world_size = data_ranks(self.trainer)
        return {"rank": rank, "world_size": world_size}

    def _loader(self, windows: Windows, sampler: TrainBatchSampler | EvalBatchSampler) -> DataLoader[Batch]:
        workers = self.hparams["num_workers"]
        return DataLoader(
            windows,
            batch_sampler=sampler,
            collate_fn=as_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=outlive_signals,
            generator=torch.Generator(),  # its own: an iterator that starts draws a seed, and dropout must not notice
        )
