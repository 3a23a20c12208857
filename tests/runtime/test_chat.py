"""Chat templates: as transformers renders them, and within bounds."""

from __future__ import annotations

import copy
import json
from datetime import datetime
from typing import Any

import pytest

from neuron_artifacts.errors import RequestError
from neuron_artifacts.runtime import chat, chat_env
from neuron_artifacts.runtime.chat import prepare_messages, render_chat
from neuron_artifacts.runtime.chat_env import compile_template
from tests.reference.chat_cases import (
    ANSWER,
    ASK,
    CALL,
    CONVERSATIONS,
    EXPECTED,
    NOW,
    TEMPLATES,
    message,
    special_tokens,
)

GOLDEN: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
NAMES = sorted(GOLDEN.keys() - {"transformers"})
TAKES_PARTS = {"mistral-v1", "mistral-v3", "mistral-v3-tekken", "mistral-v7-tekken", "qwen2.5-vl"}


@pytest.fixture(autouse=True)
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Frozen:
            return cls(*NOW.timetuple()[:6])

    monkeypatch.setattr(chat_env, "datetime", Frozen)


def source(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def render(name: str, case: dict[str, Any]) -> str:
    options = {"add_generation_prompt": True, **special_tokens(name), **case}
    return render_chat(source(name), options.pop("messages"), **options)


def test_goldens_cover_every_template_and_conversation() -> None:
    assert {path.stem for path in TEMPLATES.glob("*.jinja")} == set(NAMES)
    assert all(GOLDEN[name].keys() == CONVERSATIONS.keys() for name in NAMES)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_renders_as_transformers(name: str, conversation: str) -> None:
    case = dict(CONVERSATIONS[conversation])
    before = copy.deepcopy(case)
    expected = GOLDEN[name][conversation]
    if conversation == "parts" and name not in TAKES_PARTS:
        expected = render(name, {"messages": [message("user", "12 + 30")]})
    if isinstance(expected, dict):
        with pytest.raises(RequestError) as caught:
            render(name, case)
        assert expected["error"] in caught.value.message
        assert caught.value.param in ("messages", "continue_final_message")
    else:
        assert render(name, case) == expected
    assert case == before


@pytest.mark.parametrize("name", NAMES)
def test_tells_templates_that_take_parts(name: str) -> None:
    assert compile_template(source(name)).loops_over_parts == (name in TAKES_PARTS)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for p in messages[0].content %}{{ p.text }}{% endfor %}", True),
        ("{% set c = messages[0]['content'] %}{% for p in c %}{% endfor %}", True),
        ("{% macro f(content) %}{% for p in content %}{% endfor %}{% endmacro %}", True),
        ("{{ messages[0].content | map(attribute='text') | join }}", True),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% for line in messages[0].content.split('x') %}{% endfor %}", False),
        ("{{ messages[0].content | trim }}", False),
    ],
)
def test_recognises_loops_over_parts(template: str, expected: bool) -> None:
    assert compile_template(template).loops_over_parts is expected


@pytest.mark.parametrize("name", ["llama-3.1", "mistral-v3", "qwen2.5", "qwen3"])
def test_openai_arguments_are_objects_to_templates(name: str) -> None:
    function = {**CALL["function"], "arguments": json.dumps(CALL["function"]["arguments"])}
    case = dict(CONVERSATIONS["tool call"])
    ask, _, result = case["messages"]
    called = message("assistant", tool_calls=[{**CALL, "function": function}])
    assert render(name, case | {"messages": [ask, called, result]}) == GOLDEN[name]["tool call"]


def test_a_call_without_text_has_empty_text() -> None:
    called = message("assistant", tool_calls=[CALL])
    for spelled in ({"content": None}, {}):
        chat = prepare_messages([{k: v for k, v in called.items() if k != "content"} | spelled])
        assert chat[0]["content"] == ""
    assert "content" not in prepare_messages([{"role": "assistant"}])[0]


