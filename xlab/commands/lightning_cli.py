"""XLabCLI: LightningCLI with XLab's layers of settings, checkpoints, run folders and closing words."""

import contextlib
import json
import logging
import re
import sys
import warnings
from argparse import SUPPRESS
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.rank_zero import rank_zero_only

from xlab import checkpoints, sharded_checkpoints
from xlab.checkpoint_files import WholeFiles
from xlab.commands.callbacks import ContinuationWriter, InterruptNotice, shown
from xlab.commands.console import INTERRUPTED, TERMINATED
from xlab.commands.fast import CompiledAlike, choose, compile_where_it_pays, line
from xlab.commands.launch import RunOfLaunch, a_lost_rank_in_one_line, gone_on, ranks_of_torchrun
from xlab.commands.layers import LINKS, layered, resumable
from xlab.commands.parser import OneLineParser, raise_own_words
from xlab.commands.train import SUMMARIES
from xlab.datamodules import XLabDataModule
from xlab.errors import ConfigError, XLabError
from xlab.lab.run_folder import Run
from xlab.models import XLabModel
from xlab.strategies import Sharded
from xlab.training.callbacks import (
    BestAndLast,
    LearningRates,
    Progress,
    SpikePolicy,
    StopAtSpike,
    Throughput,
    ValidateAtEnd,
)
from xlab.training.checkpointing import remove_leftovers
from xlab.training.loggers import JsonLinesLogger, RunLogger, TensorBoard
from xlab.training.peak import PeakFlops
from xlab.training.run_record import RunRecord

RUNS = Path("logs")


