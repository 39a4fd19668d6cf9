"""The bot when things go wrong: Telegram fails, the service fails, users flood, and nothing may leak or hang."""

import asyncio
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from telegram_stub import (
    KEY,
    TOKEN,
    USER,
    Answer,
    BotApi,
    Hang,
    Raw,
    Refuse,
    Scene,
    ServiceStub,
    driven,
    pressed,
    scene,
    until,
)

from xlab.errors import ConfigError
from xlab.serving.telegram import handlers, polling, session
from xlab.serving.telegram.generations import MISTAKE, NOT_SHOWN, RESTARTING
from xlab.serving.telegram.handlers import STRANGER
from xlab.serving.telegram.service import BROKE_OFF, DOWN, NO_ENTRY, STRANGE

CONFUSED = Raw(502, "<html>Bad gateway</html>")
TEXT = " and so on"


def finished(api: BotApi, text: str = TEXT, user: int = USER) -> bool:
    return any(shown.text == text and shown.buttons for shown in api.messages(user))


def is_writing() -> bool:
    """Whether the bot, which runs in this loop, is at a text: the service sees its client leave a moment before."""
    return any(task.get_coro().__qualname__ == "Generations._run" for task in asyncio.all_tasks())


async def written(there: Scene, prompt: str = "Once") -> None:
    there.api.write(prompt)
    await until(lambda: finished(there.api))


