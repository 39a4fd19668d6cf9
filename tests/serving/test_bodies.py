"""Bodies that are wrong in every way: one line with status 400, naming the field, and never a 500."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from serving_setup import PATIENCE, SIZES, Running

from xlab.serving.bodies import refusal_of
from xlab.serving.limits import MOST_BYTES
from xlab.serving.schemas import ChatBody, CompletionBody

V = SIZES["vocab_size"]


def error_of(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    return dict(error)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 10**9}, "n"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": "1"}, "n"),
        ({"best_of": 10**9}, "best_of"),
        ({"beam_width": 10**9}, "beam_width"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"max_tokens": 97}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": False}, "max_tokens"),
        ({"max_tokens": 0}, "echo"),
        ({"min_tokens": 30, "max_tokens": 20}, "min_tokens"),
        ({"stop": ["x"] * 10**4}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": ["a", None]}, "stop"),
        ({"stop": "x" * 10**4}, "stop"),
        ({"stop": 7}, "stop"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": [V]}, "prompt"),
        ({"prompt": [2**63]}, "prompt.0"),
        ({"prompt": [[1], [V]]}, "prompt"),
        ({"prompt": [[1], [-1]]}, "prompt.1.0"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logprobs": 10**6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(5000)}}, "logit_bias"),
        ({"logit_bias": []}, "logit_bias"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {"other": True}, "stream": True}, "stream_options.other"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"temperature": 0, "n": 2}, "n"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"beam_width": 2, "n": 3}, "n"),
        ({"user": 5}, "user"),
    ],
)
def test_a_field_that_cannot_be_is_named(server: Running, change: dict[str, Any], param: str) -> None:
    error = error_of(server.post(**{"prompt": "the", **change}))
    assert (error["param"] or "").startswith(param), error
    assert len(error["message"]) < 300


def test_a_million_wrong_ids_do_not_take_a_million_errors() -> None:
    for prompt in ([-1] * 1000, [[-1] * 1000]):
        with pytest.raises(ValidationError) as caught:
            CompletionBody(prompt=prompt)
        assert caught.value.error_count() < 10


def test_a_bias_for_a_token_that_is_not_there_is_refused(server: Running) -> None:
    assert str(V) in error_of(server.post(prompt="the", logit_bias={str(V): 1}))["message"]


@pytest.mark.parametrize("name", ["suffix", "tools", "tool_choice", "functions", "modalities", "store", "metadata"])
def test_what_is_not_done_is_refused_not_ignored(server: Running, name: str) -> None:
    error = error_of(server.post(prompt="the", **{name: ["something"]}))
    assert error["message"] == f"{name} is not done by this server; leave it out"
    assert server.post(prompt="the", max_tokens=1, **{name: None}).status_code == 200


def send(server: Running, content: bytes, media: str | None = "application/json") -> httpx.Response:
    headers = {} if media is None else {"Content-Type": media}
    return httpx.post(server.url + "/v1/completions", content=content, headers=headers, timeout=PATIENCE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": -Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "logit_bias": {"1": NaN}}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
        b'{"prompt": "a"} {}',
    ],
    ids=range(20),
)
def test_what_is_no_json_object_is_refused(server: Running, content: bytes) -> None:
    error_of(send(server, content))


@pytest.mark.parametrize("media", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_another_sites_form_could_send_is_refused(server: Running, media: str | None) -> None:
    assert "application/json" in error_of(send(server, b'{"prompt": "a"}', media), 415)["message"]


def test_a_body_of_10_mb_is_refused(server: Running) -> None:
    content = json.dumps({"prompt": "a" * 10_000_000}).encode()
    assert error_of(send(server, content), 413)["code"] == "too_large"


def test_a_body_of_unknown_length_is_refused_as_it_grows(server: Running) -> None:
    def grow() -> Any:
        for _ in range(MOST_BYTES // 2**16 + 2):
            yield b" " * 2**16

    headers = {"Content-Type": "application/json"}
    answer = httpx.post(server.url + "/v1/completions", content=grow(), headers=headers, timeout=PATIENCE)
    assert error_of(answer, 413)["code"] == "too_large"


def test_another_model_is_not_found(server: Running) -> None:
    for name in ("gpt-4", "Toy", "toy ", "", "../toy", "toy\r\nX: y", "💥"):
        for path in ("/v1/completions", "/v1/chat/completions"):
            body = {"prompt": "a"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a"}]}
            error = error_of(server.post(path, **body, model=name), 404)
            assert error["code"] == "model_not_found"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from([*CompletionBody.model_fields, *ChatBody.model_fields])


@given(st.dictionaries(fields, anything, max_size=5), st.sampled_from([CompletionBody, ChatBody]))
def test_whatever_comes_is_taken_or_refused_in_one_line(body: dict[str, Any], kind: Any) -> None:
    try:
        kind.model_validate(body)
    except ValidationError as error:
        refusal = refusal_of(error)
        assert refusal.status == 400
        assert "\n" not in refusal.message
        assert len(refusal.message) < 500
