"""Writing by turns: the user adds a line, the model goes on, and what came before can be taken back."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

import click

from xlab.commands.infer import in_options
from xlab.errors import DataError, GenerationError
from xlab.inference import Engine, Request

_COMMANDS = """\
/undo takes the last turn back, /retry lets the model write its part again, /show prints the whole text,
/reset begins anew, /quit (or Ctrl-D) ends. Ctrl-C stops the model in the middle of its turn.
The arrow keys bring back and edit what you wrote before."""

Turns = Sequence[tuple[str, str]]  # what the user wrote, and what the model went on with


class Talk(Protocol):
    """How turns become what the model is shown."""

    help: str

    def request(self, turns: Turns, line: str) -> Request:
        """Ask for what comes after all turns and a new line.

        Raises:
            XLabError: for what the model cannot be asked.
        """

    def shown(self, turns: Turns) -> str:
        """Give all that stands so far as people read it."""


class OneText:
    """For models that continue: both write one text, line after line.

    Args:
        request_of: makes a request of the whole text so far.
    """

    help = f"""\
Write something, and the model goes on from all that stands so far. An empty line lets it go on by itself.
{_COMMANDS}"""

    def __init__(self, request_of: Callable[[str], Request]) -> None:
        self._request_of = request_of

    def request(self, turns: Turns, line: str) -> Request:
        return self._request_of(self.shown([*turns, (line, "")]))

    def shown(self, turns: Turns) -> str:
        lines = [f"\n{asked}" if number and asked else asked for number, (asked, _) in enumerate(turns)]
        return "".join(asked + written for asked, (_, written) in zip(lines, turns, strict=True))


class Conversation:
    """For models that know a chat template: the user asks and the model answers.

    Args:
        request_of: makes a request of messages, each a role and a content, of which the last is the user's.
        room: the most tokens of what the model is shown; of longer conversations the first turns go.
    """

    help = f"""\
Ask something, and the model answers: by its chat template, and from all that was said so far.
{_COMMANDS}"""

    def __init__(self, request_of: Callable[[list[tuple[str, str]]], Request], *, room: int) -> None:
        self._request_of = request_of
        self._room = room

    def request(self, turns: Turns, line: str) -> Request:
        if not line.strip():
            raise GenerationError("say something: an empty line asks nothing")
        while True:
            said = [message for asked, written in turns for message in (("user", asked), ("assistant", written))]
            request = self._request_of([*said, ("user", line)])
            if not turns or len(request.prompt) <= self._room:
                return request
            turns = turns[1:]

    def shown(self, turns: Turns) -> str:
        return "\n\n".join(f"> {asked}\n{written}" for asked, written in turns)


def chat(engine: Engine, talk: Talk) -> None:
    """Take turns until the user ends it.

    Args:
        engine: what writes.
        talk: how the model is shown them.
    """
    with contextlib.suppress(ImportError):  # not on Windows
        import readline  # noqa: F401 (gives input() its history and editing)

    click.echo(talk.help)
    turns: list[tuple[str, str]] = []
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
            click.echo(talk.help)
        elif line == "/show":
            click.echo(talk.shown(turns))
        elif line == "/reset":
            turns.clear()
        elif line == "/undo":
            click.echo("there is nothing to take back" if not turns else f"taken back: {talk.shown([turns.pop()])}")
        elif line == "/retry" and turns:
            asked, _ = turns.pop()
            _take_turn(engine, talk, turns, asked)
        elif line.startswith("/"):
            click.echo(f"there is no {line}; /help tells what there is")
        else:
            _take_turn(engine, talk, turns, line)


def _take_turn(engine: Engine, talk: Talk, turns: list[tuple[str, str]], line: str) -> None:
    """Let the model write, and add the turn; none is added where it cannot be asked."""
    written, is_turn = "", True
    try:
        with contextlib.closing(engine.stream(talk.request(turns, line))) as pieces:
            for piece in pieces:
                written += piece.text
                click.echo(piece.text, nl=False)
    except KeyboardInterrupt:
        click.echo(" …", nl=False)
    except (GenerationError, DataError) as error:
        click.echo(f"({in_options(str(error))})", nl=False)
        is_turn = bool(written)
    click.echo()
    if is_turn:
        turns.append((line, written))
