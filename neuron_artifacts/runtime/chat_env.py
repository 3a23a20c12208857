"""The jinja2 sandbox that chat templates run in."""

from __future__ import annotations

import contextvars
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_ITERATIONS = 1_000_000
MAX_REPEATED = 1 << 24
_MAX_EXPONENT = 4096
_PART_FILTERS = frozenset({"map", "selectattr", "rejectattr"})

_iterations: contextvars.ContextVar[list[int]] = contextvars.ContextVar("iterations")


class LimitExceeded(jinja2.TemplateError):
    """A template asks for more work than a prompt can need."""


@dataclass(frozen=True)
class Template:
    """A compiled template.

    ``loops_over_parts`` says that it goes through the parts of a message's content, and so
    reads a list of them where a client sent one.
    """

    compiled: jinja2.Template
    loops_over_parts: bool

    def generate(self, variables: Mapping[str, Any]) -> Iterator[str]:
        """The rendered text, piece by piece."""
        context = contextvars.copy_context()
        context.run(_iterations.set, [MAX_ITERATIONS])
        pieces = self.compiled.generate(dict(variables))
        while (piece := context.run(next, pieces, None)) is not None:
            yield piece


def compile_template(source: str) -> Template:
    """Compile a template.

    Raises
    ------
    jinja2.TemplateSyntaxError
        It is not Jinja.
    """
    environment = _make_environment()
    return Template(environment.from_string(source), _loops_over_content(environment.parse(source)))


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with bounds on ``*`` and ``**`` too: they can fill memory in one step."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if hasattr(text, "__len__") and isinstance(times, int):
                    _check(len(text) * times <= MAX_REPEATED, "it repeats text too often")
        elif isinstance(right, (int, float)):
            _check(abs(right) <= _MAX_EXPONENT, "it raises to too high a power")
        return super().call_binop(context, operator, left, right)


class _GenerationBlock(Extension):
    """``{% generation %}``: marks the assistant's text for training; only its text matters here."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, because names set inside must stay inside.
        return nodes.CallBlock(self.call_method("_pass_through"), [], [], body).set_lineno(line)

    def _pass_through(self, caller: jinja2.runtime.Macro) -> str:
        return caller()


class _Dict:
    """``dict`` without the class's own attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """``namespace`` that takes no names with a leading underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that a template may pass self=…
        self, *given = args
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _make_environment() -> jinja2.Environment:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True,
        extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"],
    )  # fmt: skip
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise, strftime_now=_strftime_now, range=_bounded_range,
        dict=_Dict(), namespace=_Namespace,
    )  # fmt: skip
    return environment


def _loops_over_content(tree: nodes.Template) -> bool:
    """Whether it loops over, or filters, ``….content`` or a name that stands for it."""
    macros = tree.find_all(nodes.Macro)
    aliases = {"content"} & {argument.name for macro in macros for argument in macro.args}
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, aliases):
            aliases.add(assignment.target.name)
    listed = [loop.iter for loop in tree.find_all(nodes.For)]
    filters = tree.find_all(nodes.Filter)
    listed += [f.node for f in filters if f.node and f.name in _PART_FILTERS]
    return any(_is_content(node, aliases) for node in listed)


def _is_content(node: nodes.Node, aliases: set[str]) -> bool:
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return isinstance(node, nodes.Name) and node.name in aliases


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
        sort_keys=sort_keys,
    )  # fmt: skip


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _bounded_range(*args: int) -> range:
    """``range``, whose lengths count against one allowance of a rendering."""
    numbers = range(*args)
    left = _iterations.get()
    left[0] -= len(numbers)
    _check(left[0] >= 0, "its loops run too often")
    return numbers


def _check(allowed: bool, reason: str) -> None:
    if not allowed:
        raise LimitExceeded(reason)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name like {name!r}")
