"""The sandbox of chat templates: Jinja in the dialect of Hugging Face's, in which every template ends."""

import json
import threading
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

MOST_STEPS = 200_000  # in one text: about a second; a conversation of a thousand messages takes some thousands


class Sandbox(ImmutableSandboxedEnvironment):
    """Makes templates, and counts what they do.

    Jinja's own sandbox keeps a template from what is not its own, and lets it go on for days: loops stand in loops, a
    macro calls itself twice. Here a round of a loop, a call of a macro, and an element of a range or a product are
    steps, and there is an end to them.
    """

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        extensions: list[Any] = ["jinja2.ext.loopcontrols", _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self._own = threading.local()  # each thread that writes has steps of its own
        del self.globals["lipsum"]  # makes as many words as it is asked for
        self.globals |= {"raise_exception": _refuse, "range": self._range}
        self.filters["tojson"] = _as_json

    def template(self, source: str) -> Template:
        """Make a template of which every step is counted.

        Raises:
            TemplateError: if it is none.
        """
        tree = self.parse(source)
        for loop in list(tree.find_all(nodes.For)):
            if loop.test is not None:  # what is passed over is a round as well
                loop.test = nodes.And(_step(loop), loop.test, lineno=loop.lineno)
        repeated: list[Any] = [*tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))]
        for node in repeated:
            node.body.insert(0, nodes.ExprStmt(_step(node), lineno=node.lineno))
        tree.set_environment(self)
        return self.from_string(tree)

    def write(self, template: Template, **names: Any) -> str:
        """Write a text.

        Raises:
            TemplateError: if it takes more than ``MOST_STEPS``.
            Exception: whatever else its operations raise.
        """
        self._own.steps = 0
        return template.render(**names)

    def spend(self, steps: int = 1) -> bool:
        """Count steps; true, so that a condition can ask it."""
        self._own.steps = done = getattr(self._own, "steps", 0) + steps
        if done > MOST_STEPS:
            raise TemplateError(f"it goes on beyond {MOST_STEPS:,} steps of loops, macros and ranges")
        return True

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiply, or raise to a power, what is not too large."""
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(one, str | list | tuple) and isinstance(other, int):
                self.spend(len(one) * max(other, 0))
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            self.spend(left.bit_length() * abs(right))
        return super().call_binop(context, operator, left, right)

    def _range(self, *bounds: int) -> range:
        numbers = safe_range(*bounds)
        self.spend(len(numbers))
        return numbers


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant says; here its place is found by where the model is asked."""

    tags = {"generation"}  # noqa: RUF012 (as the library has it)

    def parse(self, parser: Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _step(node: nodes.Node) -> nodes.Call:
    """A call of ``Sandbox.spend``, that no name of a template's own can take the place of."""
    return nodes.Call(nodes.EnvironmentAttribute("spend", lineno=node.lineno), [], [], None, None, lineno=node.lineno)


def _refuse(message: object) -> None:
    raise TemplateError(str(message))


def _as_json(value: object, indent: int | None = None) -> str:
    """Write JSON for a model: Jinja's own is for web pages, and spells HTML's signs and all but ASCII in codes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
