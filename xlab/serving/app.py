"""The HTTP service: which route does what."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from xlab import __version__
from xlab.serving import answers, docs_page, schemas
from xlab.serving.bodies import parse
from xlab.serving.chats import chat
from xlab.serving.completions import complete
from xlab.serving.errors import RequestError
from xlab.serving.gate import OPEN_PATHS, Guard, Reception, refusal_for, response_to
from xlab.serving.generated_texts import generate_texts
from xlab.serving.keys import Keys
from xlab.serving.openapi import TELLING, WRITING, describe, takes
from xlab.serving.openapi import answers as answering
from xlab.serving.pages import Pages
from xlab.serving.service import Service


def make_app(
    service: Service,
    *,
    keys: Keys,
    origins: Sequence[str] = (),
    is_local: bool = False,
    pages: Pages | None = None,
) -> FastAPI:
    """Make the application; its engine begins with it, and ends with it.

    Args:
        service: what it works with.
        keys: who may use it.
        origins: other sites whose pages may.
        is_local: whether it answers to this machine's own names alone.
        pages: the playground; None is XLab's own.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.runner.start()
        yield
        service.runner.close()

    app = FastAPI(
        title="XLab",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    _add_writing(app, service)
    _add_telling(app, service)
    _add_health(app, service)
    _add_pages(app, pages or Pages())
    _add_docs(app, is_guarded=bool(keys))
    app.add_exception_handler(RequestError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_middleware(Guard, keys=keys, is_local=is_local)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Reception, metrics=service.metrics)
    return app


def _add_writing(app: FastAPI, service: Service) -> None:
    limit = service.limits.body

    @app.post(
        "/v1/completions",
        **takes(schemas.CompletionBody),
        **answering(answers.CompletionAnswer, *WRITING, content="text/event-stream"),
    )
    async def completions(http: HttpRequest) -> Response:
        """Texts that go on from a prompt."""
        return await complete(service, await parse(http, schemas.CompletionBody, limit=limit), http)

    @app.post(
        "/v1/chat/completions",
        **takes(schemas.ChatBody),
        **answering(answers.ChatAnswer, *WRITING, content="text/event-stream"),
    )
    async def chat_completions(http: HttpRequest) -> Response:
        """The next message of a chat."""
        return await chat(service, await parse(http, schemas.ChatBody, limit=limit), http)

    @app.post("/generated_texts/", **takes(schemas.GeneratedTextsBody), **answering(answers.GeneratedTexts, *WRITING))
    async def generated_texts(http: HttpRequest) -> Response:
        """Texts, as the older service was asked for them."""
        return await generate_texts(service, await parse(http, schemas.GeneratedTextsBody, limit=limit), http)


def _add_telling(app: FastAPI, service: Service) -> None:
    def described() -> dict[str, Any]:
        model = {"id": service.model.name, "object": "model", "created": service.created, "owned_by": "xlab"}
        return {**model, "max_model_len": service.model.max_len}

    @app.get("/v1/models", **answering(answers.Models, *TELLING))
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [described()]}

    @app.get("/v1/models/{name:path}", **answering(answers.Model, 404, *TELLING))
    async def model(name: str) -> dict[str, Any]:
        """That model, by its name."""
        service.model.check_name(name)
        return described()

    @app.get("/model_card", **answering(answers.ModelCard, *TELLING))
    async def model_card() -> dict[str, Any]:
        """Size, context, data, validation figures and limits."""
        return service.model.card(service.limits)

    @app.get("/version/", **answering(answers.Version, *TELLING))
    async def version() -> dict[str, str]:
        """The versions of service and model."""
        return {"version": __version__, "model": service.model.name}

    @app.get("/metrics", response_class=PlainTextResponse, **answering(None, *TELLING))
    async def metrics() -> Response:
        """Prometheus's metrics."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_health(app: FastAPI, service: Service) -> None:
    described = answering(answers.Health)
    described["responses"][503] = {"model": answers.Health, "description": "Not now"}

    def state(is_well: bool) -> JSONResponse:
        runner = service.runner
        word = "ok" if is_well else "broken" if runner.is_broken else "draining"
        return JSONResponse({"status": word}, status_code=200 if is_well else 503)

    @app.get("/health/live", **described)
    async def live() -> JSONResponse:
        """Whether the process works; if not, restart it."""
        return state(not service.runner.is_broken)

    @app.get("/health/ready", **described)
    async def ready() -> JSONResponse:
        """Whether requests are taken; if not, send them elsewhere."""
        return state(service.runner.is_ready)

    @app.get("/health", **described)
    async def health() -> JSONResponse:
        """Both."""
        return state(service.runner.is_ready)

    @app.get("/health_check/", **described)
    async def health_check() -> JSONResponse:
        """The older service's."""
        return state(service.runner.is_ready)


def _add_pages(app: FastAPI, pages: Pages) -> None:
    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        """The playground."""
        return pages.response("index.html")

    @app.get("/playground/{name}", include_in_schema=False)
    async def playground_file(name: str) -> Response:
        """A file of the playground."""
        return pages.response(name)


def _add_docs(app: FastAPI, *, is_guarded: bool) -> None:
    @cache
    def document() -> dict[str, Any]:
        return describe(app, is_guarded=is_guarded, open_paths=sorted(OPEN_PATHS))

    app.openapi = document  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        """The OpenAPI document."""
        return JSONResponse(document())

    @app.get("/docs", include_in_schema=False)
    async def docs(http: HttpRequest) -> HTMLResponse:
        """The same, to be read."""
        return HTMLResponse(docs_page.page(document(), str(http.base_url).rstrip("/")), headers=docs_page.HEADERS)


async def _refuse(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return response_to(error)


async def _refuse_http(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = response_to(refusal_for(error.status_code, http.scope["path"], http.method))
    answer.headers.update(error.headers or {})
    return answer
