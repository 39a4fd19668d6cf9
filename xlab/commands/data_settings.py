"""The data settings of fit, for commands that need a corpus and no model."""

from typing import TYPE_CHECKING

from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.data.meta import Meta
    from xlab.data.tokenizers import TokenizerRecipe
    from xlab.datamodules import XLabDataModule

# what click does not know goes on to the settings
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


def data_of(settings: tuple[str, ...]) -> "XLabDataModule":
    """Make the datamodule that fit would make with these settings, and no model; no corpus is read.

    Raises:
        ConfigError: for settings that cannot be.
    """
    from jsonargparse import Namespace

    from xlab.commands.lightning_cli import XLabCLI
    from xlab.commands.parser import OneLineParser
    from xlab.datamodules import XLabDataModule
    from xlab.models import XLabModel

    class DataOnly(XLabCLI):
        """The settings of fit, from which nothing but the data are made."""

        def instantiate_classes(self) -> None:
            parser = OneLineParser()
            parser.add_lightning_class_args(XLabDataModule, "data")
            settings = Namespace(data=self._get(self.config, "data"))  # type: ignore[no-untyped-call]
            self.datamodule = parser.instantiate_classes(settings).data

        def _run_subcommand(self, subcommand: str) -> None:
            """Run nothing."""

    cli = DataOnly(
        XLabModel,
        XLabDataModule,
        args=["fit", *settings],
        trainer_defaults={"use_distributed_sampler": False, "enable_model_summary": False},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=OneLineParser,
    )
    datamodule: XLabDataModule = cli.datamodule
    return datamodule


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