class TestTelegramFails:
    @pytest.mark.parametrize(
        "faults",
        [
            [Refuse(429, "Too Many Requests: retry after 3", retry_after=3)],
            [Refuse(500), Refuse(502), CONFUSED],
            [Raw(200, "no JSON"), Raw(200, '{"ok": true, "result": 7}'), Raw(500, "{}")],
        ],
        ids=["429", "500", "not the Bot API"],
    )
    def test_a_text_arrives_whatever_sending_and_editing_answer(self, tmp_path: Path, faults: list[Any]) -> None:
        async def play() -> None:
            gate = asyncio.Event()
            async with scene(tmp_path) as there:
                there.service.default = Answer([" and", gate, " so on"])
                for method in ("sendMessage", "editMessageText", "sendChatAction"):
                    there.api.fail(method, *faults)
                there.api.write("Once")
                await until(lambda: there.api.texts() == [" and"])
                gate.set()
                await until(lambda: finished(there.api))
                assert there.api.texts() == [TEXT]
                assert not there.api.faults["sendMessage"]
                assert not there.api.faults["editMessageText"]

        driven(play())

    def test_it_waits_as_long_as_telegram_says(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path, speed=20.0) as there:
                for prompt, answer in (("Once", TEXT), ("/help", handlers.HELP)):
                    there.api.fail("sendMessage", Refuse(429, "Too Many Requests", retry_after=8))
                    began = time.monotonic()
                    there.api.write(prompt)
                    await until(lambda text=answer: text in there.api.texts())
                    assert time.monotonic() - began >= 8 / 20.0
                assert there.api.count("sendMessage") == 4

        driven(play())

    def test_a_call_without_an_answer_is_made_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "CALL_TIMEOUT", 0.2)

        async def play() -> None:
            gate = asyncio.Event()
            async with scene(tmp_path) as there:
                there.service.default = Answer([" and", gate, " so on"])
                there.api.fail("sendMessage", Hang(takes_effect=False))
                there.api.write("Once")
                await until(lambda: there.api.texts() == [" and"])
                # the last edit arrives, its answer does not: the next is "not modified", and that is fine
                there.api.fail("editMessageText", *[Hang(takes_effect=True)] * 3)
                gate.set()
                await until(lambda: there.api.count("editMessageText") > 3)
                there.api.write("/stop")
                await until(lambda: len(there.api.texts()) > 1)
                assert there.api.texts()[0] == TEXT
                assert NOT_SHOWN not in there.api.texts()

        driven(play())

    @pytest.mark.parametrize(
        "fault",
        [
            Refuse(403, "Forbidden: bot was blocked by the user"),
            Refuse(400, "Bad Request: message to edit not found"),
        ],
        ids=["blocked", "deleted"],
    )
    def test_a_text_that_no_one_wants_is_not_written_on(self, tmp_path: Path, fault: Refuse) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.answers.append(Answer([" and", asyncio.Event()]))
                there.api.fail("sendMessage" if fault.status == 403 else "editMessageText", fault)
                there.service.answers[0].pieces = [" a", " b", *["c"] * 50, asyncio.Event()]
                there.api.write("Once")
                await until(lambda: there.service.n_left == 1 and not is_writing())
                await written(there, "Twice")  # and the next text is welcome

        driven(play())

    def test_a_text_that_telegram_refuses_is_said_to_be_one(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.api.fail("sendMessage", *[Refuse(400, "Bad Request: text must be non-empty")] * 2)
                there.service.answers.append(Answer(["\u2063"]))
                there.api.write("Once")
                await until(lambda: there.api.texts() == [NOT_SHOWN])

        driven(play())

    def test_asking_for_updates_lives_through_everything(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session, "CALL_TIMEOUT", 0.2)
        monkeypatch.setattr(polling, "CALL_TIMEOUT", 0.2)
        monkeypatch.setattr(polling, "LONG_POLL", 0)

        async def play() -> None:
            api = BotApi()
            api.fail("getMe", Refuse(500), CONFUSED)
            api.fail("deleteWebhook", Refuse(429, "Too Many Requests", retry_after=1))
            api.fail("setMyCommands", Refuse(400))
            faults = [Refuse(409, "Conflict: terminated by other getUpdates request"), Refuse(500), CONFUSED]
            api.fail("getUpdates", *faults, Refuse(429, "Too Many Requests", retry_after=2), Hang(takes_effect=False))
            async with scene(tmp_path, api=api) as there:
                await written(there)

        driven(play())
        assert "another program uses this bot's token (409 Conflict)" in caplog.text
        assert "Telegram asks for a pause (429); trying again in 2 s" in caplog.text

    def test_an_update_without_sense_does_not_hold_back_the_next(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                for update in (7, {"update_id": "x"}, {"new": {}}):
                    there.api.push(update)
                for update in ({}, {"message": {"text": 5}}, {"a_new_kind": {"text": "private words"}}):
                    there.api.push({"update_id": there.api.number(), **update})
                pressed_long_ago = pressed("set:x", USER, 1) | {"message": None}
                there.api.push({"update_id": there.api.number(), "callback_query": pressed_long_ago})
                await written(there)

        driven(play())
        # aiogram's warning of a kind that it does not know would quote it; here, warnings are errors
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    @pytest.mark.parametrize("status", [401, 404])
    def test_an_unknown_token_ends_the_bot(self, tmp_path: Path, status: int) -> None:
        async def play() -> None:
            api = BotApi()
            api.fail("getMe", Refuse(status, "Unauthorized"))
            with pytest.raises(ConfigError, match="does not know the bot's token"):
                async with scene(tmp_path, api=api):
                    pass

        driven(play())

    def test_a_clean_end_is_no_reason_to_answer_twice(self, tmp_path: Path) -> None:
        async def play() -> None:
            api = BotApi()
            api.write("Once")
            # until it is asked for the next, Telegram would bring this one again
            api.fail("getUpdates", None, *[Refuse(500)] * 100)
            async with scene(tmp_path, api=api, speed=1.0) as there:
                await until(lambda: finished(api))
                api.faults.clear()
                await there.end()
            async with scene(tmp_path, api=api) as there:
                api.write("Twice", 77)
                await until(lambda: finished(api, user=77))
                assert [request["prompt"] for request in there.service.requests] == ["Twice"]

        driven(play())


class TestTheServiceFails:
    def test_a_service_that_is_down_is_said_to_be(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path, service_at="http://127.0.0.1:9") as there:
                there.api.write("Once")
                await until(lambda: there.api.texts() == [DOWN])
                assert list(there.api.messages()[0].buttons) == ["🔁 Repeat"]  # to try again

        driven(play())

    def test_what_the_service_answers_is_put_into_words(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        says = [
            (Answer(status=429, headers={"Retry-After": "7"}), "busy. Please try again in 7 s."),
            (Answer(status=503, headers={"Retry-After": "9" * 5000}), "busy. Please try again in a moment."),
            (Answer(status=503), "busy. Please try again in a moment."),
            (Answer(status=500), DOWN),
            (Answer(status=401), NO_ENTRY),
            (Answer(status=400), "The model's service refuses: no"),
            (Answer(status=400, body="<html>"), STRANGE),
            (Answer(status=400, body="[" * 100_000), STRANGE),
            (Answer(status=302, headers={"Location": "/elsewhere"}, body=""), STRANGE),
            (Answer([], end="hang"), BROKE_OFF),
            (Answer([], end="open"), BROKE_OFF),
            (Answer([], end="cut"), BROKE_OFF),
            (Answer([], end="error"), BROKE_OFF),
            (Answer([5], end="done"), STRANGE),  # type: ignore[list-item]
            (Answer(["x" * (1 << 21)], end="done"), STRANGE),
        ]

        async def play() -> None:
            async with scene(tmp_path) as there:
                for user, (answer, expected) in enumerate(says, start=1):
                    there.service.answers.append(answer)
                    there.api.write("my words", user)
                    await until(lambda u=user: there.api.texts(u))
                    assert expected in there.api.texts(user)[0], answer

        driven(play())
        assert "my words" not in caplog.text

    @pytest.mark.parametrize("end", ["error", "cut", "open", "hang"])
    def test_what_was_written_before_it_failed_stays_and_can_go_on(self, tmp_path: Path, end: str) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.answers.append(Answer([" half"], end=end))
                there.api.write("Once")
                await until(lambda: there.api.texts() == [" half", BROKE_OFF])
                there.api.press(there.api.messages()[0].buttons["➡️ Continue"])
                await until(lambda: finished(there.api))
                assert there.service.requests[1]["prompt"] == "Once half"

        driven(play())

    @pytest.mark.parametrize("card", [[], {}, {"name": "x"}, {"name": 1, "limits": {"max_tokens": True}}])
    def test_a_model_card_without_sense(self, tmp_path: Path, card: Any) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.card = card
                there.api.write("Once")
                await until(lambda: there.api.texts() == [STRANGE])

        driven(play())

    def test_half_a_surrogate_pair_can_be_sent_and_stored(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.answers.append(Answer(["\ud83d!"]))
                there.api.write("Once")
                await until(lambda: finished(there.api, "\ufffd!"))

        driven(play())


class TestUsers:
    def test_a_stranger_gets_one_line_and_no_text(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path, allowed=frozenset({USER})) as there:
                for _ in range(9):
                    there.api.write("let me in", 666)
                    there.api.press("set:temperature:0", 666)
                await written(there)
                assert there.api.texts(666) == [STRANGER.format(user=666)]
                assert len(there.service.requests) == 1
                assert not there.api.alerts

        driven(play())

    def test_a_flood_gets_one_line_and_others_are_served(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path, rate=2, speed=1.0) as there:
                there.service.default = Answer([" x"])
                for _ in range(400):
                    there.api.write("again", 666)
                there.api.write("me too")
                await until(lambda: finished(there.api, " x"))
                await until(lambda: there.api.count("getUpdates") > 400 / 100)
                assert len(there.service.requests) <= 3
                assert there.api.count("sendMessage") < 8
                assert sum("a lot at once" in text for text in there.api.texts(666)) <= 2

        driven(play())

    def test_chats_that_telegram_holds_up_do_not_hold_up_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("xlab.serving.telegram.bot.FAREWELL", 0.1)

        class Holding(BotApi):
            async def _result(self, method: str, data: dict[str, str]) -> Any:
                if data.get("chat_id") in {"666", "667"}:
                    return Refuse(429, "Too Many Requests", retry_after=30)
                return await super()._result(method, data)

        async def play() -> None:
            async with scene(tmp_path, api=Holding(), speed=1.0) as there:
                for _ in range(50):
                    there.api.write("/help", 666)
                    there.api.write("/settings", 667)
                await written(there)

        driven(play())

    def test_the_rate_of_texts_holds_for_buttons_too(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path, rate=1) as there:
                await written(there)
                there.api.press(there.api.messages()[0].buttons["🔁 Repeat"])
                await until(lambda: there.api.alerts)
                assert "a lot at once" in str(there.api.alerts[0][0])
                assert len(there.service.requests) == 1

        driven(play())

    def test_only_so_many_texts_are_written_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("xlab.serving.telegram.generations.AT_ONCE", 2)

        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.default = Answer([" a", asyncio.Event()])
                for user in (1, 2, 3):
                    there.api.write("x", user)
                await until(lambda: there.api.texts(3) == [handlers.CROWDED])
                assert len(there.service.requests) <= 2

        driven(play())


class TestTheEnd:
    def test_texts_may_end_by_themselves(self, tmp_path: Path) -> None:
        async def play() -> None:
            gate = asyncio.Event()
            async with scene(tmp_path, drain=10.0) as there:
                there.service.default = Answer([" and", gate, " so on"])
                there.api.write("Once")
                await until(lambda: there.api.texts() == [" and"])
                there.stop.set()
                gate.set()
                await there.running
                assert finished(there.api)

        driven(play())

    def test_texts_that_take_too_long_are_ended_and_can_go_on_after_the_restart(self, tmp_path: Path) -> None:
        async def play() -> None:
            api = BotApi()
            async with scene(tmp_path, api=api, drain=0.0) as there:
                there.service.default = Answer([" half", asyncio.Event()])
                api.write("Once")
                await until(lambda: api.texts() == [" half"])
                await there.end()
                assert api.texts() == [" half", RESTARTING]
            async with scene(tmp_path, api=api) as there:
                api.press(api.messages()[0].buttons["➡️ Continue"])
                await until(lambda: finished(api))
                assert there.service.requests[0]["prompt"] == "Once half"

        driven(play())

    def test_an_end_while_telegram_cannot_be_reached(self, tmp_path: Path) -> None:
        async def play() -> None:
            api = BotApi()
            api.fail("getMe", *[Refuse(500)] * 1000)
            async with scene(tmp_path, api=api, waits=False) as there:
                await until(lambda: api.count("getMe") > 1)
                await there.end()

        driven(play())


class TestTheDatabaseFails:
    def test_a_text_arrives_without_buttons(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                with sqlite3.connect(tmp_path / "telegram.sqlite3") as other:
                    other.execute("DROP TABLE texts")
                other.close()
                there.api.write("my words")
                await until(lambda: there.api.texts() == [TEXT])
                there.api.press("repeat:x")
                await until(lambda: there.api.alerts == [(handlers.NO_MEMORY, True)])
                assert not there.api.messages()[0].buttons

        driven(play())
        assert "the bot's database does not work" in caplog.text
        assert "my words" not in caplog.text


class TestSecrets:
    def test_neither_token_nor_key_nor_text_reaches_a_log(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        elsewhere = Raw(302, "", {"Location": f"/bot{TOKEN}/getMe"})
        words = "quite private words"

        async def play() -> None:
            api = BotApi()
            # too many redirects: aiohttp's error quotes the URL, and the URL holds the token
            api.fail("getMe", *[elsewhere] * 12, Raw(302, "", {"Location": f"http://[{TOKEN}"}))
            api.fail("getUpdates", Raw(200, f'{{"ok": true, "result": "{words}"}}'), Raw(200, words))
            api.fail("sendMessage", Refuse(400, f"Bad Request: see https://api.telegram.org/bot{TOKEN}/x"))
            service = ServiceStub()
            service.answers.append(Answer(status=400, body=f'{{"error": {{"message": "{words}", "code": "{words}"}}}}'))
            async with scene(tmp_path, api=api, service=service) as there:
                api.write(f"first {words}")
                await until(lambda: len(service.requests) == 1)
                api.push({"update_id": api.number(), "message": {"text": words}})
                await until(lambda: api.messages() or not api.faults["sendMessage"])
                there.api.write(words, 77)
                await until(lambda: finished(api, user=77))

        driven(play())
        said = caplog.text + "".join(capfd.readouterr())
        assert "reaching Telegram" in said  # the failures were logged
        assert "makes no sense" in said
        for secret in (TOKEN, TOKEN.split(":")[1], KEY, words):
            assert secret not in said

    def test_a_mistake_of_ours_is_logged_by_its_place_alone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(text: str) -> list[str]:
            raise LookupError(text)

        monkeypatch.setattr("xlab.serving.telegram.live_answer.split", broken)

        async def play() -> None:
            async with scene(tmp_path) as there:
                there.api.write("Once")
                await until(lambda: there.api.texts() == [MISTAKE])
                there.api.write("/start")
                await until(lambda: handlers.WELCOME in there.api.texts())

        driven(play())
        assert "LookupError at" in caplog.text
        assert "so on" not in caplog.text
