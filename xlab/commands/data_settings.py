"""The settings of fit, for commands that need them, or a corpus, and no model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.commands.lightning_cli import XLabCLI
    from xlab.data.meta import Meta
    from xlab.data.tokenizers import TokenizerRecipe
    from xlab.datamodules import XLabDataModule

# what click does not know goes on to the settings
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


def settings_only(words: Sequence[str]) -> "XLabCLI":
    """Read the settings that fit would have with these words, and make nothing of them.

    Returns:
        The command line, whose ``config["fit"]`` they are.

    Raises:
        ConfigError: for settings that cannot be.
    """
    from xlab.commands.lightning_cli import XLabCLI
    from xlab.commands.parser import OneLineParser
    from xlab.datamodules import XLabDataModule
    from xlab.models import XLabModel

    class SettingsOnly(XLabCLI):
        """The settings of fit, from which nothing is made."""

        def _set_seed(self) -> None:
            """Draw nothing, and say nothing of it."""

        def instantiate_classes(self) -> None:
            """Make nothing."""

        def _run_subcommand(self, subcommand: str) -> None:
            """Run nothing."""

    return SettingsOnly(
        XLabModel,
        XLabDataModule,
        args=["fit", *words],
        trainer_defaults={"use_distributed_sampler": False, "enable_model_summary": False},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=OneLineParser,
    )


def data_of(settings: tuple[str, ...]) -> "XLabDataModule":
    """Make the datamodule that fit would make with these settings, and no model; no corpus is read.

    Raises:
        ConfigError: for settings that cannot be.
    """
    return data_from(settings_only(settings))


def data_from(cli: "XLabCLI") -> "XLabDataModule":
    """Make the datamodule of settings that ``settings_only`` has read.

    Raises:
        ConfigError: for settings that cannot be.
    """
    from jsonargparse import Namespace

    from xlab.commands.parser import OneLineParser
    from xlab.datamodules import XLabDataModule

    parser = OneLineParser()
    parser.add_lightning_class_args(XLabDataModule, "data")
    data = cli.config["fit"]["data"]
    made: XLabDataModule = parser.instantiate_classes(Namespace(data=data)).data  # type: ignore[no-untyped-call]
    return made


def refuse_prefixes(datamodule: "XLabDataModule") -> None:
    """Raise a ConfigError when the settings name tokens that are prepared already, and no corpus is read for them."""
    if datamodule.prefixes:
        split = next(iter(datamodule.prefixes))
        raise ConfigError(f"data.{split}_data_prefix names tokens that are prepared already; leave it out")


def recipe_and_meta(datamodule: "XLabDataModule") -> tuple["TokenizerRecipe", "Meta | None"]:
    """Return how a datamodule comes by its tokenizer, and how meta come before its documents."""
    from xlab import factories
    from xlab.data.meta import Meta
    from xlab.data.tokenizers.recipe import WithSeparator

    recipe = factories.build(datamodule.hparams["tokenizer"])
    settings = datamodule.hparams.get("meta")
    return (recipe, None) if settings is None else (WithSeparator(recipe), Meta(**settings))