class XLabCLI(LightningCLI):
    """fit, validate, test and predict, each configured by layers of YAML and the command line.

    The layers, each over the one before: ``conf/defaults.yaml``; the data settings of a checkpoint that is given; the
    user's ``-c`` files and options; and what a checkpoint decides alone (its architecture and its tokenizer).
    """

    _run_folder: Path | None = None
    _peak: PeakFlops

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        # weights_only is always true; what is predicted goes to a file
        skipped = {"weights_only", "verbose", "return_predictions"}
        return {name: arguments | skipped for name, arguments in LightningCLI.subcommands().items()}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        # an abbreviated option would be a misspelt one that happens to work
        return super().init_parser(allow_abbrev=False, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for target, source in LINKS.items():
            # a vocabulary's size is the tokenizer's, known when the datamodule stands
            when = "instantiate" if source == "data.vocab_size" else "parse"
            parser.link_arguments(source, target, apply_on=when)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        help_text = "Compile training steps: true, false, or auto: where the run is long enough for it to pay."
        if subcommand != "fit":  # a run's config.yaml may be given to all of them
            help_text = SUPPRESS
        parser.add_argument("--compile", type=bool | Literal["auto"], default="auto", help=help_text)
        if subcommand in ("validate", "test"):
            parser.add_argument("--json", type=str | None, default=None, help="File to write the figures to.")
        if subcommand == "predict":
            help_text = "File of the continuations, a JSON line a document."
            parser.add_argument("--output", type=str, default="predictions.jsonl", help=help_text)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        subcommand, *given = args
        if subcommand == "fit":
            given = gone_on(given)
        self.config = parser.parse_args(layered(subcommand, given))
        if subcommand == "fit":
            choose(self.config[subcommand])

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise ConfigError(f"seed_everything: {error}") from error

    def _parse_ckpt_path(self) -> None:
        """Do nothing: a checkpoint's settings are a layer of the arguments already."""

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except XLabError:
            raise
        except ValueError as error:
            raise_own_words(error)
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        asked = self._get(self.config_init, "trainer")
        for name in ("accumulate_grad_batches", "val_check_interval"):
            value = getattr(asked, name)
            if isinstance(value, int | float) and value <= 0:
                raise ConfigError(f"trainer.{name} must be above 0, got {value}")
        if asked.gradient_clip_val is not None and asked.gradient_clip_val < 0:
            raise ConfigError(
                f"trainer.gradient_clip_val must be at least 0, got {asked.gradient_clip_val}; null clips nothing"
            )
        if self.subcommand == "fit" and asked.max_steps == -1 and asked.max_epochs is None and asked.max_time is None:
            raise ConfigError("the run has no end; set trainer.max_steps, trainer.max_epochs or trainer.max_time")
        if asked.use_distributed_sampler:
            raise ConfigError("trainer.use_distributed_sampler must stay false: XLab's windows know their rank")
        loggers: list[Logger] | bool = False
        own: list[Callback] = [] if asked.enable_progress_bar is False else [Progress()]
        if self.subcommand != "fit":
            self.save_config_callback = None  # only training makes a run's folder
        if self.subcommand == "fit":
            root = Path(asked.default_root_dir or ".")
            folder = self._run_folder = new_run_folder(root)
            loggers = [JsonLinesLogger(str(folder)), *self._loggers(asked.logger, folder)]
            own += self._beside_training(folder, _listed(asked.callbacks), asked.enable_checkpointing is not False)
        if self.subcommand == "predict":
            own.append(ContinuationWriter(self._get(self.config, "output"), self.datamodule))
        kwargs |= {"logger": loggers, "callbacks": [*_listed(asked.callbacks), *own]}
        plugins = _listed(asked.plugins)
        files = [] if any(isinstance(plugin, CheckpointIO) for plugin in plugins) else [WholeFiles()]
        kwargs["plugins"] = [*plugins, *files]
        _refuse_strategy(asked.strategy)
        if asked.devices == "auto":
            kwargs |= ranks_of_torchrun()
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, MisconfigurationException) as error:  # an unknown strategy, and the like
            self._drop_empty_run()
            raise ConfigError(f"trainer: {error}") from error

    def _loggers(self, asked: Any, folder: Path) -> list[Logger]:
        chosen = [TensorBoard()] if asked in (None, True) else _listed(asked or None)
        try:
            for logger in chosen:
                if isinstance(logger, RunLogger):
                    logger.enter(folder)
        except Exception:
            self._drop_empty_run()
            raise
        return chosen

    def _beside_training(self, folder: Path, asked: list[Callback], keeps: bool) -> list[Callback]:
        """Give what every run has, but for what the user chose in another way."""
        path = self._get(self.config, "ckpt_path")
        earlier = Run(resumable(path).parent.parent).record if path else {}
        peak = self._peak = PeakFlops(earlier.get("peak"))
        own = [Throughput(peak), LearningRates(), ValidateAtEnd(), InterruptNotice()]
        own += [RunRecord(folder, path and str(path), peak), RunOfLaunch(folder), CompiledAlike(self.datamodule)]
        if not any(isinstance(callback, SpikePolicy) for callback in asked):
            own.append(StopAtSpike())
        if keeps and not any(isinstance(callback, BestAndLast) for callback in asked):
            own.append(BestAndLast())
        return own

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with a_lost_rank_in_one_line():
                super()._run_subcommand(subcommand)
        finally:
            self._drop_empty_run()

    def _drop_empty_run(self) -> None:
        """Remove the folder of a run that ended before it wrote anything; the first rank, which made it."""
        if self._run_folder is not None and getattr(rank_zero_only, "rank", 0) == 0:
            with contextlib.suppress(OSError):
                self._run_folder.rmdir()

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        path = self._get(self.config, "ckpt_path")
        kwargs: dict[str, Any] = {"model": self.model, "datamodule": self.datamodule, "weights_only": True}
        if subcommand == "fit":
            return kwargs | {"ckpt_path": path and str(resumable(path))}
        if path is None:
            raise ConfigError(f"{subcommand} needs a trained model; give --ckpt_path FILE_OR_RUN_FOLDER")
        checkpoint = checkpoints.read(path)
        checkpoints.fill(self.model.decoder, checkpoint)  # a .ckpt and an exported .pt alike
        self._warn_of_other_data(checkpoint)
        return kwargs | ({"verbose": False} if subcommand != "predict" else {"return_predictions": False})

    def before_fit(self) -> None:
        # every rank comes by here before there is a process group: one prepares, the others wait on its lock file
        self.datamodule.prepare_data()
        path = self._get(self.config, "ckpt_path")
        if path is not None:
            file = resumable(path)
            self._refuse_useless_resumption(checkpoints.read(file))
            if Run(file.parent.parent).status == "killed":
                remove_leftovers(file.parent)
                sharded_checkpoints.remove_leftovers(file.parent)
        self._introduce()
        self._compile()

    def before_validate(self) -> None:
        self.datamodule.prepare_data()

    before_test = before_predict = before_validate

    def after_fit(self) -> None:
        callback = self.trainer.checkpoint_callback
        if not self.trainer.is_global_zero or not isinstance(callback, BestAndLast):
            return
        path = callback.best_model_path or callback.last_model_path
        if not path:  # as in trainer.fast_dev_run
            return
        checkpoint = checkpoints.read(path)
        metrics = checkpoint.info["metrics"]
        print(f"\n{checkpoint.path.stem} checkpoint, of step {checkpoint.info['step']}:")
        print(table(metrics, "val") if "val/loss" in metrics else "no validation data to measure it on")
        print(f"checkpoint    {shown(checkpoint.path)}")
        prompt = '"The"' if self.datamodule.chat is None else '--ask "Who are you?"'
        print(f"next          ./infer.py {shown(checkpoint.path)} {prompt}")

    def after_validate(self) -> None:
        self._report("val")

    def after_test(self) -> None:
        self._report("test")

    def after_predict(self) -> None:
        print(self._get(self.config, "output"))

    @rank_zero_only
    def _report(self, split: str) -> None:
        figures = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        print(table(figures, split))
        path = self._get(self.config, "json")
        if path is not None:
            content = {name.partition("/")[2]: value for name, value in figures.items()}
            Path(path).write_text(json.dumps({"split": split, **content}, indent=2) + "\n", encoding="utf-8")

    @rank_zero_only
    def _introduce(self) -> None:
        data = self.datamodule.prepared.description["splits"]
        tokens = ", ".join(f"{split} {sizes['tokens']:,}" for split, sizes in data.items())
        weights = sum(weight.numel() for weight in self.model.decoder.parameters())
        print(f"model: {weights:,} parameters; tokens: {tokens}", file=sys.stderr)

    def _compile(self) -> None:
        config = self.config["fit"]
        reason = compile_where_it_pays(config["compile"], self.trainer, self.model, self.datamodule, self._peak)
        # what the run's configuration is to repeat, and a checkpoint to go on with
        config["compile"] = self.model.training_pass.is_compiled
        optimizer = self.model.hparams["optimizer"]
        told = line(str(self.trainer.precision), optimizer, compiled=config["compile"], reason=reason)
        rank_zero_only(print)(told, file=sys.stderr)

    def _refuse_useless_resumption(self, checkpoint: checkpoints.Checkpoint) -> None:
        step = checkpoint.info["step"]
        if 0 < self.trainer.max_steps <= step:
            raise ConfigError(
                f"the run of {checkpoint.path} is at step {step} already, and trainer.max_steps is "
                f"{self.trainer.max_steps}; set it higher to go on"
            )
        if self._same_data(checkpoint):
            return
        raise ConfigError(
            f"the corpus is not the one {checkpoint.path} was trained on, so its run cannot go on; restore the corpus "
            f"and its splits, or start a new run from the weights with --model.init_from {checkpoint.path}"
        )

    def _warn_of_other_data(self, checkpoint: checkpoints.Checkpoint) -> None:
        if not self._same_data(checkpoint):
            print(
                "note: the corpus is not the one the checkpoint was trained with; figures logged then will differ",
                file=sys.stderr,
            )

    def _same_data(self, checkpoint: checkpoints.Checkpoint) -> bool:
        return bool(checkpoint.info.get("data_fingerprint") == self.datamodule.fingerprint)