def test_parts_are_joined_by_lines() -> None:
    parts = [{"type": "text", "text": "12"}, {"type": "text", "text": "30"}]
    assert prepare_messages([message("user", parts)])[0]["content"] == "12\n30"
    assert prepare_messages([message("user", parts)], parts=True)[0]["content"] == parts


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["hello"],
        [{"content": "x"}],
        [{"role": 3, "content": "x"}],
        [message("user", 12)],
        [message("user", object())],
        [message("user", [{"type": "image_url", "image_url": {"url": "data:"}}])],
        [message("user", [{"type": "text"}])],
        [message("user", [["x"]])],
        [message("assistant", tool_calls="x")],
        [message("assistant", tool_calls=[{"function": {"name": "f", "arguments": "{"}}])],
    ],
)
def test_refuses_malformed_messages(messages: list[Any]) -> None:
    with pytest.raises(RequestError) as caught:
        render_chat("{{ messages }}", messages)
    assert caught.value.param == "messages"


def test_continuing_and_prompting_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="exclude"):
        render_chat(source("qwen3"), [ASK, ANSWER], continue_final_message=True)


def test_continuing_needs_the_message_in_the_prompt() -> None:
    with pytest.raises(RequestError, match="leaves out"):
        render_chat(
            "{{ messages[0].content }}", [ASK, ANSWER],
            add_generation_prompt=False, continue_final_message=True,
        )  # fmt: skip


def test_last_part_is_continued() -> None:
    parts = [{"type": "text", "text": "The"}, {"type": "text", "text": "sum"}]
    prompt = render_chat(
        "{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}",
        [message("assistant", parts)],
        add_generation_prompt=False,
        continue_final_message=True,
    )
    assert prompt == "[The][sum"
    assert parts[1]["text"] == "sum"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].__class__.__mro__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% set ns = namespace(_x=1) %}",
        "{% set ns = namespace() %}{% set ns.__html__ = 1 %}",
        "{{ dict.__subclasses__() }}",
        "{{ raise_exception('no') }}",
        "{{ undefined.field }}",
        "{{ 1 // 0 }}",
        "{% for i in range(3) %}",
        "{% frobnicate %}",
    ],
)
def test_template_trouble_is_a_request_error(template: str) -> None:
    with pytest.raises(RequestError):
        assert not render_chat(template, [ASK])


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(999999) %}{% for j in range(999999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 999999999999 }}",
        "{{ 9 * [0] * 999999999 }}",
        "{{ 9 ** 999999999 }}",
        "{% for i in range(900000) %}{{ 'a' * 100 }}{% endfor %}",
    ],
)
def test_work_is_bounded(template: str) -> None:
    with pytest.raises(RequestError, match=r"often|high|more text"):
        render_chat(template, [ASK])


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_SECONDS", -1.0)
    with pytest.raises(RequestError, match="longer"):
        render_chat("{{ 1 }}{% if messages %}2{% endif %}", [ASK])


def test_each_rendering_has_its_own_allowance() -> None:
    template = "{% for i in range(600000) %}{% endfor %}done"
    assert [render_chat(template, [ASK]) for _ in range(2)] == ["done"] * 2


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
         "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "013"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{{ dict(a=1) }}{{ dict.fromkeys('a', 1) }}", "{'a': 1}{'a': 1}"),
        ("{% set ns = namespace(self=1) %}{% set ns.b = 2 %}{{ ns.self + ns.b }}", "3"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{{ strftime_now('%d %b %Y') }}", "03 Feb 2025"),
        ("{{ missing }}{{ missing is defined }}", "False"),
        ("{{ documents is none }}{{ tools is none }}", "TrueTrue"),
        ("{{ messages[0].content is none }}", "False"),
        ("{{ 3 * 'ab' }}{{ 2 ** 3 }}", "ababab8"),
    ],
)  # fmt: skip
def test_environment(template: str, expected: str) -> None:
    assert render_chat(template, [message("user", None)]) == expected


def test_a_template_is_compiled_once() -> None:
    template = source("llama-3.1") + "{# once #}"
    before = chat._compile_or_error.cache_info().misses
    for _ in range(3):
        render_chat(template, [ASK])
    assert chat._compile_or_error.cache_info().misses == before + 1
