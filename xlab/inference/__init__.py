"""Text from a model: one generation loop, and the ways of choosing that drive it."""

from xlab.inference.beam_search import beam_search
from xlab.inference.engine import Engine, Handle
from xlab.inference.requests import BeamSettings, Completion, Piece, Request, Result, TokenLogprob
from xlab.inference.sampling import greedy_search, sample
from xlab.inference.speculation import DraftModel, PromptLookup

__all__ = [
    "BeamSettings",
    "Completion",
    "DraftModel",
    "Engine",
    "Handle",
    "Piece",
    "PromptLookup",
    "Request",
    "Result",
    "TokenLogprob",
    "beam_search",
    "greedy_search",
    "sample",
]
