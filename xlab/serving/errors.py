"""What a service cannot do: start, or answer a request; the latter in the form that OpenAI's clients read."""

from typing import Any

from xlab.errors import XLabError

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ServingError(XLabError):
    """A service that cannot be started as it was asked to be."""


class RequestError(XLabError):
    """A request that is answered with an error.

    Args:
        message: one line: what was wrong, its value, what to do.
        status: HTTP's.
        param: the field of the request that it is about.
        code: a word for programs.
        retry_after: seconds after which it may be worth another try.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code, self.retry_after = message, status, param, code, retry_after

    def as_json(self) -> dict[str, Any]:
        """The body of the answer, and of the last event of a stream that fails."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What the answer's head says beside its status."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def engine_failed() -> RequestError:
    """What a client is told of a fault that is not its own; the log has the rest."""
    return RequestError(
        "the engine failed on this request; the server's log says why", status=500, code="engine_failed"
    )
