"""Templates that ask for more work than there is: refused in time, within memory, by name.

All run in one process whose address space is limited, so that a limit that fails to hold ends in
a MemoryError, which is not among the expected answers.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import pytest

from neuron_artifacts.errors import RequestError
from neuron_artifacts.runtime import chat
from neuron_artifacts.runtime.chat import render_chat
from neuron_artifacts.runtime.chat_limits import Allowance, LimitExceeded

ASK = {"role": "user", "content": "12 + 30"}
SPACE = 4 << 30
"""Bytes of address space, of which an idle interpreter with its libraries maps a part."""

_GROW = "{% set ns = namespace(x='ab', l=[1], n=9) %}{% for i in range(60) %}"
_LAUGHS = (
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}"
    "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}"
)
HOSTILE = {
    "loops over text": "{% set t = 'x' * 9999999 %}{% for a in t %}{% for b in t %}{% endfor %}"
    "{% endfor %}",
    "loops over parts": "{% for a in messages * 5000 %}{% for b in messages * 5000 %}"
    "{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}{% endmacro %}{{ f(60) }}",
    "a recursive loop": "{% for x in [1, 2] recursive %}{{ loop('ab') }}{% endfor %}",
    "text that doubles": _GROW + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "text that is joined": _GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "a block that doubles": "{% set x = 'ab' %}{% for i in range(60) %}{% endfor %}"
    + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "a list that doubles": _GROW + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "a number that squares": _GROW + "{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "a power of a power": "{{ 9 ** 4096 ** 2 }}",
    "lists that hold each other": _LAUGHS + "{{ ns.a }}",
    "… as JSON": _LAUGHS + "{{ ns.a | tojson }}",
    "… compared": _LAUGHS + "{{ ns.a == ns.b }}",
    "… tested": _LAUGHS + "{{ ns.a is eq(ns.b) }}",
    "… as text": _LAUGHS + "{{ ns.a ~ '' }}",
    "… formatted": _LAUGHS + "{{ '%s' % ns.a }}",
    "… raised": _LAUGHS + "{{ raise_exception(ns.a) }}",
    "tuples as names": _LAUGHS + "{% set t = (ns.a, ns.a) %}",
    "a width by %": "{{ '%999999999d' % 1 }}",
    "a width beside": "{{ '%*d' % (999999999, 1) }}",
    "a width in format": "{{ '{:999999999}'.format(1) }}",
    "a nested width": "{{ '{:{}}'.format(1, 999999999) }}",
    "a format of many": "{{ ('{0}' * 99999).format('x' * 9999999) }}",
    "a filter's format": "{{ '%999999999d' | format(1) }}",
    "center": "{{ 'x' | center(999999999) }}",
    "ljust": "{{ 'x'.ljust(999999999) }}",
    "zfill": "{{ 'x'.zfill(999999999) }}",
    "expandtabs": "{{ ('\\t' * 999999).expandtabs(999999) }}",
    "indent": "{{ ('x\\n' * 999999) | indent(999999) }}",
    "replace": "{{ ('x' * 9999999).replace('x', 'x' * 9999999) }}",
    "the filter replace": "{{ ('x' * 9999999) | replace('x', 'x' * 9999999) }}",
    "join": "{{ ('x' * 9999999).join(['a'] * 999999) }}",
    "the filter join": "{{ (['x' * 9999999] * 999999) | join }}",
    "join with": "{{ (['x'] * 999999) | join('y' * 9999999) }}",
    "batch": "{{ [1] | batch(999999999, 0) | list }}",
    "slice": "{{ [1] | slice(999999999) | list }}",
    "tojson's indent": "{{ [1] | tojson(indent=999999999) }}",
    "round": "{{ 1.5 | round(999999999, 'ceil') }}",
    "split": "{{ ('x' * 9999999).split('x') | length }}{{ ('x,' * 8000000).split(',') }}",
    "slices that are kept": "{% set t = 'x' * 9999999 %}{% set ns = namespace(l=[]) %}"
    "{% for i in range(9999) %}{% set ns.l = ns.l + [t[1:]] %}{% endfor %}",
    "texts that are kept": "{% set ns = namespace(l=[]) %}"
    "{% for i in range(9999) %}{% set ns.l = ns.l + ['x' * 9999999] %}{% endfor %}",
    "range": "{{ range(999999999999) | list }}",
    "a sum of lists": "{{ ([[1] * 99999] * 9999) | sum(start=[]) }}",
    "striptags": "{% set t = ('<!---->' * 999999) | safe %}{{ t.striptags() }}",
    "lipsum": "{{ lipsum(n=999999999) }}",
    "urlize": "{{ ('(' * 99999) | urlize }}",
    "blocks in blocks": "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a source without end": "x" * (2 << 20),
    "a time without end": "{{ strftime_now('%c' * 999999) }}",
}


def _render_all() -> None:
    """Run in a process of its own: prints what becomes of each template."""
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    chat.MAX_SECONDS = 2.0
    answers: dict[str, Any] = {}
    for name, template in HOSTILE.items():
        try:
            answers[name] = len(render_chat(template, [ASK]))
        except RequestError as error:
            answers[name] = error.message
    print(json.dumps(answers))


@pytest.fixture(scope="module")
def answers() -> Any:
    code = "from tests.runtime.test_chat_limits import _render_all; _render_all()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_refused(name: str, answers: dict[str, Any]) -> None:
    answer = answers[name]
    assert isinstance(answer, str), f"it rendered {answer} characters"
    assert answer.startswith("the chat template ")
    assert "MemoryError" not in answer
    assert len(answer) < 3000


def test_an_allowance_is_spent() -> None:
    allowance = Allowance(float("inf"), steps=1, made=10)
    allowance.step()
    with pytest.raises(LimitExceeded, match="too often"):
        allowance.step()
    allowance.charge(10)
    with pytest.raises(LimitExceeded, match="more text"):
        allowance.charge(1)
    with pytest.raises(LimitExceeded, match="longer"):
        Allowance(deadline=0.0).step()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for a in 'abc' %}{{ loop.index }}{{ loop.length }}{{ loop.last }} {% endfor %}",
         "13False 23False 33True "),
        ("{% for a in [1, [2, [3]]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
         "123"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% else %}none{% endfor %}", "a1"),
        ("{% for a in missing %}x{% else %}none{% endfor %}", "none"),
        ("{% for a in [1, 2, 3] if a > 1 %}{{ a }}{% endfor %}", "23"),
        ("{{ 'a' ~ 1 ~ none ~ missing }}", "a1None"),
        ("{{ '%s is %05.1f' % ('x', 2) }}{{ '{:>4}|{a}'.format(1, a=2) }}", "x is 002.0   1|2"),
        ("{{ 'in 123456: %d%%, 7 * %d' % (1, 2) }}{{ '{{\"a\":{}}} 123456'.format(3) }}",
         'in 123456: 1%, 7 * 2{"a":3} 123456'),
        ("{{ (1, 2) == (1, 2) }}{{ 2 in [1, 2] }}{{ 'a' < 'b' < 'c' }}", "TrueTrueTrue"),
        ("{{ [3, 1, 2] | sort | map('string') | join('-') }}", "1-2-3"),
        ("{{ 'a-b'.replace('-', '+').split('+')[::-1] | join }}", "ba"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{% set y %}{{ m(1) }}{% endset %}{{ y }}", "[1]"),
        ("{% call(x) m2() %}{{ x }}{% endcall %}{% macro m2() %}{% endmacro %}", None),
        ("{{ [[1, 2], [3]] | map('length') | sum }}{{ 'x' | indent(2, true) }}", "3  x"),
        ("{{ 7 % 4 }}{{ 2 * 3 + 1 }}{{ 2 ** 0.5 > 1 }}{{ -1 * 2 }}", "37True-2"),
    ],
)  # fmt: skip
def test_metering_changes_no_answer(template: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(RequestError):
            render_chat(template, [ASK])
    else:
        assert render_chat(template, [ASK]) == expected
