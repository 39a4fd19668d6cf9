"""Request ids, logs, metrics, other sites, and answers where code fails."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_setup import KEY, SIZES, Running, request_bytes, running

from xlab import __version__
from xlab.serving import logs
from xlab.serving.answers import ChatAnswer, CompletionAnswer, GeneratedTexts, ModelCard, Models
from xlab.serving.keys import Keys


@pytest.fixture
def lines() -> Iterator[Any]:
    """What is logged, as objects."""
    stream = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("xlab.serving", "uvicorn")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    logs.set_up(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


def metrics_of(server: Running) -> dict[tuple[str, str], float]:
    text = httpx.get(server.url + "/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, sample.labels.get("route", "")): sample.value for sample in samples}


@pytest.mark.parametrize("given", ["abc-123", "A.b_c", "x" * 64])
def test_a_plain_request_id_is_kept(server: Running, given: str) -> None:
    answer = server.post(prompt="the", max_tokens=1, headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"] == given
    assert answer.json()["id"] == f"cmpl-{given}"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\x7f", "ä", '"', "a;b", "../x", "%0d%0aSet-Cookie:x"])
def test_another_request_id_is_replaced(server: Running, given: str) -> None:
    headers = [(b"x-request-id", given.encode("latin-1")), (b"content-type", b"application/json")]
    try:
        answer = httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers=headers)
    except httpx.LocalProtocolError:
        return
    if answer.status_code == 200:
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["x-request-id"] != given
    assert "set-cookie" not in answer.headers


def test_every_answer_has_an_id(server: Running) -> None:
    for path in ("/v1/models", "/nowhere", "/health", "/"):
        assert httpx.get(server.url + path).headers["x-request-id"]
    assert server.post(prompt=7).headers["x-request-id"]


def test_the_log_tells_how_but_not_what(checkpoint: Path, lines: Any) -> None:
    secret = "the cat's secret"
    with running(checkpoint, keys=Keys([KEY]), max_rows=1) as server:
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-ID": "one"}
        assert server.post(prompt=secret, max_tokens=3, headers=headers).status_code == 200
        assert (
            server.post(f"/v1/completions?key={KEY}", prompt=secret, headers={"X-Request-ID": "two"}).status_code == 401
        )
        httpx.get(server.url + "/v1/models/a%0d%0ab", headers=headers)
    logged = lines()
    assert all(line["level"] == "info" for line in logged), logged
    told = {line["id"]: line for line in logged if line["message"] == "request"}
    assert told["two"]["status"] == 401
    assert {"seconds", "client", "method", "path", "time"} <= told["one"].keys()
    text = json.dumps(logged)
    assert KEY not in text
    assert secret not in text
    first = next(line for line in logged if line.get("completion_tokens"))
    assert first["completion_tokens"] == 3
    assert first["queued_seconds"] <= first["first_token_seconds"]


def test_prompts_are_logged_where_that_is_asked_for(checkpoint: Path, lines: Any) -> None:
    with running(checkpoint, max_rows=1, log_prompts=True) as server:
        answer = server.complete(prompt="the cat", max_tokens=3)
    (line,) = [line for line in lines() if line["message"] == "request"]
    assert line["prompts"] == ["the cat"]
    assert line["texts"] == [answer["choices"][0]["text"]]


def test_code_that_fails_answers_in_words(checkpoint: Path, lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise KeyError("inner secret")

    with running(checkpoint, max_rows=1) as server:
        monkeypatch.setattr("xlab.serving.completions.prompts_of", fail)
        answer = server.post(prompt="the", headers={"X-Request-ID": "bad"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    (line,) = [line for line in lines() if line["level"] == "error"]
    assert line["id"] == "bad"
    assert "inner secret" in line["traceback"]


def test_metrics_count_what_happens(checkpoint: Path) -> None:
    with running(checkpoint, max_rows=2) as server:
        for _ in range(3):
            server.complete(prompt="the cat", max_tokens=5, min_tokens=5)
        server.post(prompt=7)
        httpx.get(server.url + "/no/such/route")
        found = metrics_of(server)
        engine = server.service.runner.engine
    route = "/v1/completions"
    assert found["xlab_request_seconds_count", route] == 4
    assert found["xlab_request_seconds_count", "other"] == 1
    assert found["xlab_generated_tokens_total", ""] == 15
    assert found["xlab_prompt_tokens_total", ""] == 3 * (1 + len(server.tokenizer.encode("the cat")))
    for name in ("first_token_seconds", "token_seconds", "queued_seconds"):
        assert found[f"xlab_{name}_count", ""] == 3
    assert found["xlab_rows", ""] == 2
    assert found["xlab_cache_tokens", ""] == 2 * SIZES["max_len"]
    assert found["xlab_cache_bytes", ""] == engine.cache_bytes
    assert found["xlab_texts", ""] == found["xlab_rows_used", ""] == found["xlab_cache_tokens_used", ""] == 0


def test_other_sites_are_let_in_only_by_name(checkpoint: Path, server: Running) -> None:
    asks = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(server.url + "/v1/completions", headers=asks).headers
    with running(checkpoint, max_rows=1, keys=Keys([KEY]), origins=("https://example.org",)) as named:
        allowed = httpx.options(named.url + "/v1/completions", headers=asks)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        other = httpx.options(named.url + "/v1/completions", headers={**asks, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = named.post(prompt="the", headers={"Origin": "https://example.org"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://example.org"  # its page can read why


def test_without_a_key_it_answers_to_this_machines_names_alone(checkpoint: Path) -> None:
    with running(checkpoint, max_rows=1, is_local=True) as server:
        for own in ("localhost", "LOCALHOST:8000", "127.0.0.1", f"127.0.0.1:{server.port}", "[::1]:80"):
            assert httpx.get(server.url + "/v1/models", headers={"Host": own}).status_code == 200
        for other in (
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
        ):
            refused = httpx.get(server.url + "/", headers={"Host": other})
            assert refused.status_code == 403
            assert refused.json()["error"]["code"] == "foreign_host"


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/metrics", "/nowhere"])
def test_head_answers_as_get_without_a_body(server: Running, path: str) -> None:
    whole, head = httpx.get(server.url + path), httpx.head(server.url + path)
    assert head.status_code == whole.status_code
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert not head.content


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/health", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/../../etc/passwd", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/models/toy%00", 404),
        ("GET", "/v1/models/toy%0d%0aX:%20y", 404),
        ("GET", "/v1/models/TOY", 404),
        ("GET", "/generated_texts/", 405),
        ("GET", "/generated_texts", 404),
    ],
)
def test_where_there_is_nothing_it_says_so(server: Running, method: str, path: str, status: int) -> None:
    with server.connect() as sock:
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := sock.recv(2**16):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nx: y" not in head.lower()
    assert json.loads(body)["error"]["message"]
    if status == 405:
        assert b"\r\nallow: " in head.lower()


def test_the_telling_routes(server: Running) -> None:
    (model,) = Models.model_validate(httpx.get(server.url + "/v1/models").json()).data
    assert model.id == "toy"
    assert httpx.get(server.url + "/v1/models/toy").json() == model.model_dump()
    card = ModelCard.model_validate(httpx.get(server.url + "/model_card").json())
    assert card.max_len == model.max_model_len == SIZES["max_len"]
    assert card.validation == {"loss": 5.5}
    assert card.bytes == 4 * card.parameters
    assert "secret" not in card.model_dump_json()
    assert card.limits["n"] == 8
    tokenizer = server.tokenizer
    assert card.special_ids == sorted([tokenizer.sos_id, tokenizer.eos_id, tokenizer.pad_id])
    assert httpx.get(server.url + "/version/").json() == {"version": __version__, "model": "toy"}
    for path in ("/health", "/health/live", "/health/ready", "/health_check/"):
        assert httpx.get(server.url + path).json() == {"status": "ok"}


def test_what_is_answered_is_what_is_described(server: Running) -> None:
    everything = {"logprobs": 2, "return_token_ids": True, "n": 2, "best_of": 3, "echo": True}
    CompletionAnswer.model_validate(server.complete(prompt="the", **everything))
    CompletionAnswer.model_validate(server.complete(prompt="the", beam_width=2, n=2))
    for event in server.stream(prompt="the", logprobs=1, stream_options={"include_usage": True}):
        CompletionAnswer.model_validate(event)
    messages = [{"role": "user", "content": "hi"}]
    chat = {"messages": messages, "logprobs": True, "top_logprobs": 2, "max_tokens": 4}
    ChatAnswer.model_validate(server.post("/v1/chat/completions", **chat).json())
    GeneratedTexts.model_validate(server.post("/generated_texts/", body="the").json())


def test_a_request_with_expect_is_answered(server: Running) -> None:
    with server.connect() as sock:
        sock.sendall(request_bytes({"prompt": "a", "max_tokens": 1}, "Expect: 100-continue", "Connection: close"))
        answer = b""
        while part := sock.recv(2**16):
            answer += part
    assert b"HTTP/1.1 200" in answer
