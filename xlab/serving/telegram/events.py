"""Server-sent events out of bytes, however the network cuts them."""

from collections.abc import Iterator

EVENT_LIMIT = 1 << 20  # bytes in one event; no piece of text comes near it


class EventStream:
    """Collects bytes and gives each event's data when it is whole: html.spec.whatwg.org, 9.2.6.

    Raises:
        ValueError: from ``add``, if an event is too long or not UTF-8.
    """

    def __init__(self) -> None:
        self._line = b""
        self._data: list[bytes] = []

    def add(self, chunk: bytes) -> Iterator[str]:
        """The data of every event that ends in this chunk."""
        *lines, self._line = (self._line + chunk).split(b"\n")  # a CR before it is cut below; lone CRs nobody sends
        if len(self._line) + sum(map(len, self._data)) > EVENT_LIMIT:
            raise ValueError("an event is too long")
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line and self._data:
                yield b"\n".join(self._data).decode()
                self._data = []
            elif line.startswith(b"data:"):  # other fields and comments carry nothing here
                self._data.append(line.removeprefix(b"data:").removeprefix(b" "))
