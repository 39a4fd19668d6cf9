"""Progress bars over the documents of a corpus: drawn on a terminal, and kept out of logs."""

import os
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from xlab.data.splits import Assigned


def with_progress(documents: Iterator[Assigned], title: str, n_bytes: int | None) -> Iterator[Assigned]:
    """Pass documents on, and draw how far they are."""
    with progress_bar(title, n_bytes) as bar:
        for assigned in documents:
            yield assigned
            bar.update(assigned.n_bytes)


def progress_bar(title: str, n_bytes: int | None, bar_format: str | None = None) -> Any:
    """Return tqdm's bar of bytes; ``XLAB_PROGRESS`` decides whether it is drawn, or else the terminal."""
    forced = os.environ.get("XLAB_PROGRESS")
    disable = None if forced is None else forced == "0"
    return tqdm(
        total=n_bytes, desc=title, unit="B", unit_scale=True, leave=False, disable=disable, bar_format=bar_format
    )
