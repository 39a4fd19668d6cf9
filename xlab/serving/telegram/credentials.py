"""Secrets from the environment or a file, and a log that never shows them."""

import logging
import os
import re
from pathlib import Path

from xlab.errors import ConfigError

TOKEN_VARIABLE = "XLAB_TELEGRAM_TOKEN"
KEY_VARIABLE = "XLAB_API_KEY"
WEBHOOK_SECRET_VARIABLE = "XLAB_TELEGRAM_WEBHOOK_SECRET"
HIDDEN = "[hidden]"


def bot_token(file: str | None) -> str:
    """The bot's token, from a file if one is named, else from the environment.

    Raises:
        ConfigError: if there is none, or it is none that Telegram could have given; it is never shown.
    """
    token = _secret(file, TOKEN_VARIABLE)
    if token is None:
        raise ConfigError(
            f"the bot needs its token: set {TOKEN_VARIABLE} or give --token-file; @BotFather hands it out"
        )
    if not re.fullmatch(r"[0-9]{1,20}:[A-Za-z0-9_-]{8,128}", token):
        source = file or TOKEN_VARIABLE
        raise ConfigError(f"{source} holds no bot token: one looks like 123456789:AbC-dEf…; copy @BotFather's again")
    return token


def service_key(file: str | None) -> str | None:
    """The HTTP service's key; of several, on the lines of a file or between commas, the first.

    Raises:
        ConfigError: if it cannot be a key, or both a file and the environment give one.
    """
    if file is not None and os.environ.get(KEY_VARIABLE, "").strip():
        raise ConfigError(f"--api-key-file and {KEY_VARIABLE} both give keys; leave one out")
    keys = _secret(file, KEY_VARIABLE)
    if keys is None:
        return None
    # the file is the service's own, comments and all
    given = keys.split(",") if file is None else [line for line in keys.splitlines() if not line.startswith("#")]
    key = next((key.strip() for key in given if key.strip()), "")
    if not key or not all("!" <= character <= "~" for character in key):
        raise ConfigError(f"the key in {file or KEY_VARIABLE} is empty or not plain ASCII without spaces")
    return key


def webhook_secret(file: str | None) -> str | None:
    """What Telegram must show with every update, if it is set.

    Raises:
        ConfigError: if Telegram would not take it.
    """
    secret = _secret(file, WEBHOOK_SECRET_VARIABLE)
    if secret is not None and not re.fullmatch(r"[A-Za-z0-9_-]{16,256}", secret):
        source = file or WEBHOOK_SECRET_VARIABLE
        raise ConfigError(f"the secret in {source} must be 16 to 256 letters, digits, _ and -")
    return secret


def _secret(file: str | None, variable: str) -> str | None:
    if file is None:
        return os.environ.get(variable, "").strip() or None
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text") from None  # the error's own message shows a byte of it
    if not text:
        raise ConfigError(f"{file} is empty; write the secret into it")
    return text


def hide(text: str, *secrets: str | None) -> str:
    """A text with every secret in it replaced."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    return text


class HidingFormatter(logging.Formatter):
    """Formats a record, traceback included, and hides secrets in the result: the last line of defence.

    The first is that nothing hands a secret to a log: ``session.py`` takes the token out of what went wrong.
    """

    def __init__(self, form: str, *secrets: str | None) -> None:
        super().__init__(form)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines, of a record."""
        return hide(super().format(record), *self._secrets)
