"""XLabDataModule: from a source of documents to the batches that Lightning asks for."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from xlab import checkpoints, factories
from xlab.data.packing import Batch, ContiguousWindows, as_is
from xlab.data.preparation import PreparedData, prepare
from xlab.data.sampler import EvalBatchSampler, TrainBatchSampler
from xlab.data.sources import PythonDocs, Source
from xlab.data.splits import Corpus
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerRecipe
from xlab.errors import CheckpointError, ConfigError, DataError, XLabError


@dataclass
class Splits:
    """Shares of the documents, decided by a hash of each: at most 1 together; what is left over is not used.

    Args:
        train: share that the model and the tokenizer are trained on.
        val: share that is looked at during training.
        test: share for the final figure.
        predict: share whose beginnings `predict` continues.
    """

    train: float = 0.9
    val: float = 0.05
    test: float = 0.025
    predict: float = 0.025


class CheckpointTokenizer(TokenizerRecipe):
    """The tokenizer that a checkpoint carries.

    Args:
        path: a ``.ckpt``, a ``.pt``, or a run folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def tokenizer(self) -> Tokenizer:
        """Read it."""
        return Tokenizer.from_json(checkpoints.read(self.path).tokenizer)

    def vocab_size_of(self, asked: int | None) -> int:
        size = len(self.tokenizer())
        if asked is not None and asked != size:
            raise ConfigError(f"data.vocab_size is {asked}, but the tokenizer of {self.path} has {size} tokens")
        return size

    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        return self.tokenizer()

    def identity(self) -> str:
        return self.tokenizer().fingerprint


