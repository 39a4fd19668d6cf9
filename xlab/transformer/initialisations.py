"""How a decoder's weights begin, and how that bears on the rates at which they learn.

Letters: V vocabulary, D width, L layers.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.transformer.decoder import Decoder

# the projections that write to the residual stream, and those from the width to a number of things that stays as it is
RESIDUAL = ("out", "down")
READOUTS = ("output", "router")


class Initialisation:
    """Fills all of a decoder's parameters and fixed tables, also after ``to_empty`` left them without content.

    What projections and embeddings begin with is a subclass's to say, in ``fill``; biases begin at zero, and norms,
    positions and whatever else has a ``reset_parameters`` know themselves what they begin with.
    """

    def __call__(self, decoder: "Decoder") -> None:
        """Fill everything; the decoder calls this without gradients."""
        for name, module in decoder.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                self.fill(name, module.weight, decoder)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()
            elif module is not decoder and callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    def fill(self, name: str, weight: Tensor, decoder: "Decoder") -> None:
        """Fill the weight of a projection, (outputs, inputs), or of an embedding, (V, D).

        Args:
            name: of its module within the decoder, such as ``blocks.0.attention.out``.
            weight: to be filled in place.
            decoder: it belongs to.
        """
        raise NotImplementedError

    def learning_rate_factor(self, name: str, parameter: Tensor, decoder: "Decoder") -> float:
        """Tell by what the optimiser's learning rate is to be multiplied for a parameter.

        Args:
            name: of the parameter within the decoder, such as ``blocks.0.attention.out.weight``.
            parameter: itself.
            decoder: it belongs to.
        """
        return 1.0


class GPT2Initialisation(Initialisation):
    """Weights normal, those that write to the residual stream smaller (Radford et al. 2019, section 2.3).

    The projections ``out`` and ``down`` are divided by √(2 L), since that many of their outputs add up.

    Args:
        std: standard deviation of all other weights.
    """

    def __init__(self, std: float = 0.02) -> None:
        _check_above_zero(std=std)
        self.std = std

    def fill(self, name: str, weight: Tensor, decoder: "Decoder") -> None:
        is_residual = name.rpartition(".")[2] in RESIDUAL
        weight.normal_(0.0, self.std / (2 * decoder.n_layers) ** 0.5 if is_residual else self.std)


class ZeroOutputInitialisation(Initialisation):
    """Each block begins as the identity: what writes to the residual stream is zero, as in nanochat (Karpathy 2025).

    Other matrices are uniform, of variance 1 / inputs (LeCun et al. 1998, Efficient BackProp, section 4.6): no weight
    begins as an outlier. Zero branches: Zhang et al. 2019, Fixup, arXiv 1901.09321. nanochat takes 1.0 for embeddings
    and 0.001 for an untied vocabulary projection; a tied table has but one deviation, and 1.0 would begin with logits
    far from even.

    Args:
        embedding_std: standard deviation of the embeddings of tokens and places, normal; left out, 1.0 if the
            vocabulary projection has a table of its own, 0.02 where it is theirs.
        output_std: standard deviation of an untied vocabulary projection, normal.
    """

    def __init__(self, embedding_std: float | None = None, output_std: float = 0.001) -> None:
        _check_above_zero(embedding_std=1.0 if embedding_std is None else embedding_std, output_std=output_std)
        self.embedding_std, self.output_std = embedding_std, output_std

    def fill(self, name: str, weight: Tensor, decoder: "Decoder") -> None:
        own_name = name.rpartition(".")[2]
        if name == "output":
            weight.normal_(0.0, self.output_std)
        elif own_name in RESIDUAL:
            weight.zero_()
        elif name in ("embedding", "position.table"):
            weight.normal_(0.0, self.embedding_std or (0.02 if decoder.output is None else 1.0))
        else:
            bound = (3 / weight.size(1)) ** 0.5  # the deviation of U(-b, b) is b / √3
            weight.uniform_(-bound, bound)


class MuPInitialisation(GPT2Initialisation):
    """Deviations and rates that let one learning rate serve every width (Yang et al. 2022, arXiv 2203.03466, table 3).

    At ``base_width`` this is GPT2Initialisation. m times wider, with m = D / base_width, for Adam and its kin:

    * matrices from width to width: deviation ÷ √m, rate ÷ m;
    * an untied vocabulary projection, and the routers of experts: deviation ÷ m, rate ÷ m;
    * embeddings, biases, norms: as they were.

    A tied table is an input and an output at once: its deviation and rate stay, and the model must divide the logits
    by m (table 8), with ``model.logit_scale``. Heads keep their width (``n_heads`` grows with D), or else attention's
    ``scale`` must be in proportion to 1 / head_dim. Depth, batch and length of the run are no part of it.

    Args:
        base_width: d_model at which the learning rate was found.
        std: standard deviation at that width.
    """

    def __init__(self, base_width: int, std: float = 0.02) -> None:
        super().__init__(std)
        _check_above_zero(base_width=base_width)
        self.base_width = base_width

    def __call__(self, decoder: "Decoder") -> None:
        needed = 1 / self._widening(decoder)
        if decoder.output is None and abs(decoder.logit_scale / needed - 1) > 1e-6:
            raise ConfigError(
                f"model.logit_scale is {decoder.logit_scale:g}; MuPInitialisation of tied embeddings needs "
                f"base_width / d_model, {needed:g}; set it, or model.tie_embeddings to false"
            )
        super().__call__(decoder)

    def fill(self, name: str, weight: Tensor, decoder: "Decoder") -> None:
        super().fill(name, weight, decoder)
        if self._reads_the_width(name, decoder):
            exponent = 1.0 if name.rpartition(".")[2] in READOUTS else 0.5
            weight.mul_(self._widening(decoder) ** -exponent)

    def learning_rate_factor(self, name: str, parameter: Tensor, decoder: "Decoder") -> float:
        module, _, own_name = name.rpartition(".")
        is_matrix = own_name == "weight" and self._reads_the_width(module, decoder)
        return 1 / self._widening(decoder) if is_matrix else 1.0

    def _reads_the_width(self, name: str, decoder: "Decoder") -> bool:
        """Whether a module is a projection of something as wide as the model; those of values' gates read a part."""
        in_place = name == "output" or name.startswith("blocks.")
        return in_place and isinstance(decoder.get_submodule(name), nn.Linear)

    def _widening(self, decoder: "Decoder") -> float:
        return decoder.embedding.embedding_dim / self.base_width


def _check_above_zero(**settings: float) -> None:
    for name, value in settings.items():
        if value <= 0:
            raise ConfigError(f"model.initialisation.{name} must be above 0, got {value}")
