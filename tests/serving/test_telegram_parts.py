"""The bot's parts by themselves: splitting, limits, the store, events, secrets, settings."""

import asyncio
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telegram_stub import units

from xlab.errors import ConfigError
from xlab.serving.telegram import credentials
from xlab.serving.telegram.clock import Clock
from xlab.serving.telegram.events import EVENT_LIMIT, EventStream
from xlab.serving.telegram.keyboards import changed, settings_keyboard, text_keyboard
from xlab.serving.telegram.limits import RateLimit, Seldom
from xlab.serving.telegram.settings import CHOICES, LABELS, MEANINGS, NAMES, WritingSettings, read, written
from xlab.serving.telegram.splitting import split, utf16_length
from xlab.serving.telegram.store import TEXT_LIMIT, Bounds, Store, StoredText

# the pieces that graphemes are made of, and some that are one by themselves
PIECES = [
    "a",
    "é",
    "e\u0301",
    " ",
    "\n",
    "\r\n",
    "😀",
    "👍🏽",
    "👨‍👩‍👧",
    "🇩🇪",
    "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "\u200d",
    "\u1112\u1161\u11ab",
    "한",
    "กำ",
    "नि",
]
texts = st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=100)


class ManualClock(Clock):
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time


class TestSplitting:
    @given(texts, st.integers(2, 30))
    def test_parts_fit_and_joined_are_the_text(self, text: str, limit: int) -> None:
        parts = split(text, limit)
        assert "".join(parts) == text
        assert all(0 < utf16_length(part) <= limit for part in parts)

    @given(texts)
    def test_lengths_are_what_utf16_has(self, text: str) -> None:
        assert utf16_length(text) == units(text)

    @given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
    def test_no_grapheme_is_cut(self, text: str) -> None:
        regex = pytest.importorskip("regex")
        borders, place = set(), 0
        for grapheme in regex.findall(r"\X", text):
            borders.add(place)
            place += len(grapheme)
        longest = max(map(units, regex.findall(r"\X", text)), default=0)
        cut = 0
        for part in split(text, max(longest, 2)):
            assert cut in borders
            cut += len(part)

    def test_a_grapheme_that_is_too_long_is_cut_between_characters(self) -> None:
        text = "e" + "\u0301" * 10_000
        assert list(map(len, split(text))) == [4096, 4096, 1809]

    def test_lines_and_words_stay_whole_where_they_end_near_the_limit(self) -> None:
        assert split("one two three\nfour five six", 16) == ["one two three\n", "four five six"]
        assert split("one two three four five", 16) == ["one two three ", "four five"]
        assert split("x" * 10 + " " + "y" * 100, 16)[0] == "x" * 10 + " " + "y" * 5

    def test_a_part_is_done_when_the_next_has_begun(self) -> None:
        text = "word and " * 1000
        for length in range(4097, 4200):
            assert split(text[:length])[0] == split(text)[0]

    def test_it_takes_a_long_text_without_delay(self) -> None:
        assert len(split("\u0301" * 100_000)) == 25
        assert len(split("🇩" * 100_000)) == 49


class TestLimits:
    def test_so_many_in_a_window_and_then_again(self) -> None:
        clock = ManualClock()
        limit = RateLimit(2, 60.0, clock)
        assert [limit.wait(1), limit.wait(1), limit.wait(1), limit.wait(2)] == [0, 0, 60, 0]
        clock.time += 45
        assert limit.wait(1) == 15
        clock.time += 15
        assert limit.wait(1) == 0

    def test_the_maps_stay_bounded(self) -> None:
        clock = ManualClock()
        limit, seldom = RateLimit(5, 60.0, clock, users_kept=100), Seldom(60.0, clock, kept=100)
        for user in range(10_000):
            limit.wait(user)
            seldom.due(user)
        assert len(limit) == len(seldom) == 100

    def test_a_thing_is_said_once_in_a_while(self) -> None:
        clock = ManualClock()
        seldom = Seldom(5.0, clock)
        assert [seldom.due("a"), seldom.due("a"), seldom.due("b")] == [True, False, True]
        clock.time += 5
        assert seldom.due("a")


