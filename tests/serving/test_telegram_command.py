"""./serve.py telegram: options, one-line errors, and an end by SIGTERM in the real process."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from telegram_stub import KEY, TOKEN, Answer, BotApi, Raw, Refuse, ServiceStub, driven, serving, until

from xlab.serving.telegram import credentials
from xlab.serving.telegram.command import telegram

COMMAND = "from xlab.serving.telegram.command import telegram; telegram()"
ROOT = Path(__file__).parent.parent.parent


def called(*arguments: object, token: str | None = TOKEN) -> Result:
    return CliRunner(env={credentials.TOKEN_VARIABLE: token}).invoke(telegram, [str(word) for word in arguments])


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command sets up the log of its process, which here is the tests'."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("aiogram").setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--webhook-port", 1], "--webhook-port belongs to a webhook; add --webhook-url"),
        (["--webhook-secret-file", "x"], "--webhook-secret-file belongs to a webhook"),
        (["--webhook-url", "http://example.org/"], "--webhook-url must be https"),
        (["--webhook-url", "example.org"], "must look like https://host:port/path, got 'example.org'"),
        (["--drain", "nan"], "--drain must be a number of seconds, got nan"),
        (["--service", "http://x:port"], "--service 'http://x:port' is no URL"),
        (["--service", "http://me:word@x/"], "--service must not hold a user name or password"),
        (["--service", "http://x/?key=1"], "--service must look like"),
        (["--api-base", "ftp://x"], "--api-base must look like"),
        (["--token-file", "/no/such/file"], "cannot read /no/such/file"),
        (["--api-key-file", "/no/such/file"], "cannot read /no/such/file"),
        (["--database", "/dev/null/x"], "cannot open the bot's database /dev/null/x"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[object], says: str) -> None:
    result = called(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("serve.py telegram: error: ")
    assert says in result.stderr.splitlines()[-1]
    assert TOKEN not in result.output
    assert "word" not in result.stderr.replace("password", "")


def test_no_token_and_a_token_on_the_command_line() -> None:
    assert "set XLAB_TELEGRAM_TOKEN or give --token-file" in called(token=None).stderr
    assert called("--token", TOKEN).exit_code == 2  # there is no such option
    assert called("--allow", "0").exit_code == called("--rate", "0").exit_code == 2


def test_help_imports_nothing_heavy() -> None:
    script = f"""
        import sys
        sys.argv = ["x", "--help"]
        try:
            {COMMAND}
        except SystemExit:
            heavy = [name for name in ("aiogram", "aiohttp", "torch", "sqlite3") if name in sys.modules]
            sys.exit(repr(heavy) if heavy else 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "XLAB_TELEGRAM_TOKEN" in done.stdout


def test_the_process_serves_and_sigterm_ends_it_with_status_0(tmp_path: Path) -> None:
    async def play() -> None:
        api, service = BotApi(), ServiceStub()
        service.default = Answer([" half", asyncio.Event()])
        api.fail("getMe", Refuse(500), Raw(302, "", {"Location": f"http://[{TOKEN}"}))
        async with serving(api.application()) as api_base, serving(service.application()) as service_base:
            words = ["--api-base", api_base, "--service", service_base, "--drain", "0", "--debug"]
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-W", "error", "-c", COMMAND, *words, "--database", str(tmp_path / "bot.sqlite3")],
                cwd=ROOT,
                env=os.environ | {credentials.TOKEN_VARIABLE: TOKEN, credentials.KEY_VARIABLE: KEY},
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                await until(lambda: api.count("getUpdates") or process.returncode is not None)
                api.write("quite private words")
                await until(lambda: api.texts() == [" half"])
                process.send_signal(signal.SIGTERM)
                _, said = await asyncio.wait_for(process.communicate(), 15)
            finally:
                if process.returncode is None:
                    process.kill()
        log = said.decode()
        assert process.returncode == 0, log
        assert api.messages()[0].buttons
        assert "reaching Telegram" in log
        assert "stopped" in log
        for secret in (TOKEN, TOKEN.split(":")[1], KEY, "private words"):
            assert secret not in log

    driven(play())
