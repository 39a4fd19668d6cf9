"""HTTP connections that end by themselves when the other side neither sends nor reads."""

import asyncio
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from xlab.serving.errors import RequestError

ARRIVAL = 30.0  # seconds that a request may take to arrive whole, and a new connection to begin one
STALL = 30.0  # seconds for which a client may leave what is sent to it unread


class Connection(H11Protocol):
    """uvicorn's, with a limit to how long a request may take to arrive, and its answer may lie unread.

    Class attributes:
        arrival: seconds from a request's first byte to its last, and from a connection to its first request.
        stall: seconds for which nothing of an answer may be read.
    """

    arrival, stall = ARRIVAL, STALL
    _arriving: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # finds peers that vanished without a word
        self._arriving = self.loop.call_later(self.arrival, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
            self._arriving = _off(self._arriving)
        elif self._arriving is None:
            self._arriving = self.loop.call_later(self.arrival, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.stall, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled = _off(self._stalled)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._arriving, self._stalled = _off(self._arriving), _off(self._stalled)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: a client that would like another protocol is answered in this one."""

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # an early answer was given: it was the last
            self.transport.close()
            return
        body = json.dumps(RequestError(f"this is not HTTP as it should be: {msg}").as_json()).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        events: list[Any] = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _off(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