def in_store(path: Path, scene: Any, **bounds: int) -> Any:
    async def play() -> Any:
        store = Store(path, bounds=Bounds(**bounds))
        try:
            return await scene(store)
        finally:
            await store.close()

    return asyncio.run(play())


class TestStore:
    def test_what_is_kept_is_there_after_a_restart_for_its_owner_only(self, tmp_path: Path) -> None:
        path, text = tmp_path / "new" / "bot.sqlite3", StoredText("<b>&", "'; DROP TABLE texts; \0 😀", 7)
        name = in_store(path, lambda store: store.keep(1, text))
        in_store(path, lambda store: store.change(1, lambda now: now.with_value("top_k", 5)))
        assert in_store(path, lambda store: store.text(1, name)) == text
        assert in_store(path, lambda store: store.text(2, name)) is None
        assert in_store(path, lambda store: store.settings(1)) == WritingSettings(top_k=5)
        assert in_store(path, lambda store: store.settings(2)) == WritingSettings()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    def test_it_stays_within_its_bounds_and_the_oldest_go(self, tmp_path: Path) -> None:
        async def fill(store: Store) -> list[list[int]]:
            names = {}
            for user in (1, 2, 3):
                for number in range(10):
                    names[user, number] = await store.keep(user, StoredText(str(number), "", None))
                await store.change(user, lambda now: now.with_value("length", 16))
            kept = [[n for n in range(10) if await store.text(user, names[user, n])] for user in (1, 2, 3)]
            return [*kept, [user for user in (1, 2, 3) if (await store.settings(user)).length == 16]]

        kept = in_store(tmp_path / "bot.sqlite3", fill, texts=6, texts_of_a_user=4, users=2)
        assert kept == [[], [8, 9], [6, 7, 8, 9], [2, 3]]

    def test_the_file_does_not_grow_for_ever(self, tmp_path: Path) -> None:
        async def fill(store: Store) -> None:
            for _ in range(60):
                await store.keep(1, StoredText("x" * 100_000, "y" * 100_000, None))

        path = tmp_path / "bot.sqlite3"
        in_store(path, fill, texts=5)
        assert path.stat().st_size < 5 * 4 * TEXT_LIMIT

    def test_of_a_long_text_the_end_is_kept(self, tmp_path: Path) -> None:
        async def keep(store: Store) -> StoredText | None:
            return await store.text(1, await store.keep(1, StoredText("a" * 9000 + "z", "b" * 9000 + "y", None)))

        stored = in_store(tmp_path / "bot.sqlite3", keep)
        assert (len(stored.prompt), stored.prompt[-1], len(stored.written), stored.written[-1]) == (
            8192,
            "z",
            8192,
            "y",
        )

    def test_changes_at_the_same_time_are_all_made(self, tmp_path: Path) -> None:
        async def change(store: Store) -> WritingSettings:
            values = {"temperature": 0.2, "top_k": 5, "top_p": 0.5, "length": 16}
            await asyncio.gather(
                *(store.change(1, lambda now, n=name, v=value: now.with_value(n, v)) for name, value in values.items())
            )
            return await store.settings(1)

        assert in_store(tmp_path / "bot.sqlite3", change) == WritingSettings(0.2, 5, 0.5, 16)

    @pytest.mark.parametrize("content", [b"no database, but long enough to look at" * 40, None])
    def test_what_is_no_database_of_the_bots_is_refused_and_left_alone(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "other.sqlite3"
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match="--database"):
            Store(path)
        assert content is None or path.read_bytes() == content

    @pytest.mark.parametrize("version", [0, 1])  # others count from 1 too
    def test_another_programs_database_is_refused(self, tmp_path: Path, version: int) -> None:
        import sqlite3

        path = tmp_path / "other.sqlite3"
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE theirs (x)")
            other.execute(f"PRAGMA user_version = {version}")
        other.close()
        with pytest.raises(ConfigError, match="not one of this bot's"):
            Store(path)


