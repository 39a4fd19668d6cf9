"""Text from a model: one generation loop, and the three ways of choosing that drive it."""

from xlab.inference.beam_search import beam_search
from xlab.inference.sampling import greedy_search, sample

__all__ = ["beam_search", "greedy_search", "sample"]
