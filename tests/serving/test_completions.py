"""POST /v1/completions: what each field does, against the engine called directly."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving_setup import SIZES, Running

from xlab.inference import Request, Result
from xlab.serving.scores import TokenTexts


def offline(server: Running, prompt: str, **how: Any) -> Result:
    """What the engine gives for the same request, called by itself."""
    model = server.service.model
    ids = [model.tokenizer.sos_id, *model.tokenizer.encode(prompt)]
    common: dict[str, Any] = {"eos_ids": [model.tokenizer.eos_id], "banned_ids": model.banned_ids}
    return server.offline(Request(ids, **{**common, **how}))


def test_a_text_is_what_the_engine_writes(server: Running) -> None:
    answer = server.complete(prompt="the cat", max_tokens=12, seed=3, temperature=0.9, top_p=0.9)
    result = offline(server, "the cat", max_new_tokens=12, seed=3, temperature=0.9, top_p=0.9)
    (choice,) = answer["choices"]
    assert choice["text"] == result.text
    assert choice["finish_reason"] == {"eos": "stop"}.get(result.finish_reason, result.finish_reason)
    assert answer["object"] == "text_completion"
    assert answer["model"] == "toy"
    assert answer["usage"] == {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": len(result.tokens),
        "total_tokens": result.prompt_tokens + len(result.tokens),
    }


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        ({"top_k": 5}, {"top_k": 5}),
        ({"min_p": 0.1}, {"min_p": 0.1}),
        ({"typical_p": 0.5}, {"typical_p": 0.5}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"frequency_penalty": -1.5}, {"frequency_penalty": -1.5}),
        ({"no_repeat_ngram": 1}, {"no_repeat_ngram": 1}),
        ({"logit_bias": {"70": 100}}, {"logit_bias": {70: 100}}),
        ({"min_tokens": 20}, {"min_new_tokens": 20}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"n": 3}, {"n": 3}),
        ({"n": 2, "best_of": 4}, {"n": 2, "best_of": 4}),
        ({"stop": "k"}, {"stop": ["k"]}),
    ],
)
def test_each_field_reaches_the_engine(server: Running, asked: dict[str, Any], how: dict[str, Any]) -> None:
    seed = {} if asked.get("temperature") == 0 else {"seed": 11}
    answer = server.complete(prompt="the", max_tokens=24, **seed, **asked)
    result = offline(server, "the", max_new_tokens=24, **seed, **how)
    assert [choice["text"] for choice in answer["choices"]] == [completion.text for completion in result.completions]
    plain = offline(server, "the", max_new_tokens=24, seed=11)
    assert result.text != plain.text or "min_tokens" in asked or "n" in asked


def test_the_pieces_of_a_stream_are_the_text(server: Running) -> None:
    asked = {"prompt": ["the cat", "a dog"], "n": 2, "max_tokens": 30, "seed": 5, "logprobs": 2, "echo": True}
    asked |= {"return_token_ids": True}
    whole = server.complete(**asked)["choices"]
    *chunks, last = server.stream(**asked, stream_options={"include_usage": True})
    assert [choice["index"] for choice in whole] == [0, 1, 2, 3]
    for choice in whole:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert [token for c in own for token in c["token_ids"]] == choice["token_ids"]
        assert own[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert all(c["finish_reason"] is None for c in own[:-1])
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        for name, values in choice["logprobs"].items():
            assert [value for c in own if c["logprobs"] for value in c["logprobs"][name]] == values, name
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == sum(len(choice["token_ids"]) for choice in whole)
    assert {chunk["id"] for chunk in chunks} == {last["id"]}


def test_logprobs_are_the_engines(server: Running) -> None:
    answer = server.complete(prompt="the cat", max_tokens=6, seed=2, logprobs=3, return_token_ids=True)
    result = offline(server, "the cat", max_new_tokens=6, seed=2, logprobs=3)
    scored = result.best.logprobs or ()
    lists = answer["choices"][0]["logprobs"]
    assert lists["token_ids"] == [token.token for token in scored]
    assert lists["token_logprobs"] == pytest.approx([token.logprob for token in scored])
    assert lists["top_token_ids"] == [[token for token, _ in one.top] for one in scored]
    for text, logprob, top, tops in zip(
        lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], lists["top_tokens"], strict=True
    ):
        assert top[text] == pytest.approx(logprob) or tops.count(text) > 1
        assert set(tops) <= set(top)
        assert max(top.values()) == pytest.approx(next(iter(top.values())))


def test_an_id_that_the_tokenizer_lacks_may_be_likely(server: Running) -> None:
    texts, beyond = TokenTexts(server.tokenizer), len(server.tokenizer) + 3
    assert (texts.of(beyond), texts.bytes_of(beyond)) == (f"<|{beyond}|>", [])


def test_offsets_are_where_tokens_begin(server: Running) -> None:
    (choice,) = server.complete(prompt="naïve 🐈", max_tokens=20, seed=4, logprobs=0, echo=True)["choices"]
    lists = choice["logprobs"]
    for token, offset in zip(lists["tokens"], lists["text_offset"], strict=True):
        if not token.startswith("bytes:") and token != "<|eos|>":
            assert choice["text"][offset : offset + len(token)] == token
    assert "".join(map(str, lists["text_offset"])).startswith("0")
    assert lists["text_offset"] == sorted(lists["text_offset"])


def test_a_prompt_of_ids_is_taken_as_it_is(server: Running) -> None:
    ids = [server.tokenizer.sos_id, *server.tokenizer.encode("the cat")]
    of_text = server.complete(prompt="the cat", max_tokens=8, seed=1, return_token_ids=True)["choices"]
    assert server.complete(prompt=ids, max_tokens=8, seed=1, return_token_ids=True)["choices"] == of_text
    of_lists = server.complete(prompt=[ids, ids[1:]], max_tokens=8, seed=1, return_token_ids=True)["choices"]
    assert of_lists[0] == of_text[0]
    assert of_lists[1]["prompt_token_ids"] == ids[1:]


class TestScoring:
    """lm-eval's local-completions: echo with logprobs, greedy, one token, which it throws away."""

    @pytest.mark.parametrize("max_tokens", [0, 1])
    def test_a_prompt_of_ids_is_scored(self, server: Running, max_tokens: int) -> None:
        prompts = [server.tokenizer.encode(text) for text in ("the cat sees the king", "a dog")]
        asked = {"prompt": prompts, "max_tokens": max_tokens, "logprobs": 1, "echo": True, "temperature": 0}
        answer = server.complete(**asked, model="toy", seed=1234)
        for prompt, choice in zip(prompts, answer["choices"], strict=True):
            lists = choice["logprobs"]
            assert len(lists["token_logprobs"]) == len(prompt) + max_tokens
            assert lists["token_logprobs"][0] is None
            assert lists["top_logprobs"][0] is None
            scored = server.offline(Request(prompt, max_new_tokens=1, prompt_logprobs=1))
            assert scored.prompt_logprobs is not None
            own = lists["token_logprobs"][1 : len(prompt)]
            assert own == pytest.approx([token.logprob for token in scored.prompt_logprobs])
            for value, top in zip(own, lists["top_logprobs"][1 : len(prompt)], strict=True):
                assert value <= max(top.values())

    def test_an_end_token_is_scored_like_any_other(self, server: Running) -> None:
        eos = server.tokenizer.eos_id
        asked = {"prompt": "the cat", "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
        (choice,) = server.complete(**asked, logit_bias={str(eos): 100})["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["text"] == "the cat"
        assert len(choice["logprobs"]["tokens"]) == len(server.tokenizer.encode("the cat")) + 1
        (event,) = server.stream(**asked, logit_bias={str(eos): 100})
        assert event["choices"] == [choice]

    def test_a_whole_context_can_be_scored(self, server: Running) -> None:
        ids = (server.tokenizer.encode("the cat sees the old king") * 30)[: SIZES["max_len"]]
        (choice,) = server.complete(prompt=ids, max_tokens=1, logprobs=1, echo=True, temperature=0)["choices"]
        assert len(choice["logprobs"]["tokens"]) == len(ids) + 1

    def test_nothing_is_written_for_no_tokens(self, server: Running) -> None:
        answer = server.complete(prompt="the cat", max_tokens=0, echo=True)
        assert answer["choices"][0]["text"] == "the cat"
        assert answer["usage"]["completion_tokens"] == 0
        (event,) = server.stream(prompt="the cat", max_tokens=0, echo=True)
        assert event["choices"][0]["text"] == "the cat"


def test_beams_come_with_scores_best_first(server: Running) -> None:
    answer = server.complete(prompt="the", max_tokens=5, beam_width=4, n=3, length_penalty=0.5)
    scores = [choice["score"] for choice in answer["choices"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_what_a_beam_search_cannot_use_is_refused(server: Running) -> None:
    extras = {"top_k": 3, "seed": 1, "stop": "x", "temperature": 0.5, "stream": True, "best_of": 2, "logprobs": 1}
    for name, value in {**extras, "response_format": {"type": "json_object"}}.items():
        answer = server.post(prompt="the", beam_width=2, **{name: value})
        assert answer.status_code == 400
        assert name in answer.json()["error"]["message"]
    assert server.post(prompt="the", length_penalty=1.0).json()["error"]["param"] == "length_penalty"
    neutral = {"temperature": 1, "top_p": 1.0, "stop": [], "presence_penalty": 0, "logit_bias": {}}
    assert server.post(prompt="the", beam_width=2, max_tokens=2, **neutral).status_code == 200


def test_a_long_prompt_is_refused_or_truncated(server: Running) -> None:
    text = "the old king paints the cat. " * 40
    refused = server.post(prompt=text)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    asked = {"max_tokens": 4, "echo": True, "logprobs": 0, "return_token_ids": True}
    (choice,) = server.complete(prompt=text, truncate_prompt=True, **asked)["choices"]
    assert len(choice["prompt_token_ids"]) == SIZES["max_len"] - 3
    assert len(choice["logprobs"]["tokens"]) in {SIZES["max_len"] - 3 + n for n in range(5)}
    assert choice["text"].startswith(server.tokenizer.decode(choice["prompt_token_ids"]))
    assert choice["logprobs"]["token_logprobs"][0] is None


def test_json_follows_its_schema(server: Running) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema}}
    answer = server.complete(prompt="the", max_tokens=20, seed=1, n=3, response_format=form)
    assert {choice["text"] for choice in answer["choices"]} <= {'{"a": 1}', '{"a": 2}'}
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}
    wrong = server.post(prompt="the", response_format={**form, "json_schema": {"name": "x", "schema": {"type": "no"}}})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "response_format"


def test_eight_requests_share_the_steps_of_decoding(server: Running) -> None:
    rows = server.service.runner.engine.rows
    ids = server.tokenizer.encode("the cat sees")
    asked = {"prompt": ids, "max_tokens": 40, "min_tokens": 40, "temperature": 0.9}
    alone = server.complete(**asked, seed=3)["choices"][0]["text"]
    before = rows.decode_calls
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda seed: server.complete(**asked, seed=seed)["choices"][0]["text"], range(8)))
    assert rows.decode_calls - before < 4 * 39  # one after another they would take 8 × 39
    assert texts[3] == alone
    assert len(set(texts)) == 8
