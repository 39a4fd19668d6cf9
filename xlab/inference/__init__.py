"""Text from a model: one generation loop, and the ways of choosing that drive it."""

from xlab.inference.beam_search import beam_search
from xlab.inference.engine import Engine, Handle
from xlab.inference.requests import BeamSettings, Completion, Piece, Request, Result, TokenLogprob
from xlab.inference.sampling import greedy_search, sample

__all__ = [
    "BeamSettings",
    "Completion",
    "Engine",
    "Handle",
    "Piece",
    "Request",
    "Result",
    "TokenLogprob",
    "beam_search",
    "greedy_search",
    "sample",
]
