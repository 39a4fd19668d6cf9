"""The whole bot between a stub of the Bot API and a stub of the service: what users see."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

from telegram_stub import USER, Answer, BotApi, Scene, driven, scene, units, until

from xlab.serving.telegram import handlers
from xlab.serving.telegram.generations import NOTHING
from xlab.serving.telegram.store import Bounds

OTHER = 2002


async def settled(there: Scene, text: str, user: int = USER) -> None:
    """Wait for a text with its buttons."""
    await until(lambda: any(shown.text == text and shown.buttons for shown in there.api.messages(user)))


class TestTexts:
    def test_a_text_is_continued_as_an_answer_to_it(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                number = there.api.write("Once")
                await settled(there, " and so on")
                (shown,) = there.api.messages()
                assert shown.reply_to == number
                assert list(shown.buttons) == ["🔁 Repeat", "➡️ Continue"]
                assert there.service.requests == [
                    {
                        "model": "tiny",
                        "prompt": "Once",
                        "max_tokens": 100,  # the service's limit is below the default
                        "temperature": 0.8,
                        "top_p": 0.95,
                        "truncate_prompt": True,
                        "stream": True,
                        "stream_options": {"include_usage": True},
                    }
                ]
                assert there.api.count("sendChatAction") >= 1

        driven(play())

    def test_a_text_longer_than_the_context_goes_on_after_its_own_end(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.answers.append(Answer([" one", " two"], reason="length", n_tokens=100))
                there.service.answers.append(Answer([" three"], reason="length", n_tokens=28))
                there.api.write("Count:")
                await settled(there, " one two three")
                asked = [(request["prompt"], request["max_tokens"]) for request in there.service.requests]
                assert asked == [("Count:", 100), ("Count: one two", 28)]

        driven(play())

    def test_markup_arrives_as_it_is_on_both_sides(self, tmp_path: Path) -> None:
        nasty = "<b>&amp;</b> *_`[x](tg://user?id=1) \\ &lt;<b>&"

        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.default = Answer([nasty[:3], nasty[3:]])
                there.api.write(nasty)
                await settled(there, nasty)
                assert there.service.requests[0]["prompt"] == nasty

        driven(play())

    def test_it_appears_while_it_is_written_but_not_faster_than_telegram_allows(self, tmp_path: Path) -> None:
        speed = 20.0

        async def play() -> None:
            gates = [asyncio.Event() for _ in range(2)]
            async with scene(tmp_path, speed=speed) as there:
                words: list[str | asyncio.Event] = ["Some", gates[0], *[" word"] * 300, gates[1], " end"]
                there.service.default = Answer(words)
                there.api.write("Write")
                await until(lambda: there.api.texts() == ["Some"])
                assert not there.api.messages()[0].buttons
                gates[0].set()
                await until(lambda: there.api.texts() == ["Some" + " word" * 300])
                gates[1].set()
                await settled(there, "Some" + " word" * 300 + " end")
                at = there.api.messages()[0].at
                assert len(at) < 12  # 302 pieces, a handful of calls
                assert all(later - earlier > 0.9 / speed for earlier, later in pairwise(at))

        driven(play())

    def test_a_long_text_is_split_at_4096_units_between_graphemes(self, tmp_path: Path) -> None:
        family = "👨‍👩‍👧‍👦"  # 11 units, one grapheme
        text = family * 455  # 5005 units

        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.default = Answer([text[i : i + 100] for i in range(0, len(text), 100)])
                there.api.write("Emoji")
                await until(lambda: any(shown.buttons for shown in there.api.messages()))
                first, second = there.api.messages()
                assert first.text + second.text == text
                assert units(first.text) == 4096 // 11 * 11
                assert not first.buttons
                assert second.buttons
                assert first.reply_to
                assert second.reply_to is None

        driven(play())

    def test_an_empty_text_is_said_to_be_one(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.answers.extend([Answer([]), Answer(["\n", " \n"])])
                for user in (USER, OTHER):
                    there.api.write("The end.", user)
                    await settled(there, NOTHING, user)
                    assert list(there.api.messages(user)[0].buttons) == ["🔁 Repeat"]

        driven(play())

    def test_one_text_at_a_time_for_a_user_but_many_users_at_once(self, tmp_path: Path) -> None:
        async def play() -> None:
            gate = asyncio.Event()
            async with scene(tmp_path) as there:
                there.service.default = Answer(["a", gate, "b"])
                there.api.write("first")
                there.api.write("second")
                await until(lambda: handlers.STILL_WRITING in there.api.texts())
                there.api.write("mine", user=OTHER)
                await until(lambda: "a" in there.api.texts() and "a" in there.api.texts(OTHER))
                gate.set()
                await settled(there, "ab")
                await settled(there, "ab", OTHER)
                assert [request["prompt"] for request in there.service.requests] == ["first", "mine"]

        driven(play())

    def test_stop_ends_a_text_where_it_is_and_the_service_is_told(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.default = Answer(["so far", asyncio.Event()])
                there.api.write("Write")
                await until(lambda: there.api.texts() == ["so far"])
                there.api.write("/stop")
                await settled(there, "so far")
                await until(lambda: there.service.n_left == 1)
                assert "Stopped." in there.api.texts()
                there.api.write("/stop")
                await until(lambda: "I am not writing anything." in there.api.texts())

        driven(play())


class TestButtons:
    def test_repeat_writes_the_same_anew_and_continue_goes_on(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.service.answers.extend([Answer([" one"]), Answer([" two"]), Answer([" three"])])
                number = there.api.write("Count:")
                await settled(there, " one")
                first = there.api.messages()[0]
                there.api.press(first.buttons["🔁 Repeat"], message=first.number)
                await settled(there, " two")
                second = there.api.messages()[1]
                there.api.press(second.buttons["➡️ Continue"], message=second.number)
                await settled(there, " three")
                prompts = [request["prompt"] for request in there.service.requests]
                assert prompts == ["Count:", "Count:", "Count: two"]
                assert [shown.reply_to for shown in there.api.messages()] == [number, number, second.number]
                await until(lambda: there.api.alerts == [(None, False)] * 2)

        driven(play())

    def test_buttons_and_settings_survive_a_restart(self, tmp_path: Path) -> None:
        async def play() -> None:
            api = BotApi()
            async with scene(tmp_path, api=api) as there:
                there.api.write("Once")
                await settled(there, " and so on")
                api.press("set:temperature:0.2")
                api.press("set:top_k:40")
                api.press("set:length:32")
                await until(lambda: len(api.alerts) == 3)
            pressed = api.messages()[0].buttons["➡️ Continue"]
            async with scene(tmp_path, api=api) as there:
                api.press(pressed)
                await until(lambda: len(there.service.requests) == 1)
                (request,) = there.service.requests
                assert request["prompt"] == "Once and so on"
                assert (request["temperature"], request["top_k"], request["max_tokens"]) == (0.2, 40, 32)

        driven(play())

    def test_a_button_whose_text_is_gone_says_so(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path, bounds=Bounds(texts_of_a_user=1)) as there:
                there.api.write("first")
                await settled(there, " and so on")
                old = there.api.messages()[0].buttons["🔁 Repeat"]
                there.api.write("second")
                await until(lambda: len([shown for shown in there.api.messages() if shown.buttons]) == 2)
                there.api.press(old)
                await until(lambda: there.api.alerts == [(handlers.STALE_TEXT, True)])
                assert len(there.service.requests) == 2

        driven(play())

    def test_no_one_can_press_another_ones_button(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.api.write("mine")
                await settled(there, " and so on")
                there.api.press(there.api.messages()[0].buttons["➡️ Continue"], user=OTHER)
                await until(lambda: there.api.alerts == [(handlers.STALE_TEXT, True)])
                assert len(there.service.requests) == 1

        driven(play())

    def test_a_button_of_another_version_says_so(self, tmp_path: Path) -> None:
        unknown = ["set:temperature:99", "set:nothing:1", "set:top_k", "other", "reset:x", "explain:x", "set:length:-1"]

        async def play() -> None:
            async with scene(tmp_path) as there:
                for data in unknown:
                    there.api.press(data)
                await until(lambda: there.api.alerts == [(handlers.STALE_BUTTON, True)] * len(unknown))

        driven(play())


class TestSettings:
    def test_every_setting_can_be_stepped_explained_and_taken_back(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                api = there.api
                api.write("/settings")
                await until(api.messages)
                (shown,) = api.messages()
                labels = [label for label in shown.buttons if label[0] not in "➖➕"]
                assert labels == [
                    "Temperature: 0.8",
                    "Top-k: off",
                    "Top-p: 0.95",
                    "Length: 128",
                    "Back to the defaults",
                ]
                api.press(shown.buttons["➕set:temperature:0.9"], message=shown.number)
                await until(lambda: "Temperature: 0.9" in shown.buttons)
                api.press(shown.buttons["➕set:top_k:1"], message=shown.number)
                await until(lambda: "Top-k: 1" in shown.buttons)
                api.press(shown.buttons["Top-p: 0.95"], message=shown.number)
                await until(lambda: api.alerts and api.alerts[-1][1])
                assert "probability" in str(api.alerts[-1][0])
                api.press(shown.buttons["Back to the defaults"], message=shown.number)
                await until(lambda: {"Temperature: 0.8", "Top-k: off"} <= shown.buttons.keys())

        driven(play())

    def test_one_users_settings_are_not_anothers(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.api.press("set:temperature:0")
                await until(lambda: there.api.alerts)
                there.api.write("x")
                there.api.write("y", user=OTHER)
                await until(lambda: len(there.service.requests) == 2)
                temperatures = {request["prompt"]: request["temperature"] for request in there.service.requests}
                assert temperatures == {"x": 0.0, "y": 0.8}

        driven(play())


class TestOtherMessages:
    def test_commands_are_answered_and_stand_in_the_menu(self, tmp_path: Path) -> None:
        says = {"/start": handlers.WELCOME, "/start payload": handlers.WELCOME, "/help@lab_bot": handlers.HELP}

        async def play() -> None:
            async with scene(tmp_path) as there:
                for user, command in enumerate(says, start=1):
                    there.api.write(command, user)
                for user, answer in enumerate(says.values(), start=1):
                    await until(lambda user=user, answer=answer: there.api.texts(user) == [answer])
                assert not there.service.requests
                (data,) = [data for method, data in there.api.calls if method == "setMyCommands"]
                assert all(word in data["commands"] for word in ("help", "settings", "stop"))

        driven(play())

    def test_a_path_is_a_text_not_a_command(self, tmp_path: Path) -> None:
        async def play() -> None:
            async with scene(tmp_path) as there:
                there.api.write("/usr/bin holds")
                await settled(there, " and so on")

        driven(play())

    def test_what_is_no_text_gets_one_line(self, tmp_path: Path) -> None:
        sticker = {"file_id": "f", "file_unique_id": "u", "type": "regular", "width": 1, "height": 1}
        album = [{"file_id": "f", "file_unique_id": "u", "width": 1, "height": 1}]

        async def play() -> None:
            async with scene(tmp_path) as there:
                there.api.write(None, sticker=sticker | {"is_animated": False, "is_video": False})
                for _ in range(5):
                    there.api.write(None, photo=album, caption="in here", media_group_id="1")
                there.api.write("after them")
                await settled(there, " and so on")
                assert there.api.texts().count(handlers.TEXT_ONLY) == 1

        driven(play())

    def test_groups_channels_and_bots_get_nothing(self, tmp_path: Path) -> None:
        chats: list[dict[str, Any]] = [{"id": -5, "type": "group"}, {"id": -6, "type": "supergroup"}]

        async def play() -> None:
            async with scene(tmp_path) as there:
                for chat in chats:
                    there.api.write("hello", chat=chat | {"title": "us"})
                    there.api.write("/start", chat=chat | {"title": "us"})
                there.api.write("I am one too", **{"from": {"id": 3, "is_bot": True, "first_name": "Bot"}})
                there.api.write("and I am not", user=OTHER)
                await settled(there, " and so on", OTHER)
                assert list(there.api.chats) == [OTHER]
                assert len(there.service.requests) == 1

        driven(play())
