"""What the whole service must live through: overload, a failing engine, ten clients for each place."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_setup import PATIENCE, POISON, Running, Slow, break_on_poison, events_of, running, until


@pytest.fixture(scope="module")
def fragile(checkpoint: Path) -> Iterator[Running]:
    with running(checkpoint, prepare=lambda service: break_on_poison(service.runner.engine), max_rows=4) as server:
        yield server


ASKED: dict[str, Any] = {"prompt": "the", "max_tokens": 40, "min_tokens": 40, "logit_bias": {str(POISON): -100}}
POISONED: dict[str, Any] = {"prompt": "the", "max_tokens": 40, "logit_bias": {str(POISON): 100}, "temperature": 0}


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_exception_inside_the_engine_hurts_one_request(fragile: Running, is_stream: bool) -> None:
    def ask(seed: int) -> str:
        if is_stream:
            events = fragile.stream(**ASKED, seed=seed)
            return "".join(event["choices"][0]["text"] for event in events)
        return str(fragile.complete(**ASKED, seed=seed)["choices"][0]["text"])

    expected = [ask(seed) for seed in range(3)]
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(ask, seed) for seed in range(3)]
        bad = pool.submit(lambda: fragile.post(**POISONED, stream=is_stream))
        assert [one.result(PATIENCE) for one in others] == expected
        answer = bad.result(PATIENCE)
    if answer.status_code == 200:  # it had begun to stream
        *_, last = events_of(answer.text)
        error = last["error"]
    else:
        assert answer.status_code == 500
        error = answer.json()["error"]
    assert error["type"] == "server_error"
    assert "kernel" not in error["message"]
    assert httpx.get(fragile.url + "/health").status_code == 200


def test_ten_times_what_fits_is_answered_or_refused(checkpoint: Path) -> None:
    found: list[Slow] = []
    with running(checkpoint, prepare=lambda service: found.append(Slow(service)), max_rows=2, max_queue=6) as server:
        slow = found[0]
        answers: list[tuple[int, httpx.Response]] = []
        lock = threading.Lock()

        def ask(seed: int) -> None:
            answer = server.post(prompt="the cat", max_tokens=6, seed=seed, stream=bool(seed % 2))
            with lock:
                answers.append((seed, answer))

        with ThreadPoolExecutor(80) as pool:
            futures = [pool.submit(ask, seed) for seed in range(80)]
            until(lambda: len(answers) >= 72)  # all but those that fit were refused at once
            slow.open()
            for future in futures:
                future.result(PATIENCE)
        admitted = [(seed, answer) for seed, answer in answers if answer.status_code == 200]
        refused = [answer for _, answer in answers if answer.status_code != 200]
        assert len(admitted) == 8
        assert {answer.status_code for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert all(answer.json()["error"]["code"] == "queue_full" for answer in refused)
        for seed, answer in admitted:
            expected = server.complete(prompt="the cat", max_tokens=6, seed=seed)["choices"][0]["text"]
            if seed % 2:
                events = events_of(answer.text)[:-1]
                assert "".join(event["choices"][0]["text"] for event in events) == expected
            else:
                assert answer.json()["choices"][0]["text"] == expected


def test_a_request_that_takes_too_long_is_ended(checkpoint: Path) -> None:
    found: list[Slow] = []
    with running(checkpoint, prepare=lambda service: found.append(Slow(service)), max_rows=1, deadline=0.2) as server:

        def open_too_late() -> None:
            until(lambda: server.service.runner.texts)
            time.sleep(0.3)  # more than the deadline, from when the request was there
            found[0].open()

        threading.Thread(target=open_too_late).start()
        answer = server.post(prompt="the", max_tokens=50)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline"


def test_memory_stays_flat(server: Running) -> None:
    """Nothing is kept of requests that are over."""
    engine, runner = server.service.runner.engine, server.service.runner
    for number in range(30):
        server.complete(prompt="the", max_tokens=1)
        server.post(prompt="the", max_tokens=1, stream=bool(number % 2), n=2)
    until(server.is_free)
    assert not engine._handles
    assert not runner._live
    assert not runner._calls
    assert not runner._waiting