class Prompts(Dataset[Batch]):
    """The beginning of each document of a split, one a batch, and how far to continue it."""

    def __init__(self, prepared: PreparedData, split: str, prompt_len: int, max_new_tokens: int) -> None:
        self._store = prepared.store(split)
        self._eos_id = prepared.tokenizer.eos_id
        self._prompt_len = prompt_len
        self._max_new_tokens = max_new_tokens

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> Batch:
        # the start and the first tokens, never the end: there would be nothing to continue
        tokens = self._store.document(index)[:-1][: 1 + self._prompt_len]
        numbers = {"index": index, "max_new_tokens": self._max_new_tokens, "eos_id": self._eos_id}
        return {"prompt": torch.tensor(tokens.tolist())} | {key: torch.tensor(value) for key, value in numbers.items()}


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
        seq_len: int = 256,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        prompt_len: int = 32,
        max_new_tokens: int = 64,
        cache_dir: str = ".cache",
    ) -> None:
        """Take the settings; no corpus is read before ``prepare_data``.

        Args:
            source: PythonDocs, TextFiles, JsonLines, HubDataset: where the documents come from, divided by splits.
            val_source: documents to validate on, if they are not a share of source.
            test_source: documents to test on, if they are not a share of source.
            predict_source: documents whose beginnings are continued, if they are not a share of source.
            splits: shares of source; splits with a source of their own take no part.
            tokenizer: ByteLevelBPE, trained on the training documents, or TokenizerFile.
            vocab_size: tokens in a vocabulary that is trained; a ready tokenizer brings its own.
            seq_len: tokens in a window; also the model's context.
            batch_size: windows in a micro-batch, on each rank.
            num_workers: processes that load batches; 0 loads in the training process.
            seed: fixes the order of the training windows, and nothing else.
            prompt_len: tokens of each document that `predict` continues.
            max_new_tokens: how long its continuations get.
            cache_dir: where tokenizers and prepared tokens are kept; it can be deleted at any time.

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
        if isinstance(settings.get("splits"), Splits):
            settings["splits"] = asdict(settings["splits"])
        self._set_hparams(factories.plain(settings, "data"))
        own_sources = {"val": val_source, "test": test_source, "predict": predict_source}
        self.corpus = Corpus(
            source, asdict(splits), {split: own for split, own in own_sources.items() if own is not None}
        )
        self._recipe = tokenizer
        self.vocab_size = tokenizer.vocab_size_of(vocab_size)
        self._prepared: PreparedData | None = None
        self._tokenizer: Tokenizer | None = None
        self._resumed_at: tuple[int, int] | None = None

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
            settings = {key: _instance(key, value) for key, value in checkpoint.data.items()}
            datamodule = cls(**{**settings, "tokenizer": recipe, "vocab_size": len(made), **changes})
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
    def prepared(self) -> PreparedData:
        """The stores, the tokenizer and their description, after ``prepare_data``."""
        if self._prepared is None:
            raise DataError("the data are not prepared yet; call prepare_data() first")
        return self._prepared

    def prepare_data(self) -> None:
        """Read the corpus, train the tokenizer and store the tokens, unless the cache has them.

        Any number of processes may call this at the same time: one works, the others wait on a lock file.
        """
        self._prepared = prepare(
            self.corpus,
            self._tokenizer or self._recipe,
            cache_dir=self.hparams["cache_dir"],
            vocab_size=self.vocab_size,
        )

    def state_dict(self) -> dict[str, Any]:
        """Give the place in the order of the windows that a checkpoint is taken at."""
        if self.trainer is None:
            return {}
        return {
            "epoch": self.trainer.current_epoch,
            "batch": self.trainer.fit_loop.epoch_loop.batch_progress.current.ready,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember that place; Lightning restores its own counters later than it may ask for the loader."""
        self._resumed_at = (int(state_dict["epoch"]), int(state_dict["batch"]))

    def setup(self, stage: str) -> None:
        """Open the prepared tokens on this rank."""
        if self._prepared is None:
            self.prepare_data()  # finds what another rank has made

    def train_dataloader(self) -> DataLoader[Batch]:
        windows = self._windows("train")
        sampler = TrainBatchSampler(
            len(windows), self.hparams["batch_size"], **self._ranks(), seed=self.hparams["seed"]
        )
        if self._resumed_at is not None:  # after --ckpt_path, the epoch goes on where the checkpoint was taken
            sampler.resume(*self._resumed_at)
        return self._loader(windows, sampler)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if not self.prepared.n_documents("val") and "val" not in self.corpus.split_sources:
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
        prompts = Prompts(self.prepared, "predict", self.hparams["prompt_len"], self.hparams["max_new_tokens"])
        return DataLoader(prompts, batch_size=1)

    def _windows(self, split: str) -> ContiguousWindows:
        tokenizer = self.prepared.tokenizer
        return ContiguousWindows(
            self.prepared.store(split),
            self.hparams["seq_len"],
            pad_id=tokenizer.pad_id,
            sos_id=tokenizer.sos_id,
            byte_lengths=tokenizer.byte_lengths(),
            split=split,
        )

    def _eval_loader(self, split: str) -> DataLoader[Batch]:
        windows = self._windows(split)
        return self._loader(windows, EvalBatchSampler(len(windows), self.hparams["batch_size"], **self._ranks()))

    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _loader(self, windows: ContiguousWindows, sampler: TrainBatchSampler | EvalBatchSampler) -> DataLoader[Batch]:
        workers = self.hparams["num_workers"]
        return DataLoader(
            windows,
            batch_sampler=sampler,
            collate_fn=as_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # its own: an iterator that starts draws a seed, and dropout must not notice
        )


def _instance(name: str, settings: Any) -> Any:
    """Make the object that one of the datamodule's plain settings stands for."""
    if name == "splits":
        return Splits(**settings)
    try:
        made = factories.build(settings) if isinstance(settings, dict) and "class_path" in settings else settings
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"the checkpoint's data.{name} cannot be built: {error}") from error
    if name.endswith("source") and not isinstance(made, Source | None):
        raise CheckpointError(f"data.{name} is {settings!r}, which is no source of documents")
    return made
