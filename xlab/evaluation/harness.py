"""XLab as a model of EleutherAI's lm-eval, and its tasks run on a checkpoint; needs ``pip install lm-eval``."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from xlab import checkpoints
from xlab.data.tokenizers import Tokenizer
from xlab.errors import ConfigError, DataError, GenerationError, XLabError
from xlab.evaluation.windows import Window, scores, sliding
from xlab.inference import Engine, Handle, Request
from xlab.transformer.decoder import Decoder

_NEW_TOKENS = 256  # lm-eval's own default where a task says nothing


@register_model("xlab")
class XLabLM(TemplateLM):  # type: ignore[misc]  # lm-eval may be absent, so mypy skips it
    """A decoder and its tokenizer, as lm-eval asks a model.

    Every context begins with sos, as every document did in training. What is longer than the model's context keeps its
    end.

    Args:
        checkpoint: a ``.ckpt``, a ``.pt`` or a run folder; for lm-eval's command line, ``checkpoint=PATH``.
        batch_size: rows in a forward pass.
        device: where to compute; lm-eval's command line says ``cuda:0`` where nothing was asked for, so a CUDA that is
            not there means the CPU, as for lm-eval's other models.
        decoder: the model, instead of ``checkpoint``, in eval mode.
        tokenizer: its tokenizer.

    Raises:
        CheckpointError: as ``checkpoints.load``.
        ConfigError: for a batch size that is no number, or without a model.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        decoder: Decoder | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        if checkpoint is not None:
            decoder, tokenizer = checkpoints.load(checkpoint, _device(device))
        if decoder is None or tokenizer is None:
            raise ConfigError("no model is named; give --model_args checkpoint=PATH")
        self.decoder, self.vocabulary = decoder, tokenizer
        self.batch_size = 8 if batch_size is None else _whole_number(batch_size)
        self._device = decoder.unembedding.device

    @property
    def eot_token_id(self) -> int:
        return self.vocabulary.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.vocabulary.sos_id

    @property
    def max_length(self) -> int:
        return self.decoder.max_len

    @property
    def tokenizer_name(self) -> str:
        return self.vocabulary.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **ignored: Any) -> list[int]:
        return self.vocabulary.encode(string)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **ignored: Any,
    ) -> list[tuple[float, bool]]:
        def windows() -> Iterator[tuple[int, Window]]:
            for number, (_, context, continuation) in enumerate(requests):
                for window in self._windows(context, continuation):
                    yield number, window

        answers = self._add_up(windows(), len(requests), disable_tqdm)
        for (pair, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]

        def windows() -> Iterator[tuple[int, Window]]:
            for number, text in enumerate(texts):
                # lm-eval's own windows, so that the figures of different models mean the same
                for pair in get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1):
                    context, predicted = make_disjoint_window(pair)
                    yield number, Window(np.array([*context, *predicted], dtype=np.int64), len(predicted))

        answers = [nats for nats, _ in self._add_up(windows(), len(texts), disable_tqdm)]
        for text, answer in zip(texts, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), answer)
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        asked = [self._request(*request.args) for request in requests]
        engine = Engine(self.decoder, self.vocabulary, max_rows=self.batch_size)
        handles = [engine.submit(request) for request in asked]
        with tqdm(total=len(handles), desc="Writing", disable=disable_tqdm or None) as bar:
            while not engine.is_idle:
                engine.step()
                bar.update(sum(handle.result is not None for handle in handles) - bar.n)
        answers = [_text_of(handle) for handle in handles]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers

    def _windows(self, context: list[int], continuation: list[int]) -> Iterator[Window]:
        # the template puts sos before an empty context only
        start = [] if context[:1] == [self.prefix_token_id] else [self.prefix_token_id]
        tokens = np.array([*start, *context, *continuation], dtype=np.int64)
        if not continuation:
            return iter(())
        if len(continuation) <= self.max_length:
            return iter([Window(tokens[-self.max_length - 1 :], len(continuation))])
        return sliding(tokens[-len(continuation) - 1 :], max_len=self.max_length, stride=max(1, self.max_length // 2))

    def _add_up(
        self, windows: Iterator[tuple[int, Window]], n_requests: int, disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        """Sum log-probabilities, and whether every token was the likeliest, over the windows of each request."""
        sums, all_hit = [0.0] * n_requests, [True] * n_requests
        counted = scores(self.decoder, windows, batch_size=self.batch_size)
        for number, score in tqdm(counted, desc="Scoring", disable=disable_tqdm or None):
            sums[number] -= score.nats.sum().item()
            all_hit[number] &= bool(score.hits.all())
        return list(zip(sums, all_hit, strict=True))

    def _request(self, context: str, how: dict[str, Any]) -> Request:
        """Greedy text until eos, a stop string or the length that the task allows."""
        if how.get("do_sample") or how.get("temperature"):
            raise GenerationError(
                "XLab answers lm-eval greedily, and a task asks for draws; set its do_sample to false"
            )
        until = how.get("until") or []
        n_new = int(how.get("max_gen_toks", _NEW_TOKENS))
        prompt = [self.prefix_token_id, *self.tok_encode(context)]
        return Request(
            prompt[-max(1, self.max_length - n_new) :],
            max_new_tokens=n_new,
            temperature=0.0,
            stop=[stop for stop in ([until] if isinstance(until, str) else until) if stop],
            eos_ids=[self.eot_token_id],
            banned_ids=[self.prefix_token_id, self.vocabulary.pad_id],
            rolling=True,
        )


def run_tasks(
    model: XLabLM, tasks: Sequence[str], *, num_fewshot: int | None = None, limit: int | None = None
) -> dict[str, dict[str, Any]]:
    """Run lm-eval's tasks, by name or as paths of YAML files.

    Args:
        model: what is asked.
        tasks: names such as ``lambada_openai``, which lm-eval downloads, or files of your own.
        num_fewshot: examples before each question; a task's own if not given.
        limit: questions of each task; all if not given.

    Returns:
        For each task its metrics, such as ``{"acc": 0.3, "acc_stderr": 0.01}``.

    Raises:
        ConfigError: for a task that does not exist, or a limit below 1.
        DataError: for a task that lm-eval cannot run, such as one whose data cannot be downloaded.
        GenerationError: for a task that asks for samples.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit must be at least 1 question, got {limit}; leave it out to ask them all")
    own = all(task.endswith(".yaml") for task in tasks)
    manager = TaskManager(include_defaults=not own)  # lm-eval's own index takes seconds to read
    for task in tasks:
        known = Path(task).is_file() if task.endswith(".yaml") else task in manager.all_tasks
        if not known:
            raise ConfigError(f"lm-eval has no task {task!r}; `lm_eval ls tasks` lists them, or give a YAML file")
    try:
        answers = simple_evaluate(
            model=model,
            tasks=[os.path.abspath(task) if task.endswith(".yaml") else task for task in tasks],
            num_fewshot=num_fewshot,
            limit=limit,
            task_manager=manager,
            log_samples=False,
            bootstrap_iters=1000,
        )
    except XLabError:
        raise
    except Exception as error:  # a task is other people's code, YAML and data: anything may come out of it
        raise DataError(f"lm-eval could not run {', '.join(tasks)}: {type(error).__name__}: {error}") from error
    return {task: _metrics(figures) for task, figures in answers["results"].items()}


def _text_of(handle: Handle) -> str:
    assert handle.result is not None
    if handle.result.error is not None:
        raise handle.result.error
    return handle.result.best.text


def _metrics(figures: dict[str, Any]) -> dict[str, Any]:
    """Take lm-eval's ``acc,none`` for ``acc``; another filter's name stays."""
    return {
        name.removesuffix(",none"): value
        for name, value in figures.items()
        if name not in ("alias", "name", "sample_len", "sample_count")
    }


def _device(name: str | None) -> str:
    return "cpu" if name is None or (name.startswith("cuda") and not torch.cuda.is_available()) else name


def _whole_number(batch_size: int | str) -> int:
    try:
        return int(batch_size)
    except ValueError as error:
        raise ConfigError(f"the batch size is {batch_size!r}; give a whole number") from error
