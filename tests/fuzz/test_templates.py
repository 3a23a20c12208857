"""Chat templates put together at random, and conversations that no client would send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuron_artifacts.errors import RequestError
from neuron_artifacts.runtime import chat
from neuron_artifacts.runtime.chat import render_chat
from tests.fuzz.inputs import JSON, NASTY_TEXT, changed, damaged, fuzz
from tests.runtime.test_chat import NAMES, source

SECRET = "a5c1d2-never-to-be-seen"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "12 + 30"}]},
    {"role": "assistant", "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": '{"a": 12}'}}]},
    {"role": "tool", "content": "42", "tool_call_id": "1"},
    {"role": "user", "content": "Thanks"},
]  # fmt: skip

ATOMS = st.sampled_from([
    "messages", "messages[0].content", "tools", "x", "ns", "ns.a", "''", "'ab'", "[]", "[1, 2]",
    "{'a': 1}", "(1, x)", "7", "2 ** 9", "0.5", "none", "true", "range(9)", "cycler", "joiner",
    "namespace", "dict", "self", "loop", "caller", "raise_exception", "strftime_now", "m",
])  # fmt: skip
STEPS = st.sampled_from([
    ".__class__", ".__init__", ".__globals__", ".__mro__", "['__class__']", "|attr('__class__')",
    ".__subclasses__()", ".mro()", ".gi_frame", ".f_back", ".f_globals", ".func_globals",
    ".format(x)", "|format(x)", "|join", "|list", "|tojson", "|string", "|map('upper')|list",
    "|map(attribute='__class__')|list", "|sort", "|length", "|replace('a', 'aaaa')", "|safe",
    "|batch(3)|list", "|center(900)", "|indent(9)", "|reverse", "|unique|list", "|groupby('role')",
    "[0]", "[::2]", "['content']", ".items()", ".append(1)", ".update(a=1)", "()", "(x)", "(loop)",
    " * 999", " + x", " ~ x ~ x", " % (1, 2)", " ** 99", " == x", " in messages", " is eq(x)",
    ".replace('a', x)", ".join(messages)", ".split('')", ".encode()", ".a.b.c", " if x else 1",
])  # fmt: skip
EXPRESSIONS = st.builds(
    lambda atom, steps: atom + "".join(steps), ATOMS, st.lists(STEPS, max_size=5)
)
BLOCKS = st.recursive(
    EXPRESSIONS.map(lambda e: f"{{{{ {e} }}}}") | st.sampled_from(["text", "\n", "{{", "{% if %}"]),
    lambda inner: st.builds(
        lambda form, e, body: form.replace("E", e).replace("B", "".join(body)),
        st.sampled_from([
            "{% for x in E %}B{% endfor %}", "{% for x in E recursive %}B{{ loop(E) }}{% endfor %}",
            "{% if E %}B{% else %}B{% endif %}", "{% set x = E %}B", "{% set ns.a = E %}B",
            "{% set ns = namespace(a=E) %}B", "{% set x %}B{% endset %}",
            "{% macro m(x) %}B{% endmacro %}{{ m(E) }}", "{% filter upper %}B{% endfilter %}",
            "{% macro m(x) %}B{{ m(x) }}{% endmacro %}{{ m(E) }}",
            "{% call m(E) %}B{% endcall %}", "{% generation %}B{% endgeneration %}",
            "{% with x = E %}B{% endwith %}", "{% for i in range(999) %}B{% endfor %}",
            "{% raw %}B{% endraw %}", "{% include E %}", "{% import E as x %}", "{% extends E %}",
        ]),
        EXPRESSIONS, st.lists(inner, max_size=3),
    ),
    max_leaves=6,
)  # fmt: skip


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_SECONDS", 1.0)
    monkeypatch.setenv("A_SECRET", SECRET)


def render(template: str, messages: Any, **options: Any) -> str:
    """The prompt, or nothing where the template or the messages are refused."""
    try:
        prompt, refused = render_chat(template, messages, **options), "no"
    except RequestError as error:
        prompt, refused = "", error.message
    assert 0 < len(refused) < 3000
    assert len(prompt) <= chat.MAX_CHARACTERS
    return prompt


@fuzz
@given(st.lists(BLOCKS, max_size=4).map("".join))
@example("{{ ''.__class__.__mro__[1].__subclasses__() }}")
@example("{{ cycler.__init__.__globals__.os.environ }}")
@example("{{ raise_exception.__globals__ }}")
@example("{{ strftime_now.__globals__ }}{{ (messages|tojson).__class__ }}")
@example("{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}")
@example("{{ self._TemplateReference__context.environment }}")
@example("{% for x in messages %}{{ loop.__class__ }}{% endfor %}")
def test_templates(template: str) -> None:
    """Text comes out, or a reason; never what lies outside the sandbox."""
    prompt = render(template, CHAT)
    for leak in (SECRET, "<class 'object'>", "<class 'type'>", "<module ", "__builtins__"):
        assert leak not in prompt


@fuzz
@given(st.sampled_from(NAMES), st.data())
def test_damaged_templates(name: str, data: st.DataObject) -> None:
    text = data.draw(damaged(source(name).encode())).decode("utf-8", "replace")
    render(text, CHAT, bos_token="<s>", eos_token="</s>")


@fuzz
@given(st.sampled_from(NAMES), changed(CHAT, 4), changed([{"type": "function"}]) | st.none())
@example(
    NAMES[0],
    [{"role": "assistant", "tool_calls": [{"function": {"arguments": "[" * 100_000}}]}],
    None,
)
def test_conversations(name: str, messages: Any, tools: Any) -> None:
    messages = messages if isinstance(messages, list) else [messages]
    tools = tools if isinstance(tools, list) else None
    render(source(name), messages, tools=tools)
    render(source(name), messages, add_generation_prompt=False, continue_final_message=True)


@fuzz
@given(st.dictionaries(st.sampled_from(["bos_token", "range", "loop", "self", "x"]), JSON))
def test_variables(variables: Any) -> None:
    """What a client sends along is data, and renders as it is."""
    template = "{{ x | tojson }}|{{ bos_token }}{% for i in [1] %}{{ loop.index }}{% endfor %}"
    prompt = render(template, CHAT, **variables)
    if prompt and "x" in variables:
        assert json.JSONDecoder().raw_decode(prompt)[0] == variables["x"]


@fuzz
@given(NASTY_TEXT | st.text(max_size=60))
def test_messages_are_no_templates(content: str) -> None:
    message = {"role": "user", "content": content}
    assert render("{{ messages[0].content }}", [message]) == content
