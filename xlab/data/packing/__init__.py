"""Token streams become windows: a class for each way, with the document ends where it puts them."""

from xlab.data.packing.contiguous import ContiguousWindows, StreamWindows
from xlab.data.packing.documents import (
    BestFit,
    OneDocument,
    PlannedBatches,
    PlannedPacking,
    PlannedWindows,
    TokenBudget,
)
from xlab.data.packing.packing import Packing
from xlab.data.packing.windows import IGNORED, Batch, GivenPlaces, Layout, PiecedWindows, Pieces, Windows, as_is

__all__ = [
    "IGNORED",
    "Batch",
    "BestFit",
    "ContiguousWindows",
    "GivenPlaces",
    "Layout",
    "OneDocument",
    "Packing",
    "PiecedWindows",
    "Pieces",
    "PlannedBatches",
    "PlannedPacking",
    "PlannedWindows",
    "StreamWindows",
    "TokenBudget",
    "Windows",
    "as_is",
]
