"""What survives a restart: each user's settings and the texts behind buttons, in SQLite, bounded."""

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from xlab.errors import ConfigError, XLabError
from xlab.serving.telegram.settings import NAMES, WritingSettings

T = TypeVar("T")

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE settings (
    user INTEGER PRIMARY KEY, temperature REAL, top_k INTEGER, top_p REAL, length INTEGER, touched INTEGER NOT NULL
);
CREATE INDEX settings_by_age ON settings (touched);
CREATE TABLE texts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, user INTEGER NOT NULL,
    message INTEGER, prompt TEXT NOT NULL, written TEXT NOT NULL
);
CREATE INDEX texts_by_user ON texts (user, number);
"""
TEXT_LIMIT = 8192  # characters of a prompt and of what was written; of longer ones the end is kept


class StoreError(XLabError):
    """The database does not work right now, such as on a full disk."""


@dataclass(frozen=True)
class Bounds:
    """How many rows are kept; the oldest go first."""

    users: int = 20_000
    texts: int = 5_000
    texts_of_a_user: int = 50


@dataclass(frozen=True)
class StoredText:
    """What stands behind a message's buttons.

    Attributes:
        prompt: what was continued.
        written: what the model wrote.
        message: the message that asked for it, if one did.
    """

    prompt: str
    written: str
    message: int | None


class Store:
    """The database; one thread of its own does the waiting for the disk.

    Args:
        path: made if it is not there, readable by its owner alone.

    Raises:
        ConfigError: if there can be no such file, or it is not a database of this bot's.
    """

    def __init__(self, path: Path, *, bounds: Bounds = Bounds()) -> None:
        self._bounds = bounds
        # one thread and one connection: what is asked first is done first
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="telegram-store")
        try:
            self._connection = self._thread.submit(_open, path).result()
        except (OSError, sqlite3.Error) as error:
            self._thread.shutdown()
            raise ConfigError(f"cannot open the bot's database {path}: {error}; give another --database") from error
        except ConfigError:
            self._thread.shutdown()
            raise

    async def settings(self, user: int) -> WritingSettings:
        """What a user has set, or the defaults."""
        return await self._do(lambda: self._settings(user))

    async def change(self, user: int, change: Callable[[WritingSettings], WritingSettings]) -> WritingSettings:
        """Change a user's settings and return them; no other change comes between.

        Whoever has not changed theirs for longest falls out beyond the bound.

        Raises:
            ValueError: if ``change`` does.
        """

        def write() -> WritingSettings:
            settings = change(self._settings(user))
            with self._connection:
                self._connection.execute(
                    "INSERT OR REPLACE INTO settings (user, temperature, top_k, top_p, length, touched) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    [user, *(getattr(settings, name) for name in NAMES), time.time_ns()],
                )
                self._connection.execute(
                    "DELETE FROM settings WHERE user IN "
                    "(SELECT user FROM settings ORDER BY touched DESC LIMIT -1 OFFSET ?)",
                    [self._bounds.users],
                )
            return settings

        return await self._do(write)

    async def keep(self, user: int, text: StoredText) -> str:
        """Keep a text and return its name; the user's oldest, and the oldest of all, fall out beyond the bounds."""
        # drawn, not counted: with a new database, the old one's buttons must not find another text
        name = secrets.token_urlsafe(9)

        def write() -> None:
            with self._connection:
                self._connection.execute(
                    "INSERT INTO texts (id, user, message, prompt, written) VALUES (?, ?, ?, ?, ?)",
                    [name, user, text.message, text.prompt[-TEXT_LIMIT:], text.written[-TEXT_LIMIT:]],
                )
                self._connection.execute(
                    "DELETE FROM texts WHERE number IN "
                    "(SELECT number FROM texts WHERE user = ? ORDER BY number DESC LIMIT -1 OFFSET ?)",
                    [user, self._bounds.texts_of_a_user],
                )
                self._connection.execute(
                    "DELETE FROM texts WHERE number IN "
                    "(SELECT number FROM texts ORDER BY number DESC LIMIT -1 OFFSET ?)",
                    [self._bounds.texts],
                )

        await self._do(write)
        return name

    async def text(self, user: int, name: str) -> StoredText | None:
        """The text of that name, if it is still there and is this user's."""
        query = "SELECT prompt, written, message FROM texts WHERE id = ? AND user = ?"
        row = await self._do(lambda: self._row(query, name, user))
        return None if row is None else StoredText(*row)

    async def close(self) -> None:
        """Finish what was asked, and close the file."""
        with suppress(StoreError):
            await self._do(self._connection.close)
        self._thread.shutdown()

    def _settings(self, user: int) -> WritingSettings:
        settings = WritingSettings()
        row = self._row(f"SELECT {', '.join(NAMES)} FROM settings WHERE user = ?", user)
        for name, value in zip(NAMES, row or (), strict=row is not None):
            with suppress(ValueError):  # a choice that an earlier version offered
                settings = settings.with_value(name, value)
        return settings

    def _row(self, query: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return row

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreError(f"the bot's database does not work: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # people's texts: not for everyone on this machine
    connection = sqlite3.connect(path, timeout=5.0)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and (version != SCHEMA_VERSION or not tables >= {"settings", "texts"}):
            raise ConfigError(f"{path} is a database, but not one of this bot's; give another --database")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")  # a text that falls out is gone from the file too
        if not tables:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection
