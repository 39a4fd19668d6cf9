"""POST /v1/chat/completions, and the older service's route."""

from pathlib import Path
from typing import Any

import pytest
from serving_setup import Running, running, write_checkpoint

from xlab.data.meta import prompt_ids

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 16, "seed": 2}


def test_a_chat_is_a_completion_of_the_template(server: Running) -> None:
    answer = server.post(CHAT, **ASKED).json()
    plain = server.complete(prompt="User: the cat\n\nAssistant:", max_tokens=16, seed=2, stop="\n\nUser:")
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": plain["choices"][0]["text"],
        "refusal": None,
    }
    assert answer["usage"] == plain["usage"]


def test_the_pieces_of_a_stream_are_the_message(server: Running) -> None:
    asked = {**ASKED, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = server.post(CHAT, **asked).json()["choices"]
    *chunks, last = server.stream(CHAT, **asked, stream_options={"include_usage": True})
    for choice in whole:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content", "") for c in own) == choice["message"]["content"]
        streamed = [token for c in own if c["logprobs"] for token in c["logprobs"]["content"]]
        assert streamed == choice["logprobs"]["content"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
    assert last["usage"]["completion_tokens"] == sum(len(c["logprobs"]["content"]) for c in whole)


def test_a_message_may_come_in_parts(server: Running) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]
    asked = {**ASKED, "messages": [{"role": "user", "content": parts}]}
    ours = [server.post(CHAT, **body).json()["choices"] for body in (asked, ASKED)]
    assert ours[0] == ours[1]


def test_the_limit_has_two_names(server: Running) -> None:
    asked = {key: value for key, value in ASKED.items() if key != "max_tokens"}
    one = server.post(CHAT, **asked, max_completion_tokens=3).json()
    assert one["usage"]["completion_tokens"] <= 3
    both = server.post(CHAT, **ASKED, max_completion_tokens=3)
    assert both.status_code == 400
    assert "give one of them" in both.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "function", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "content"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"top_logprobs": 2}, "logprobs: true"),
        ({"tools": [{"type": "function"}]}, "tools is not done"),
        ({"messages": "the cat"}, "messages"),
    ],
)
def test_what_cannot_be_is_one_line(server: Running, change: dict[str, Any], says: str) -> None:
    answer = server.post(CHAT, **{**ASKED, **change})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


class TestGeneratedTexts:
    def test_the_texts_are_those_of_a_completion(self, server: Running) -> None:
        asked = {"body": "the cat", "max_number_of_generated_tokens": 9, "temperature": 0, "repetition_penalty": 1.2}
        answer = server.post("/generated_texts/", **asked, top_k=0, top_p=1.0, num_return_sequences=1)
        plain = server.complete(prompt="the cat", max_tokens=9, temperature=0, repetition_penalty=1.2)
        assert answer.json() == {"texts": [plain["choices"][0]["text"]]}

    def test_there_are_as_many_as_were_asked_for(self, server: Running) -> None:
        answer = server.post("/generated_texts/", body="the", num_return_sequences=3, max_number_of_generated_tokens=4)
        assert len(answer.json()["texts"]) == 3

    def test_meta_is_refused_in_one_line(self, server: Running) -> None:
        answer = server.post("/generated_texts/", body="the", meta="a story")
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "this model was not trained with meta; leave it out"

    def test_meta_stands_before_the_body(self, tmp_path: Path) -> None:
        with running(write_checkpoint(tmp_path, meta={"max_meta_len": 4}), max_rows=1) as server:
            asked = {"body": "the cat", "max_number_of_generated_tokens": 9, "temperature": 0}
            (text,) = server.post("/generated_texts/", **asked, meta="of the old king").json()["texts"]
            ids = prompt_ids(server.tokenizer, "the cat", meta="of the old king", max_meta_len=4)
            plain = server.complete(prompt=ids, max_tokens=9, temperature=0)["choices"][0]["text"]
            assert text == plain
            (without,) = server.post("/generated_texts/", **asked, meta="").json()["texts"]
            assert without == server.complete(prompt="the cat", max_tokens=9, temperature=0)["choices"][0]["text"]


def test_a_chat_longer_than_the_context_is_refused(server: Running) -> None:
    answer = server.post(CHAT, messages=[{"role": "user", "content": "the cat " * 1000}])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
