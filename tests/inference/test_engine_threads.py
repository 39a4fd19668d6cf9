"""One thread steps the engine while others submit, cancel and look: each gets its own answer."""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from toy_decoder import Letters, make_decoder

from xlab.inference import Engine, Request
from xlab.inference.engine import Handle

DEADLINE = 10.0
decoder = make_decoder(n_layers=1)
alphabet = Letters([bytes([97 + i]) for i in range(17)])


@pytest.fixture(autouse=True)
def threads_in_turns() -> Iterator[None]:
    """Let threads change places as often as Python can, on one core."""
    n_threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
    torch.set_num_threads(n_threads)


class Stepper(threading.Thread):
    """Steps while there is something to do, and wakes those whose answers have come."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(daemon=True)
        self.engine = engine
        self.error: BaseException | None = None
        self.answered: dict[Handle, threading.Event] = {}
        self.new, self.stopping = threading.Event(), False

    def run(self) -> None:
        try:
            while not self.stopping:
                self.new.wait(DEADLINE)
                self.new.clear()
                while not self.engine.is_idle:
                    self.engine.step()
                    self.tell()
                self.tell()  # also those who were answered before they began to wait
        except BaseException as error:
            self.error = error

    def tell(self) -> None:
        for handle in list(self.answered):
            if handle.result is not None:
                self.answered.pop(handle).set()

    def ask(self, request: Request) -> tuple[Handle, threading.Event]:
        handle, event = self.engine.submit(request), threading.Event()
        self.answered[handle] = event
        self.new.set()
        return handle, event

    def stop(self) -> None:
        self.stopping = True
        self.new.set()
        self.join(DEADLINE)
        assert not self.is_alive()


def in_threads(n: int, work: Callable[[int], None]) -> None:
    """Run ``work`` in ``n`` threads, and raise what any of them did."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,), daemon=True) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def request(draw: random.Random) -> Request:
    prompt = [draw.randrange(17) for _ in range(draw.randint(1, 9))]
    several = {"seed": draw.randrange(99), "n": draw.randint(1, 3)}
    way: dict[str, Any] = draw.choice([{"temperature": 0}, several, {"seed": 3, "top_k": 4}])
    return Request(prompt, max_new_tokens=draw.randint(1, 9), eos_ids=[5], stop=["ab"], **way)


def test_many_who_ask_and_cancel_get_each_their_own_answer() -> None:
    engine = Engine(decoder, alphabet, max_rows=4)
    stepper = Stepper(engine)
    stepper.start()
    found: list[tuple[Request, Handle, bool]] = []

    def ask(number: int) -> None:
        draw = random.Random(number)
        for _ in range(12):
            asked = request(draw)
            handle, event = stepper.ask(asked)
            gives_up = draw.random() < 0.4
            if gives_up:
                if draw.random() < 0.5:
                    event.wait(draw.random() / 500)
                engine.cancel(handle)
                stepper.new.set()
            assert event.wait(DEADLINE), stepper.error
            found.append((asked, handle, gives_up))

    in_threads(8, ask)
    stepper.stop()
    assert stepper.error is None
    assert engine.is_idle
    assert not engine.rows.rows
    assert not engine._handles

    alone = Engine(decoder, alphabet, max_rows=4)
    expected = alone.generate([asked for asked, _, _ in found])
    for (_, handle, gives_up), whole in zip(found, expected, strict=True):
        assert handle.result is not None
        assert handle.result.error is None
        assert len(handle.result.completions) == len(whole.completions)
        for text, right in zip(handle.result.completions, whole.completions, strict=True):
            if text.finish_reason == "cancelled":
                assert gives_up
                assert right.tokens[: len(text.tokens)] == text.tokens
                assert right.text.startswith(text.text)
            else:
                assert (text.tokens, text.text, text.finish_reason) == (right.tokens, right.text, right.finish_reason)


def test_cancelling_while_waiting_running_and_after_the_end_is_the_same_call() -> None:
    engine = Engine(decoder, alphabet, max_rows=1)
    handles = [engine.submit(Request([i % 17], max_new_tokens=20, temperature=0)) for i in range(40)]
    start = threading.Barrier(5, timeout=DEADLINE)

    def work(number: int) -> None:
        start.wait()
        if number == 0:
            while not engine.is_idle:
                engine.step()
        else:
            for handle in handles[number - 1 :: 4]:
                engine.cancel(handle)
                engine.cancel(handle)

    in_threads(5, work)
    while not engine.is_idle:
        engine.step()
    assert all(handle.result is not None for handle in handles)
    for handle in handles:
        before = handle.result
        engine.cancel(handle)  # too late
        assert engine.step() == []
        assert handle.result is before


def test_a_refusal_in_one_thread_leaves_the_others_alone() -> None:
    engine = Engine(decoder, alphabet, max_rows=2)
    stepper = Stepper(engine)
    stepper.start()

    def work(number: int) -> None:
        for _ in range(20):
            if number % 2:
                with pytest.raises(ValueError, match="do not fit into 2 rows"):
                    engine.submit(Request([1], n=3))
            else:
                handle, event = stepper.ask(Request([number], max_new_tokens=2, temperature=0))
                assert event.wait(DEADLINE), stepper.error
                assert handle.result is not None
                assert len(handle.result.tokens) == 2

    in_threads(6, work)
    stepper.stop()
    assert stepper.error is None
    assert not engine._handles