class TestEvents:
    @given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1)), st.data())
    def test_events_come_whole_however_bytes_are_cut(self, events: list[str], data: st.DataObject) -> None:
        end = data.draw(st.sampled_from(["\n", "\r\n"]))
        stream = "".join(f": comment{end}event: x{end}data: {event}{end}{end}" for event in events).encode()
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
        collected, events_found = EventStream(), []
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            events_found += collected.add(stream[start:stop])
        assert events_found == events

    def test_data_on_several_lines_is_one_event(self) -> None:
        assert list(EventStream().add(b"data: a\ndata:b\n\n\n")) == ["a\nb"]

    def test_an_endless_event_is_refused(self) -> None:
        for end in (b"", b"\n"):  # one endless line, and endless lines
            stream = EventStream()
            chunks = [b"data: " + b"x" * 65529 + end] * (3 * EVENT_LIMIT // 65536)
            with pytest.raises(ValueError, match="too long"):
                [list(stream.add(chunk)) for chunk in chunks]


class TestSettings:
    def test_every_choice_can_be_reached_written_and_read(self) -> None:
        assert NAMES == tuple(CHOICES) == tuple(LABELS) == tuple(MEANINGS)
        for name, choices in CHOICES.items():
            settings = WritingSettings()
            for _ in choices:
                settings = settings.with_value(name, settings.neighbours(name)[0])
            reached = [getattr(settings, name)]
            for _ in choices[1:]:
                settings = changed(settings, f"set:{name}:{written(settings.neighbours(name)[1])}")
                reached.append(getattr(settings, name))
            assert reached == list(choices)
            assert [read(name, written(value)) for value in choices] == list(choices)

    def test_what_buttons_carry_fits(self) -> None:
        boards = [settings_keyboard(WritingSettings()), text_keyboard("x" * 12)]
        carried = [button.callback_data or "" for board in boards for row in board.inline_keyboard for button in row]
        assert all(0 < len(data.encode()) <= 64 for data in carried)
        assert all(len(meaning) <= 200 for meaning in MEANINGS.values())  # an alert's limit


class TestCredentials:
    GOOD = "123456:" + "A" * 35

    def test_the_token_comes_from_a_file_or_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "token"
        file.write_text(f"{self.GOOD}\n")
        monkeypatch.setenv(credentials.TOKEN_VARIABLE, self.GOOD + "B")
        assert credentials.bot_token(str(file)) == self.GOOD
        assert credentials.bot_token(None) == self.GOOD + "B"

    @pytest.mark.parametrize("content", [b"", b" \n", b"hello", b"1:\xff\xfe", b"12:ab cd", b"1:" + b"x" * 1000])
    def test_a_wrong_token_is_refused_and_not_shown(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "token"
        file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            credentials.bot_token(str(file))
        assert not content.strip() or content.decode("latin1").strip() not in str(caught.value)

    def test_without_a_token_it_says_where_to_get_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(credentials.TOKEN_VARIABLE, raising=False)
        with pytest.raises(ConfigError, match="BotFather"):
            credentials.bot_token(None)
        with pytest.raises(ConfigError, match="cannot read /no/such"):
            credentials.bot_token("/no/such")

    def test_of_several_keys_the_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(credentials.KEY_VARIABLE, ", one, two")
        assert credentials.service_key(None) == "one"
        monkeypatch.delenv(credentials.KEY_VARIABLE)
        assert credentials.service_key(None) is None
        file = tmp_path / "keys"
        file.write_text("# of the service\n\none,and\ntwo\n")
        assert credentials.service_key(str(file)) == "one,and"
        monkeypatch.setenv(credentials.KEY_VARIABLE, "one")
        with pytest.raises(ConfigError, match="leave one out"):
            credentials.service_key(str(file))

    @pytest.mark.parametrize("key", ["a b", "a\r\nX: 1", ",", "schlüssel"])
    def test_a_key_that_no_header_can_hold_is_refused(self, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(credentials.KEY_VARIABLE, key)
        with pytest.raises(ConfigError):
            credentials.service_key(None)

    def test_a_log_line_hides_secrets_tracebacks_included(self) -> None:
        formatter = credentials.HidingFormatter("%(message)s", "geheim", None)
        try:
            raise ValueError("https://host/geheim/x")
        except ValueError as error:
            record = logging.LogRecord("x", 40, "f", 1, "said %s", ("geheim",), (type(error), error, None))
        line = formatter.format(record)
        assert "geheim" not in line
        assert line.count(credentials.HIDDEN) == 2