def run(subcommand: str, arguments: list[str], *, model: type[XLabModel] | None = None) -> None:
    """Run one of LightningCLI's subcommands with XLab's model and data.

    Args:
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: what stands behind it.
        model: the class to train, a subclass of XLabModel; XLabModel itself if not given.

    Raises:
        XLabError: for what the user can mend.
    """
    _quiet()
    try:
        XLabCLI(
            model or XLabModel,
            XLabDataModule,
            args=[subcommand, *arguments],
            trainer_defaults={"use_distributed_sampler": False, "enable_model_summary": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=OneLineParser,
            parser_kwargs={name: {"description": summary} for name, summary in SUMMARIES.items()},
        )
    except SIGTERMException:  # a SystemExit without a status, which a scheduler would take for a run that finished
        raise SystemExit(TERMINATED) from None
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning turned Ctrl-C into status 1
            raise SystemExit(INTERRUPTED) from None
        raise
    except MisconfigurationException as error:  # Lightning's own complaint about trainer settings
        raise ConfigError(f"trainer: {error}") from error


def _refuse_strategy(strategy: Any) -> None:
    """Refuse strategies that would train, or save, another thing than they seem to."""
    if isinstance(strategy, FSDPStrategy) or str(strategy).startswith("fsdp"):
        raise ConfigError(
            "trainer.strategy: FSDP of the first kind clips gradients by each rank's own norm; take FSDP2, "
            "-c conf/extra/fsdp.yaml"
        )
    if isinstance(strategy, ModelParallelStrategy) and not isinstance(strategy, Sharded):
        raise ConfigError(
            "trainer.strategy: ModelParallelStrategy writes checkpoints that have to be unpickled; take "
            "xlab.strategies.Sharded, as conf/extra/fsdp.yaml does"
        )


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given] if given is not None else []


