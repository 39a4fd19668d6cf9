"""What a packing promises: settings, from which windows over a store are made."""

from abc import ABC, abstractmethod

from xlab.data.packing.windows import Layout, Windows
from xlab.data.token_reader import TokenReader


class Packing(ABC):
    """How documents become windows of one length, or batches of about equal size.

    A packing remembers its settings, and nothing else: making one reads no data. A class of your own needs no more
    than ``windows``.
    """

    @abstractmethod
    def windows(self, store: TokenReader, layout: Layout) -> Windows:
        """Make the windows over a store; what has to be planned for it is planned once, and kept in the cache.

        Raises:
            ConfigError: when the settings do not fit the layout.
            DataError: when the store gives no window, or is damaged.
        """

    def prepare(self, store: TokenReader, layout: Layout) -> None:  # noqa: B027 (without a plan there is nothing to do)
        """Do beforehand what takes time, where every process may do it, and one does."""

    def batch_size(self, asked: int) -> int:
        """Return how many items of the windows make a rank's micro-batch, where ``data.batch_size`` is ``asked``."""
        return asked
