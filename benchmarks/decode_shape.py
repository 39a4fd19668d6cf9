"""The sizes of the work in ``decode_speed``: models, prompts, texts, and the matrix products that they need."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama that every contender builds with random weights.

    Attributes:
        tied: whether the vocabulary projection is the embedding's own matrix.
        prompt_len: tokens of each prompt.
        new_tokens: tokens to add to each.
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_ff: int
    vocab_size: int
    tied: bool
    prompt_len: int = 32
    new_tokens: int = 128

    @property
    def max_len(self) -> int:
        """Of prompt and new tokens together."""
        return self.prompt_len + self.new_tokens

    @property
    def layer_products(self) -> list[tuple[int, int]]:
        """Outputs and inputs of a layer's products: queries with keys and values, out, gate with up, down."""
        head_dim = self.d_model // self.n_heads
        qkv = (self.n_heads + 2 * self.n_kv_heads) * head_dim
        return [
            (qkv, self.d_model),
            (self.d_model, self.d_model),
            (2 * self.d_ff, self.d_model),
            (self.d_model, self.d_ff),
        ]

    @property
    def parameters(self) -> int:
        """Of the whole model, norms included."""
        products = self.n_layers * sum(n * k for n, k in self.layer_products)
        return products + (2 * self.n_layers + 1) * self.d_model + (2 - self.tied) * self.vocab_size * self.d_model


@dataclass(frozen=True)
class Work:
    """What is done with a model in one turn: ``batch_size`` prompts, each with ``beams`` beams; 1 is greedy."""

    batch_size: int
    beams: int = 1

    @property
    def rows(self) -> int:
        """Tokens that a decode step feeds."""
        return self.batch_size * self.beams


SHAPES = {
    "train_speed": Shape(6, 384, 6, 6, 1024, 8192, tied=False),
    "135m": Shape(30, 576, 9, 3, 1536, 49152, tied=True),
}
TINY = Shape(2, 32, 4, 2, 48, 128, tied=True, prompt_len=4, new_tokens=6)
WORKS = {"greedy-1": Work(1), "greedy-8": Work(8), "beam-4": Work(1, beams=4)}
