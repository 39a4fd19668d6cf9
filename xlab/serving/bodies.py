"""Read a request's body, and make of it what was asked, or one line that says what is wrong."""

from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from xlab.serving.errors import RequestError

Body = TypeVar("Body", bound=BaseModel)


async def parse(request: Request, kind: type[Body], *, limit: int) -> Body:
    """Read the body as JSON of ``kind``.

    Args:
        request: whose body was not read yet.
        kind: the schema.
        limit: the most bytes that are read.

    Raises:
        RequestError: naming the field.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":  # also what keeps other sites' forms from reaching a local server
        raise RequestError(
            f"the Content-Type is {media[:60]!r}; send JSON, and say so: Content-Type: application/json", status=415
        )
    content = await _read(request, limit)
    try:
        value = pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError as error:  # cut short, no UTF-8, nested too deeply, NaN, half a surrogate pair
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"the body must be a JSON object, got {_kind(value)}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise refusal_of(error) from None


async def _read(request: Request, limit: int) -> bytes:
    too_large = RequestError(
        f"the body is larger than {limit} bytes; send less at a time", status=413, code="too_large"
    )
    if int(request.headers.get("content-length", "0")) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def refusal_of(error: ValidationError) -> RequestError:
    """Put the first field that is wrong into one line."""
    found = error.errors(include_url=False)
    # of a union's alternatives the one that went furthest, and one of the right type, was meant
    own = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    first = max(own, key=lambda one: (len(_place(one["loc"])), not one["type"].endswith("_type")))
    param = ".".join(_place(first["loc"])) or None
    if first["type"] == "extra_forbidden":
        return RequestError(f"there is no field {param!r}; leave it out", param=param, code="unknown_field")
    if first["type"] == "missing":
        return RequestError(f"the field {param!r} is missing", param=param, code="missing_field")
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return RequestError(f"{param} {message}" if message.startswith("must") else message, param=param)
    message = first["msg"][:1].lower() + first["msg"][1:]
    return RequestError(
        f"{param or 'the body'}: {message}; got {_kind(first['input'])}", param=param, code=first["type"]
    )


def _place(location: tuple[int | str, ...]) -> list[str]:
    """Where it is; a union's alternatives stand there too, by names that say nothing to a client."""
    parts = [str(part) for part in location]
    return [part for part in parts if part.isdigit() or (part.isidentifier() and part not in {"str", "int"})]


def _kind(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
