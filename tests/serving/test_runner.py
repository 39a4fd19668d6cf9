"""The engine's thread: who shares it, who is let go, and what becomes of the others when a step fails."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_setup import POISON, break_on_poison

from xlab import checkpoints
from xlab.inference import BeamSettings, Engine, Request, Result
from xlab.serving.calls import UNREAD, Call, News
from xlab.serving.errors import RequestError
from xlab.serving.runner import Runner


@pytest.fixture(scope="module")
def parts(checkpoint: Path) -> Any:
    return checkpoints.load(checkpoint)


def request(seed: int, *, length: int = 20, prompt: tuple[int, ...] = (1, 70, 71), **how: Any) -> Request:
    return Request(prompt, max_new_tokens=length, seed=seed, eos_ids=[2], banned_ids=[POISON], **how)


def alone(parts: Any, asked: Request) -> Result:
    (result,) = Engine(*parts, max_rows=4).generate([asked])
    return result


def texts(result: Result) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in result.completions]


def run(
    parts: Any,
    work: Callable[[Runner], Coroutine[Any, Any, Any]],
    *,
    rows: int = 4,
    queue: int = 16,
    prepare: Callable[[Engine], None] = lambda engine: None,
) -> Runner:
    """Run ``work`` beside a runner; afterwards nothing may be left in it."""
    engine = Engine(*parts, max_rows=rows)
    prepare(engine)
    ended: list[News] = []
    runner = Runner(engine, max_queue=queue, on_end=lambda asked, news: ended.append(news))

    async def whole() -> None:
        runner.start()
        try:
            await asyncio.wait_for(work(runner), 30)
            await asyncio.wait_for(_empty(runner), 10)
        finally:
            runner.close()

    asyncio.run(whole())
    assert not runner._thread.is_alive()
    return runner


async def _empty(runner: Runner) -> None:
    while not runner.is_broken and (runner.texts or runner.engine.rows.rows or not runner.engine.is_idle):
        await asyncio.sleep(0.005)


async def pieces(call: Call) -> tuple[list[int], Result]:
    tokens, news = [], News(0)
    while not news.is_last:
        news = await call.next()
        tokens += [piece.token for piece in news.pieces if piece.token is not None]
    assert news.result is not None
    return tokens, news.result


def test_each_gets_its_own_text(parts: Any) -> None:
    asked = [request(seed, length=5 + seed) for seed in range(9)]

    async def work(runner: Runner) -> None:
        calls = [runner.submit([one], streams=False, seconds=30) for one in asked]
        for one, call in zip(asked, calls, strict=True):
            (result,) = await call.results()
            assert texts(result) == texts(alone(parts, one))

    run(parts, work)


def test_what_comes_together_is_fed_together(parts: Any) -> None:
    fed: list[int] = []

    def watch(engine: Engine) -> None:
        feed = engine.rows.feed

        def watched() -> Any:
            fed.append(len(engine.rows.rows))
            return feed()

        engine.rows.feed = watched  # type: ignore[method-assign]

    async def work(runner: Runner) -> None:
        async def ask(turns: int) -> None:
            for _ in range(turns):  # of the event loop, as a request that is read later
                await asyncio.sleep(0)
            await runner.submit([request(turns)], streams=False, seconds=30).results()

        await asyncio.gather(*map(ask, range(4)))

    run(parts, work, prepare=watch)
    assert fed[0] == 4


def test_only_the_engines_thread_calculates_with_many(parts: Any) -> None:
    seen: list[int] = []
    engine = Engine(*parts, max_rows=1)
    step = engine.step

    def watched() -> Any:
        seen.append(torch.get_num_threads())
        return step()

    engine.step = watched  # type: ignore[method-assign]
    runner = Runner(engine, max_queue=1, threads=2)

    async def work() -> None:
        runner.start()
        await runner.submit([request(1, length=2)], streams=False, seconds=30).results()
        runner.close()

    asyncio.run(work())
    assert set(seen) == {2}


def test_a_full_queue_refuses_and_recovers(parts: Any) -> None:
    async def work(runner: Runner) -> None:
        calls = [runner.submit([request(seed)], streams=False, seconds=30) for seed in range(5)]
        with pytest.raises(RequestError) as refused:
            runner.submit([request(9)], streams=False, seconds=30)
        assert refused.value.status == 429
        assert 1 <= int(refused.value.headers()["Retry-After"]) <= 60
        with pytest.raises(RequestError, match="ask for fewer"):
            runner.submit([request(1, n=4), request(2, n=4)], streams=False, seconds=30)
        for call in calls:
            await call.results()
        await runner.submit([request(9)], streams=False, seconds=30).results()

    run(parts, work, rows=2, queue=3)


def test_a_call_that_is_cancelled_frees_its_rows_within_a_step(parts: Any) -> None:
    async def work(runner: Runner) -> None:
        for streams in (True, False):
            call = runner.submit([request(1, length=90, n=3)], streams=streams, seconds=30)
            other = runner.submit([request(2, length=20)], streams=False, seconds=30)
            if streams:
                await call.next()
            call.cancel()
            (result,) = await other.results()
            assert texts(result) == texts(alone(parts, request(2, length=20)))
            await _empty(runner)
        assert runner.engine.rows.decode_calls < 90

    run(parts, work)


def test_one_that_waits_can_be_cancelled(parts: Any) -> None:
    async def work(runner: Runner) -> None:
        first = runner.submit([request(1, length=60)], streams=False, seconds=30)
        second = runner.submit([request(2, length=60)], streams=False, seconds=30)
        second.cancel()
        with pytest.raises(RequestError):
            await second.results()
        await first.results()

    run(parts, work, rows=1)


def test_a_deadline_ends_a_text(parts: Any) -> None:
    async def work(runner: Runner) -> None:
        for streams in (True, False):
            call = runner.submit([request(1, length=90)], streams=streams, seconds=0.0)
            with pytest.raises(RequestError) as late:
                await pieces(call)
            assert late.value.status == 504

    run(parts, work)


def test_a_stream_that_nobody_reads_is_given_up() -> None:
    call = Call([request(1)], streams=True, deadline=0)
    for _ in range(UNREAD):
        call.take(News(0))
    assert not call.is_cancelled
    call.take(News(0))
    assert call.is_cancelled


def test_the_thread_sleeps_while_there_is_nothing_to_do(parts: Any) -> None:
    async def work(runner: Runner) -> None:
        await runner.submit([request(1)], streams=False, seconds=30).results()
        await _empty(runner)
        await asyncio.sleep(0.05)  # whatever was on its way has come to rest
        before = count
        await asyncio.sleep(0.2)
        assert count == before

    count = 0

    def prepare(engine: Engine) -> None:
        step = engine.step

        def counted() -> Any:
            nonlocal count
            count += 1
            return step()

        engine.step = counted  # type: ignore[method-assign]

    run(parts, work, prepare=prepare)


class TestFaults:
    """An exception inside the engine, in the middle of a batch."""

    @pytest.mark.parametrize("streams", [False, True])
    def test_who_caused_it_is_refused_and_the_others_finish(self, parts: Any, streams: bool) -> None:
        asked = [request(seed, length=30) for seed in range(3)]
        poisoned = Request([1, 70, 71], max_new_tokens=30, temperature=0, min_new_tokens=30, logit_bias={POISON: 100})

        async def work(runner: Runner) -> None:
            calls = [runner.submit([one], streams=streams, seconds=30) for one in asked]
            if streams:
                first = [await call.next() for call in calls]  # all have begun
            bad = runner.submit([poisoned], streams=streams, seconds=30)
            with pytest.raises(RequestError) as failed:
                await pieces(bad)
            assert failed.value.status == 500
            assert "kernel" not in failed.value.message
            for number, (one, call) in enumerate(zip(asked, calls, strict=True)):
                tokens, result = await pieces(call)
                assert texts(result) == texts(alone(parts, one))
                if streams:
                    begun = [piece.token for piece in first[number].pieces if piece.token is not None]
                    assert tuple(begun + tokens) == result.tokens
            assert 1 <= runner.faults <= 3

        run(parts, work, prepare=break_on_poison)

    def test_beams_and_the_best_of_several_survive_it_too(self, parts: Any) -> None:
        asked = [request(1, n=2, best_of=2), Request([1, 70], max_new_tokens=9, beams=BeamSettings(2), eos_ids=[2])]

        def prepare(engine: Engine) -> None:
            step, steps = engine.step, 0

            def fails_once() -> Any:
                nonlocal steps
                steps += 1
                if steps == 4:
                    raise RuntimeError("out of memory")
                return step()

            engine.step = fails_once  # type: ignore[method-assign]

        async def work(runner: Runner) -> None:
            calls = [runner.submit([one], streams=False, seconds=30) for one in asked]
            for one, call in zip(asked, calls, strict=True):
                (result,) = await call.results()
                assert texts(result) == texts(alone(parts, one))
            assert runner.faults == 1

        run(parts, work, prepare=prepare)

    def test_many_that_cause_it_are_found_one_by_one(self, parts: Any) -> None:
        poisoned = Request([1, 70, 71], max_new_tokens=9, temperature=0, logit_bias={POISON: 100})

        async def work(runner: Runner) -> None:
            calls = [
                runner.submit([poisoned if number % 2 else request(number)], streams=False, seconds=30)
                for number in range(12)
            ]
            for number, call in enumerate(calls):
                if number % 2:
                    with pytest.raises(RequestError):
                        await call.results()
                else:
                    (result,) = await call.results()
                    assert texts(result) == texts(alone(parts, request(number)))

        run(parts, work, prepare=break_on_poison)

    def test_an_engine_that_cannot_be_cleared_is_given_up_in_words(self, parts: Any) -> None:
        def prepare(engine: Engine) -> None:
            def fails() -> Any:
                raise RuntimeError("the device is gone")

            engine.step = fails  # type: ignore[method-assign]

        async def work(runner: Runner) -> None:
            calls = [runner.submit([request(seed)], streams=False, seconds=30) for seed in range(3)]
            for call in calls:
                with pytest.raises(RequestError) as failed:
                    await call.results()
                assert failed.value.status == 500
            assert not runner.is_ready
            with pytest.raises(RequestError) as refused:
                runner.submit([request(1)], streams=False, seconds=30)
            assert refused.value.status == 503

        assert run(parts, work, prepare=prepare).is_broken
