"""XLab as lm-eval's model: sums of log-probabilities, greedy text, and a whole task without a network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_decoder import MAX_LEN, TEXT, tiny_decoder, tiny_tokenizer

pytest.importorskip("lm_eval", reason="lm-eval is an extra: pip install lm-eval")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from xlab.errors import ConfigError, DataError, GenerationError
from xlab.evaluation.harness import XLabLM, run_tasks

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
doc_to_text: "{{{{question}}}}"
{rest}
"""
CHOICE = """
output_type: multiple_choice
doc_to_choice: ["the cat", " a dog"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITING = """
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: SAMPLE}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def ask(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


def make(batch_size: int = 3, max_len: int = MAX_LEN) -> XLabLM:
    return XLabLM(decoder=tiny_decoder(max_len=max_len), tokenizer=tiny_tokenizer(), batch_size=batch_size)


def by_hand(context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The log-probability of a continuation, a whole forward pass for each of its tokens."""
    decoder, total, likeliest = tiny_decoder(), 0.0, True
    for token in continuation:
        logits = decoder(torch.tensor([context[-MAX_LEN:]]))[0, -1].double()
        total += logits.log_softmax(-1)[token].item()
        likeliest &= logits.argmax().item() == token
        context = [*context, token]
    return total, likeliest


@pytest.mark.parametrize("batch_size", [1, 4])
def test_loglikelihood_is_the_sum_over_the_continuation(batch_size: int) -> None:
    tokenizer, sos = tiny_tokenizer(), tiny_tokenizer().sos_id
    pairs = [("the cat", " sees"), ("", "the dog"), ("a dog ", "follows"), ("naïve", "\n"), ("x", "")]
    answers = make(batch_size).loglikelihood(ask("loglikelihood", *pairs))
    # lm-eval's convention: white space at the context's end belongs to the continuation
    split = [("the cat", " sees"), ("", "the dog"), ("a dog", " follows"), ("naïve", "\n"), ("x", "")]
    for (context, continuation), answer in zip(split, answers, strict=True):
        expected = by_hand([sos, *tokenizer.encode(context)], tokenizer.encode(continuation))
        assert answer == (pytest.approx(expected[0], abs=1e-4), expected[1])


def test_what_greedy_decoding_writes_is_the_likeliest() -> None:
    tokenizer, context = tiny_tokenizer(), [tiny_tokenizer().sos_id, *tiny_tokenizer().encode("the")]
    likeliest = tiny_decoder()(torch.tensor([context]))[0, -1].argsort(descending=True).tolist()
    best, second = [token for token in likeliest if tokenizer.token_bytes(token)][:2]
    model = make()
    answers = model._loglikelihood_tokens([(("", ""), context[1:], [token]) for token in (best, second)])
    assert [hit for _, hit in answers] == [best == likeliest[0], False]


def test_a_long_context_keeps_its_end_and_a_long_continuation_counts_every_token() -> None:
    tokenizer, sos = tiny_tokenizer(), tiny_tokenizer().sos_id
    context, continuation = tokenizer.encode(TEXT)[:30], tokenizer.encode(TEXT)[30:36]
    ((found, _),) = make()._loglikelihood_tokens([(("", ""), context, continuation)])
    decoder = tiny_decoder()
    whole = torch.tensor([[sos, *context, *continuation][-MAX_LEN - 1 :]])
    logs = decoder(whole[:, :-1])[0].log_softmax(-1)[-6:]
    assert found == pytest.approx(logs.gather(1, whole[0, -6:, None]).sum().item(), abs=1e-4)
    long = tokenizer.encode(TEXT)[:40]
    pieces = make()._windows([1, 2, 3], long)
    assert np.concatenate([window.targets for window in pieces]).tolist() == long


def test_rolling_loglikelihood_scores_every_token_once_from_sos() -> None:
    tokenizer, model = tiny_tokenizer(), make()
    short = "the cat"
    found, long, empty = model.loglikelihood_rolling(ask("loglikelihood_rolling", (short,), (TEXT,), ("",)))
    assert found == pytest.approx(by_hand([tokenizer.sos_id], tokenizer.encode(short))[0], abs=1e-4)
    assert long < found
    assert empty == 0


def test_writing_is_greedy_and_ends_before_the_first_stop() -> None:
    tokenizer, model = tiny_tokenizer(), make(max_len=64)
    decoder, ids = tiny_decoder(max_len=64), [tokenizer.sos_id, *tokenizer.encode("the cat")]
    for _ in range(40):
        logits = decoder(torch.tensor([ids[-64:]]))[0, -1]
        logits[[tokenizer.sos_id, tokenizer.pad_id]] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == tokenizer.eos_id:
            break
    whole = tokenizer.decode(ids[1:])[len("the cat") :]
    assert len(whole) > 4
    stop = whole[3:5]

    def write(**how: Any) -> str:
        (answer,) = model.generate_until(ask("generate_until", ("the cat", how)))
        return answer

    assert write(until=[], max_gen_toks=40) == whole
    assert write(until=["never said", stop], max_gen_toks=40) == whole[: whole.index(stop)]
    assert write(until=stop, max_gen_toks=40) == whole[: whole.index(stop)]


def test_a_choice_task_runs_from_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = make(), write_task(tmp_path, monkeypatch, "tiny_choice", CHOICE)
    choices = ["the cat", " a dog"]
    pairs = [("Who?", choices[0]), ("Who?", choices[1])]
    logs = [answer[0] for answer in model.loglikelihood(ask("loglikelihood", *((q, f" {c}") for q, c in pairs)))]
    assert len(logs) == 2
    metrics = run_tasks(model, [str(task)])["tiny_choice"]
    assert 0 <= metrics["acc"] <= 1
    assert metrics == run_tasks(make(batch_size=1), [str(task)])["tiny_choice"]
    with pytest.raises(ConfigError, match="the limit must be at least 1 question, got 0"):
        run_tasks(model, [str(task)], limit=0)


def test_a_writing_task_runs_and_one_that_wants_samples_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = write_task(tmp_path, monkeypatch, "tiny_writing", WRITING.replace("SAMPLE", "false"))
    assert run_tasks(make(), [str(greedy)], limit=2)["tiny_writing"]["exact_match"] == 0
    drawn = write_task(tmp_path, monkeypatch, "tiny_draws", WRITING.replace("SAMPLE", "true"))
    with pytest.raises(GenerationError, match="set its do_sample to false"):
        run_tasks(make(), [str(drawn)])


def test_a_task_that_is_not_there_or_is_broken_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"lm-eval has no task 'nowhere\.yaml'"):
        run_tasks(make(), ["nowhere.yaml"])
    broken = write_task(tmp_path, monkeypatch, "broken", CHOICE)
    (tmp_path / "questions.jsonl").unlink()
    with pytest.raises(DataError, match="lm-eval could not run"):
        run_tasks(make(), [str(broken)])


def test_lm_eval_knows_it_by_name() -> None:
    assert get_model("xlab") is XLabLM
    with pytest.raises(ConfigError, match="--model_args checkpoint=PATH"):
        XLabLM()
    with pytest.raises(ConfigError, match="the batch size is 'auto'; give a whole number"):
        XLabLM(decoder=tiny_decoder(), tokenizer=tiny_tokenizer(), batch_size="auto")


def write_task(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, rest: str) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "cache"))
    data = folder / "questions.jsonl"
    rows = [{"question": f"Who sees {n}?", "answer": n % 2} for n in range(4)]
    data.write_text("\n".join(map(json.dumps, rows)) + "\n")
    path = folder / f"{name}.yaml"
    path.write_text(TASK.format(name=name, data=data, rest=rest))
    return path
