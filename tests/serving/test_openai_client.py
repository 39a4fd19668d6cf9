"""The real openai client, and lm-eval's local-completions where it is installed, against the server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_setup import KEY, Running, running

from xlab.serving.keys import Keys

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(checkpoint: Path) -> Iterator["openai.OpenAI"]:
    with (
        running(checkpoint, keys=Keys([KEY]), max_rows=4, max_queue=4) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=20) as found,
    ):
        yield found


def test_models(client: "openai.OpenAI") -> None:
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").owned_by == "xlab"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_completions(client: "openai.OpenAI") -> None:
    answer = client.completions.create(
        model="toy", prompt=["the cat", "a dog"], max_tokens=8, n=2, logprobs=2, seed=1, echo=True, user="me"
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text.startswith("the cat")
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.tokens) == len(answer.choices[0].logprobs.token_logprobs)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_completion(client: "openai.OpenAI") -> None:
    asked = {"model": "toy", "prompt": "the cat", "max_tokens": 12, "seed": 1, "stop": ["k"]}
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert "k" not in whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_chats(client: "openai.OpenAI") -> None:
    asked = {"model": "toy", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 9, "seed": 2}
    whole = client.chat.completions.create(**asked, n=2, logprobs=True, top_logprobs=3)
    assert len(whole.choices) == 2
    assert whole.choices[0].logprobs is not None
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 3
    text = ""
    for chunk in client.chat.completions.create(**asked, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content


def test_fields_of_our_own(client: "openai.OpenAI") -> None:
    body = {"beam_width": 3, "length_penalty": 0.5, "return_token_ids": True}
    answer = client.completions.create(model="toy", prompt="the", n=2, max_tokens=4, extra_body=body)
    assert answer.choices[0].model_extra["score"] >= answer.choices[1].model_extra["score"]


def test_errors_are_the_clients_own_kinds(client: "openai.OpenAI") -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as bad:
        client.completions.create(model="toy", prompt="the", temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as absent:
        client.completions.create(model="gpt-4", prompt="the")
    assert absent.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another-key").models.list()
    with pytest.raises(openai.BadRequestError, match="tools is not done"):
        client.chat.completions.create(
            model="toy",
            messages=[{"role": "user", "content": "a"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )


def test_a_stream_that_is_closed_frees_its_row(client: "openai.OpenAI") -> None:
    for _ in range(20):  # more than there are rows and places in the queue
        asked = {"model": "toy", "prompt": "the cat", "max_tokens": 90, "extra_body": {"min_tokens": 90}}
        with client.completions.create(**asked, stream=True, n=4) as stream:
            next(iter(stream))
    assert client.with_options(max_retries=5).completions.create(model="toy", prompt="the", max_tokens=2)


@pytest.mark.parametrize("tokenized", [True, False])
def test_lm_eval_scores_and_writes_over_http(server: Running, tmp_path: Path, tokenized: bool) -> None:
    api = pytest.importorskip("lm_eval.models.openai_completions")
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    server.tokenizer.save(tmp_path / "tokenizer.json")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": server.tokenizer.eos_token}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model = api.LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions", model="toy", tokenizer=str(tmp_path), tokenized_requests=tokenized
    )
    context, continuation = "the cat", " sees a dog"
    ((logprob, is_greedy),) = model.loglikelihood([instance("loglikelihood", {}, (context, continuation), 0)])
    ids, n_context = server.tokenizer.encode(context + continuation), len(server.tokenizer.encode(context))
    prompt = ids if tokenized else context + continuation
    choice = server.complete(prompt=prompt, max_tokens=0, echo=True, logprobs=1)["choices"][0]
    scores = choice["logprobs"]["token_logprobs"]
    assert logprob == pytest.approx(sum(scores[n_context:]))
    assert is_greedy is False
    settings = {"until": ["."], "max_gen_toks": 8, "temperature": 0}
    (text,) = model.generate_until([instance("generate_until", {}, (context, settings), 0)])
    prompt = server.tokenizer.encode(context) if tokenized else context
    assert text == server.complete(prompt=prompt, max_tokens=8, temperature=0, stop=["."])["choices"][0]["text"]
