"""Writing by turns: the user adds a line, the model goes on, and what came before can be taken back."""

import contextlib
from collections.abc import Callable

import click

from xlab.commands.infer import in_options
from xlab.errors import DataError, GenerationError
from xlab.inference import Engine, Request

HELP = """\
Write something, and the model goes on from all that stands so far. An empty line lets it go on by itself.
/undo takes the last turn back, /retry lets the model write its part again, /show prints the whole text,
/reset begins anew, /quit (or Ctrl-D) ends. Ctrl-C stops the model in the middle of its turn.
The arrow keys bring back and edit what you wrote before."""


def chat(engine: Engine, request_of: Callable[[str], Request]) -> None:
    """Take turns until the user ends it.

    Args:
        engine: what writes.
        request_of: makes a request of the whole text so far.
    """
    with contextlib.suppress(ImportError):  # not on Windows
        import readline  # noqa: F401 (gives input() its history and editing)

    click.echo(HELP)
    turns: list[tuple[str, str]] = []  # what the user wrote, and what the model went on with
    while True:
        try:
            line = input("\n> ")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        except RuntimeError as error:  # input() has lost it
            raise DataError("standard input is closed; --chat reads what you write from it") from error
        except UnicodeDecodeError as error:
            raise DataError("what you wrote is not UTF-8; check your terminal's encoding") from error
        if line == "/quit":
            return
        if line == "/help":
            click.echo(HELP)
        elif line == "/show":
            click.echo(_text(turns))
        elif line == "/reset":
            turns.clear()
        elif line == "/undo":
            click.echo("there is nothing to take back" if not turns else "taken back: " + "".join(turns.pop()).strip())
        elif line == "/retry" and turns:
            asked, _ = turns.pop()
            turns.append((asked, _turn(engine, request_of, _text(turns) + asked)))
        elif line.startswith("/"):
            click.echo(f"there is no {line}; /help tells what there is")
        else:
            asked = f"\n{line}" if turns and line else line
            turns.append((asked, _turn(engine, request_of, _text(turns) + asked)))


def _turn(engine: Engine, request_of: Callable[[str], Request], text: str) -> str:
    written = ""
    try:
        with contextlib.closing(engine.stream(request_of(text))) as pieces:
            for piece in pieces:
                written += piece.text
                click.echo(piece.text, nl=False)
    except KeyboardInterrupt:
        click.echo(" …", nl=False)
    except GenerationError as error:
        click.echo(f"({in_options(str(error))})", nl=False)
    click.echo()
    return written


def _text(turns: list[tuple[str, str]]) -> str:
    return "".join(asked + written for asked, written in turns)
