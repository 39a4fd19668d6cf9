"""The process that times a configuration's steps: it trains as ``./xlab.py fit`` would, but nothing is kept."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import IO, Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors

# over the user's settings: what would write, end the run early, or has no part in a step
OVERRIDES = (
    "--model.schedule=xlab.lab.plan_steps.StandStill",
    "--trainer.max_steps=-1",
    "--trainer.max_epochs=1",
    "--trainer.min_steps=null",
    "--trainer.min_epochs=null",
    "--trainer.max_time=null",
    "--trainer.limit_train_batches=1.0",
    "--trainer.val_check_interval=1.0",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.overfit_batches=0.0",
    "--trainer.fast_dev_run=false",
    "--trainer.logger=false",
    "--trainer.profiler=null",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--seconds", type=float, required=True)
@click.option("--memory-only", is_flag=True, help="As few steps as show how much memory they take.")
@click.option("--allow-module", multiple=True)
@click.option(DEBUG_OPTION, is_flag=True)
@click.argument("settings", nargs=-1, type=click.UNPROCESSED)
def main(
    seconds: float, memory_only: bool, allow_module: tuple[str, ...], debug: bool, settings: tuple[str, ...]
) -> None:
    """Time steps of a run with these SETTINGS; one JSON object goes to standard output."""
    began = time.time()
    _be_the_first_to_go()
    # libraries print: only the figures may reach the parent
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with one_line_errors("plan", debug=debug):
        from xlab import checkpoints

        for module in allow_module:
            checkpoints.allow_module(module)
        _train(list(settings), answer, seconds=seconds, memory_only=memory_only, began=began)


def _be_the_first_to_go() -> None:
    """Let Linux end this process, and no other, where memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _train(settings: list[str], answer: IO[str], *, seconds: float, memory_only: bool, began: float) -> None:
    import torch._dynamo  # noqa: F401 (an optimiser's first step would import it: that is no step's time or memory)
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from xlab.commands.fast import compile_where_it_pays
    from xlab.commands.lightning_cli import XLabCLI
    from xlab.commands.parser import OneLineParser
    from xlab.datamodules import XLabDataModule
    from xlab.errors import ConfigError
    from xlab.lab.plan_steps import Memory, RandomData, StepTimer, has_validation, of_a_step, time_checkpoint
    from xlab.models import XLabModel
    from xlab.training.peak import PeakFlops

    memory = Memory()
    timer = StepTimer(seconds, warm_up=1, least=1) if memory_only else StepTimer(seconds)

    class Steps(XLabCLI):
        """The settings of fit, from which a few steps are trained."""

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            super().parse_arguments(parser, args)
            trainer = self.config["fit"]["trainer"]
            self.validates = trainer["limit_val_batches"] != 0
            trainer["limit_val_batches"] = 1.0  # of what there is at random, not of the user's data
            trainer["callbacks"] = of_a_step(trainer["callbacks"])

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            self.save_config_callback = None  # there is no folder to save to
            own = self._get(self.config_init, "trainer").callbacks or []
            return LightningCLI.instantiate_trainer(self, **kwargs, callbacks=[*own, timer])

        def _run_subcommand(self, subcommand: str) -> None:
            trainer, data = self.trainer, self.datamodule
            batches = RandomData(
                data.hparams,
                self.model.vocab_size,
                accumulated=trainer.accumulate_grad_batches,
                with_validation=self.validates and has_validation(data),
            )
            # whether the run is long enough to be compiled, only the parent knows
            asked = self._get(self.config, "compile") is True
            compile_where_it_pays(asked, trainer, self.model, data, PeakFlops())
            trainer.fit(self.model, datamodule=batches)
            peak = memory.above(self.model.device)
            checkpoint, n_bytes = time_checkpoint(trainer, self.model)
            assert timer.started is not None
            figures = {
                "steps": timer.steps,
                "validation_batches": timer.validation_batches,
                "tokens_per_step": batches.rows
                * batches.seq_len
                * trainer.accumulate_grad_batches
                * trainer.world_size,
                "checkpoint": checkpoint,
                "checkpoint_bytes": n_bytes,
                "start": timer.started - began + timer.compiling,
                "peak_bytes": peak,
                "device": str(trainer.strategy.root_device),
                "world_size": trainer.world_size,
            }
            if trainer.is_global_zero:
                print(json.dumps(figures), file=answer, flush=True)

    try:
        Steps(
            XLabModel,
            XLabDataModule,
            args=["fit", *settings, *OVERRIDES],
            trainer_defaults={"use_distributed_sampler": False, "enable_model_summary": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=OneLineParser,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error


if __name__ == "__main__":
    main()
