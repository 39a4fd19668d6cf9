"""The OpenAPI document: what each route takes and answers, with examples that work."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from xlab import __version__
from xlab.serving import schemas
from xlab.serving.answers import ErrorAnswer

TELLING = (401, 500)  # how any route may fail
WRITING = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
BODIES: Sequence[type[BaseModel]] = (schemas.CompletionBody, schemas.ChatBody, schemas.GeneratedTextsBody)
REF = "#/components/schemas/{model}"
ABOUT = """\
A language model, as OpenAI's clients speak it. Fields that this server does not do are refused, not ignored.
Every route but the health ones wants an API key, if the server has any: `Authorization: Bearer KEY`.
"""


def answers(kind: type[BaseModel] | None, *failures: int, content: str | None = None) -> dict[str, Any]:
    """What a route answers: ``kind`` when it succeeds, errors of these statuses when not.

    Args:
        kind: None where it is no JSON.
        failures: statuses.
        content: another media type that success may have.
    """
    ok: dict[str, Any] = {"description": "Success"}
    if kind is not None:
        ok["model"] = kind
    if content is not None:
        ok["content"] = {content: {"schema": {"type": "string"}}}
    errors = {status: {"model": ErrorAnswer, "description": HTTPStatus(status).phrase} for status in failures}
    return {"responses": {200: ok, **errors}}


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """What a route takes: a JSON body of ``kind``."""
    values = kind.model_json_schema().get("examples", [])
    named = {f"example {number}": {"value": value} for number, value in enumerate(values, 1)}
    content = {"schema": {"$ref": REF.format(model=kind.__name__)}, "examples": named}
    return {"openapi_extra": {"requestBody": {"required": True, "content": {"application/json": content}}}}


def describe(app: FastAPI, *, is_guarded: bool, open_paths: Sequence[str]) -> dict[str, Any]:
    """Make the document of an application.

    Args:
        app: whose routes are described.
        is_guarded: whether a key is wanted.
        open_paths: routes that want none.
    """
    document = get_openapi(title="XLab", version=__version__, description=ABOUT, routes=app.routes)
    _, defined = models_json_schema([(kind, "validation") for kind in BODIES], ref_template=REF)
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(defined["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which is not what is answered here
        components["schemas"].pop(name, None)
    operations = [(path, operation) for path, of in document["paths"].items() for operation in of.values()]
    for _, operation in operations:
        operation["responses"].pop("422", None)
    if is_guarded:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        for path, operation in operations:
            if path in open_paths:
                operation["security"] = []
    return document


def example_of(operation: Mapping[str, Any]) -> list[Any]:
    """The examples of an operation's body."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return [example["value"] for example in content.get("examples", {}).values()]
