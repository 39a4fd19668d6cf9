"""The size of the work in ``train_speed``, and what it costs in arithmetic."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What every contender computes in one step; the defaults are the workload of ``train_speed``."""

    n_layers: int = 6
    d_model: int = 384
    n_heads: int = 6
    d_ff: int = 1024
    vocab_size: int = 8192
    batch_size: int = 8
    seq_len: int = 256

    @property
    def tokens(self) -> int:
        """Tokens in one step."""
        return self.batch_size * self.seq_len

    @property
    def flops(self) -> float:
        """Multiplications and additions in the matrix products of one step, forward and backward.

        Two for each weight and token forward, twice that backward; the embedding is a look-up and counts nothing.
        Attention counts the causal half of its scores and of its sums of values.
        """
        weights = self.n_layers * (4 * self.d_model**2 + 3 * self.d_model * self.d_ff) + self.d_model * self.vocab_size
        attention = self.n_layers * 2 * self.d_model * self.seq_len
        return 3 * (2 * weights + attention) * self.tokens


TINY = Shape(n_layers=2, d_model=64, n_heads=2, d_ff=128, vocab_size=256, batch_size=2, seq_len=32)
