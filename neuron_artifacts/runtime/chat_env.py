"""The jinja2 sandbox that chat templates run in."""

from __future__ import annotations

import contextvars
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from neuron_artifacts.runtime import chat_limits as limits
from neuron_artifacts.runtime.chat_limits import Allowance, Counted

MAX_SOURCE = 1 << 20
_MAX_TIME_FORMAT = 1000
_PART_FILTERS = frozenset({"map", "selectattr", "rejectattr"})
_SLOW_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")
"""For web pages; some texts keep them busy for hours."""

_COMPARING = frozenset({
    "!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le",
    "lessthan", "lt", "ne",
})  # fmt: skip
_WHOLE = _COMPARING | frozenset({
    "capitalize", "center", "dictsort", "e", "escape", "forceescape", "format", "groupby",
    "indent", "join", "lower", "max", "min", "replace", "safe", "sort", "string", "sum", "title",
    "tojson", "trim", "truncate", "unique", "upper", "urlencode", "wordcount",
})  # fmt: skip
"""Tests and filters that compare or print all that a value holds."""

_FEW = 64
_OPERATORS = frozenset({"*", "**", "%", "+"})

T = TypeVar("T")


@dataclass(frozen=True)
class Template:
    """A compiled template.

    ``loops_over_parts`` says that it goes through the parts of a message's content, and so
    reads a list of them where a client sent one.
    """

    compiled: jinja2.Template
    loops_over_parts: bool

    def generate(self, variables: Mapping[str, Any], deadline: float) -> Iterator[str]:
        """The rendered text, piece by piece; ``deadline`` is of the monotonic clock."""
        context = contextvars.copy_context()
        context.run(limits.grant, Allowance(deadline))
        pieces = self.compiled.generate(dict(variables))
        while (piece := context.run(next, pieces, None)) is not None:
            yield piece


def compile_template(source: str) -> Template:
    """Compile a template.

    Raises
    ------
    jinja2.TemplateError
        It is not Jinja, or too long.
    """
    limits.check(len(source) <= MAX_SOURCE, f"it is longer than {MAX_SOURCE} characters")
    environment = _make_environment()
    tree = environment.parse(source)
    loops_over_parts = _loops_over_content(tree)
    return Template(environment.from_string(_Metered().visit(tree)), loops_over_parts)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, metered: see :mod:`neuron_artifacts.runtime.chat_limits`."""

    intercepted_binops = _OPERATORS

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        limits.check_operation(operator, left, right)
        return limits.charge(super().call_binop(context, operator, left, right))

    def call(  # names that no keyword of a template can have
        __self,
        __context: jinja2.runtime.Context,
        __callee: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        limits.step()
        method = getattr(__callee, "__wrapped__", __callee)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            limits.check_method(owner, method.__name__, args, kwargs)
        elif isinstance(__callee, jinja2.runtime.LoopContext):
            args = tuple(map(Counted, args))
        return limits.charge(super().call(__context, __callee, *args, **kwargs))

    def concat(self, parts: Any) -> str:
        """Puts together what a macro, a block or ``{% set %}`` has written."""
        parts = list(parts)
        limits.check_joined(parts)
        return limits.charge("".join(parts))

    def join_texts(self, parts: list[Any]) -> str:
        """The operator ``~``."""
        limits.check_joined(parts)
        text: str = jinja2.runtime.markup_join(parts)
        return text

    @staticmethod
    def count(items: Any) -> Counted:
        """What a loop goes through."""
        return Counted(items)

    @staticmethod
    def made(value: T) -> T:
        """A value that no operation or call has made."""
        return limits.charge(value)

    @staticmethod
    def whole(value: T) -> T:
        """A value that is going to be printed, hashed or compared with all it holds."""
        limits.spelled(value)
        return value


class _Metered(NodeTransformer):
    """Lets loops, ``~``, comparisons, slices and lists pass through the environment's meters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        items: Any = node.iter
        node.iter = _call("count", items)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("join_texts", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        parts: list[Any] = [node, *node.ops]
        for part in parts:
            if not isinstance(part.expr, nodes.Const):
                part.expr = _call("whole", part.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _call("made", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _call("made", node) if len(node.items) > _FEW else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _call("whole", node) if node.ctx == "load" else node


def _call(name: str, argument: nodes.Expr) -> nodes.Expr:
    line = argument.lineno
    method = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(method, [argument], [], None, None, lineno=line)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that counts as a step and is charged for what it makes."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0  # after a context or an environment

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        limits.step()
        if name == "join":  # which goes through its value twice
            args = (*args[:at], list(args[at]), *args[at + 1 :])
            limits.check_joined(args[at], kwargs.get("d", args[at + 1] if args[at + 1 :] else ""))
        if name in _WHOLE:
            for value in args[at:]:
                limits.spelled(value)
        if args[at + 1 :] or kwargs or name == "tojson":
            limits.check_method(args[at], name, args[at + 1 :], kwargs)
        made = function(*args, **kwargs)
        return iter(Counted(made)) if isinstance(made, Iterator) else limits.charge(made)

    return run


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
        trim_blocks=True, lstrip_blocks=True, finalize=_Sandbox.whole,
        extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"],
    )  # fmt: skip
    environment.filters["tojson"] = _to_json
    for functions in (environment.filters, environment.tests):
        calls: dict[str, Any] = dict(functions)
        functions.update({name: _metered(name, call) for name, call in calls.items()})
    for name in _SLOW_FILTERS:
        del environment.filters[name]
    del environment.globals["lipsum"]
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
    limits.spelled(message)
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    limits.check(len(form) <= _MAX_TIME_FORMAT, "it asks for the time at too great a length")
    return datetime.now().strftime(form)


def _bounded_range(*args: int) -> range:
    numbers = range(*args)
    limits.check(len(numbers) <= limits.MAX_STEPS, "its loops run too often")
    return numbers


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name like {name!r}")