def new_run_folder(root: Path = Path(".")) -> Path:
    """Make the first ``logs/version_N`` of ``root`` behind all there are; runs that start at once get one each.

    Ranks beside the first write nothing, and are only told a name.
    """
    runs = root / RUNS
    numbers = [int(match[1]) for path in runs.glob("version_*") if (match := re.fullmatch(r"version_(\d+)", path.name))]
    number = max(numbers, default=-1) + 1
    while getattr(rank_zero_only, "rank", 0) == 0:
        try:
            (runs / f"version_{number}").mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigError(f"cannot make a run's folder in {runs.absolute()}: {error.strerror}") from error
    return runs / f"version_{number}"


def table(figures: dict[str, float], split: str) -> str:
    """Lay out the figures of a split, a line each."""
    styles = {"loss": ".4f", "perplexity": ".2f", "bits_per_byte": ".4f", "accuracy": ".4f"}
    rows = [(name, figures[f"{split}/{name}"], style) for name, style in styles.items() if f"{split}/{name}" in figures]
    return "\n".join(f"{split + ' ' + name.replace('_', ' '):<20} {value:{style}}" for name, value, style in rows)


def _quiet() -> None:
    """Silence what Lightning says of every run, and keep its warnings that call for something."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for noise in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",  # a run's folder is new
        ".*The dirpath has changed.*",  # a resumed run has a folder of its own
        ".*smaller than the logging interval.*",  # it counts steps, whatever an epoch has of them
        ".*is not resumable.*",  # the sampler begins where the checkpoint was taken
        ".*Total length of `list` across ranks is zero.*",  # no validation data, as asked
        ".*LeafSpec.*",
        ".*treespec.*",
        ".*weights_only.*",
        r".*log\('(tokens|train_seconds)', \.\.\., sync_dist.*",  # the first rank's, of all
    ):
        warnings.filterwarnings("ignore", noise)
