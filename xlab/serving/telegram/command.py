"""./serve.py telegram: options, secrets and log of the bot; nothing heavy before they are known to be right."""

import logging
import math
import secrets
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from xlab.errors import ConfigError, XLabError
from xlab.serving.telegram.credentials import HidingFormatter, bot_token, hide, service_key, webhook_secret

if TYPE_CHECKING:
    from xlab.serving.telegram.bot import BotSettings

TELEGRAM = "https://api.telegram.org"
WEBHOOK_HOST, WEBHOOK_PORT = "127.0.0.1", 8081


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110})
@click.option("--service", default="http://127.0.0.1:8000", help="Where ./serve.py http answers.")
@click.option("--api-key-file", help="File with the service's key.  [default: XLAB_API_KEY]")
@click.option("--token-file", help="File with the bot's token.  [default: XLAB_TELEGRAM_TOKEN]")
@click.option(
    "--allow", multiple=True, type=click.IntRange(min=1), metavar="USER_ID", help="Serve this user; may be repeated."
)
@click.option("--rate", type=click.IntRange(1, 1000), default=10, help="Texts that a user may ask for in a minute.")
@click.option("--database", default="logs/telegram.sqlite3", help="File for settings and the texts behind buttons.")
@click.option("--drain", type=click.FloatRange(0, 600), default=10.0, help="Seconds for texts to end after SIGTERM.")
@click.option("--api-base", default=TELEGRAM, help="Where the Bot API answers.")
@click.option("--webhook-url", help="Let Telegram bring updates to this URL, instead of asking for them.")
@click.option("--webhook-host", help=f"Where the webhook listens.  [default: {WEBHOOK_HOST}]")
@click.option("--webhook-port", type=click.IntRange(0, 65535), help=f"Its port.  [default: {WEBHOOK_PORT}]")
@click.option(
    "--webhook-secret-file",
    help="File with what Telegram must show.  [default: XLAB_TELEGRAM_WEBHOOK_SECRET, else drawn at every start]",
)
@click.option("--debug", is_flag=True, help="Log more, and show the traceback of an error.")
def telegram(debug: bool, **options: Any) -> None:
    """Let a Telegram bot continue the texts it is sent, with the model that ./serve.py http serves.

    \b
    export XLAB_TELEGRAM_TOKEN=…                                  from @BotFather
    ./serve.py telegram                                           the service on this machine, everyone may write
    ./serve.py telegram --allow 11111111 --allow 22222222         these two only
    ./serve.py telegram --webhook-url https://example.org/xlab    behind a proxy that speaks TLS
    """
    hidden: list[str | None] = []
    try:
        settings = settings_of(options)
        hidden += [settings.token, settings.key, settings.webhook.secret if settings.webhook else None]
        log_to_stderr(logging.DEBUG if debug else logging.INFO, *hidden)
        from xlab.serving.telegram.bot import run_until_signalled

        run_until_signalled(settings)
    except (XLabError, OSError) as error:
        if debug:
            click.echo(hide(traceback.format_exc(), *hidden), err=True)
        message = " ".join(hide(str(error), *hidden).split())
        click.echo(f"serve.py telegram: error: {message}", err=True)
        sys.exit(2)


def settings_of(options: dict[str, Any]) -> "BotSettings":
    """Check the options and read the secrets.

    Raises:
        ConfigError: for what cannot be, or is missing.
    """
    for name in ("webhook_host", "webhook_port", "webhook_secret_file"):
        if options[name] is not None and options["webhook_url"] is None:
            raise ConfigError(f"--{name.replace('_', '-')} belongs to a webhook; add --webhook-url")
    if not math.isfinite(options["drain"]):
        raise ConfigError(f"--drain must be a number of seconds, got {options['drain']}")
    service = checked_url(options["service"], "--service")
    api_base = checked_url(options["api_base"], "--api-base")
    token, key = bot_token(options["token_file"]), service_key(options["api_key_file"])
    secret = webhook_secret(options["webhook_secret_file"]) if options["webhook_url"] else None
    if options["webhook_url"]:
        checked_url(options["webhook_url"], "--webhook-url", tls=api_base == TELEGRAM)
    try:
        from xlab.serving.telegram.bot import BotSettings  # aiogram: some seconds, which --help does not need
        from xlab.serving.telegram.webhook import WebhookSettings
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing, which XLab requires; install its requirements anew") from error
    webhook = None
    if options["webhook_url"]:
        webhook = WebhookSettings(
            options["webhook_url"],
            host=options["webhook_host"] or WEBHOOK_HOST,
            port=WEBHOOK_PORT if options["webhook_port"] is None else options["webhook_port"],
            secret=secret or secrets.token_urlsafe(32),
        )
    return BotSettings(
        token,
        api_base=api_base,
        service=service,
        key=key,
        allowed=frozenset(options["allow"]),
        rate=options["rate"],
        database=Path(options["database"]).expanduser(),
        drain=options["drain"],
        webhook=webhook,
    )


def checked_url(url: str, option: str, *, tls: bool = False) -> str:
    """Give back a URL that can be called.

    Raises:
        ConfigError: if it cannot be one, or holds a password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number is found here
    except ValueError as error:
        raise ConfigError(f"{option} {url!r} is no URL: {error}") from error
    if "@" in parts.netloc:
        raise ConfigError(f"{option} must not hold a user name or password: the command line is for all to see")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(f"{option} must look like https://host:port/path, got {url!r}")
    if tls and parts.scheme != "https":
        raise ConfigError(f"{option} must be https: Telegram brings updates by TLS only, got {url!r}")
    return url.rstrip("/")


def log_to_stderr(level: int, *hidden: str | None) -> None:
    """Log lines with their time and level; no secret is ever in one."""
    handler = logging.StreamHandler()
    handler.setFormatter(HidingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", *hidden))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("aiogram").setLevel(logging.WARNING)  # a line for every update says nothing new
