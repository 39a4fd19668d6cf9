"""What can go wrong between XLab's formats and those of others."""

from xlab.errors import XLabError


class ConversionError(XLabError):
    """A model that the other side cannot say: the message names every part that has no equal."""
