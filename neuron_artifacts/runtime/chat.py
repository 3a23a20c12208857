"""Chat templates, rendered as transformers renders them.

The environment is jinja2's immutable sandbox with the additions templates of the hub rely on:
``raise_exception``, ``strftime_now``, ``tojson`` without HTML escapes, ``{% break %}`` and
``{% continue %}``, and the ``{% generation %}`` block. A template comes with a model and is code
of strangers, so loops, repeated text and output are bounded as well.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from neuron_artifacts._files import shorten
from neuron_artifacts.errors import RequestError
from neuron_artifacts.runtime.chat_env import Template, compile_template
from neuron_artifacts.runtime.chat_limits import check

MAX_CHARACTERS = 16 << 20
MAX_SECONDS = 10.0
MAX_REASON = 2000
"""Characters of what a template says against the messages."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which clients send a model's reasoning back; templates read the first, or another."""

_MARK = "CONTINUE_FROM_HERE_5f1c "
"""Marks where the message to continue ends; the space tells whether the template strips it."""


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    **kwargs: Any,
) -> str:
    """The prompt of a conversation.

    Parameters
    ----------
    template:
        Jinja source; compiled once and kept.
    messages:
        Dictionaries with ``role`` and ``content``, as OpenAI's clients send them: parts of
        content are joined to one text unless the template loops over parts, and the arguments
        of tool calls become objects.
    continue_final_message:
        Leave the last message open, for the model to continue; excludes
        ``add_generation_prompt``.
    kwargs:
        What else the template may read: ``bos_token``, ``enable_thinking``, …

    Raises
    ------
    RequestError
        The messages are malformed, the template refuses them, or it exceeds the limits.
    """
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other",
            param="continue_final_message",
        )
    compiled = _compile(template)
    chat = prepare_messages(messages, parts=compiled.loops_over_parts)
    final = _mark_final(chat) if continue_final_message else ""
    variables = {
        "documents": None,
        **_plain(kwargs),
        "messages": chat,
        "tools": _plain(tools),
        "add_generation_prompt": add_generation_prompt,
    }
    prompt = _render(compiled, variables)
    return _cut_at_mark(prompt, final) if continue_final_message else prompt


def prepare_messages(
    messages: Sequence[Mapping[str, Any]], *, parts: bool = False
) -> list[dict[str, Any]]:
    """Messages as templates expect them: plain data, no nulls, text for content.

    ``parts`` says that the template loops over a message's parts, so lists of them stay.
    """
    if not messages:
        raise RequestError("messages must hold at least one message", param="messages")
    return [_prepare(message, place, parts) for place, message in enumerate(messages)]


def _prepare(message: Any, place: int, parts: bool) -> dict[str, Any]:
    where = f"messages[{place}]"
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"{where} must be an object with a role", param="messages")
    plain = {key: _plain(value) for key, value in message.items() if value is not None}
    if "tool_calls" in plain:  # as vLLM does: clients send null here, and templates add to it
        plain.setdefault("content", "")
    content = plain.get("content", "")
    if isinstance(content, list):
        texts = [_part_text(part, where) for part in content]
        joined = "\n".join(texts)
        plain["content"] = [{"type": "text", "text": t} for t in texts] if parts else joined
    elif not isinstance(content, (str, dict)):
        raise RequestError(f"{where}: content must be text or a list of parts", param="messages")
    if "tool_calls" in plain:
        plain["tool_calls"] = _prepare_calls(plain["tool_calls"], where)
    reasoning = next((plain[name] for name in _REASONING if name in plain), None)
    if reasoning is not None:
        plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
    return plain


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
    if kind not in ("text", "input_text", "output_text", "refusal") or not isinstance(text, str):
        raise RequestError(
            f"{where}: a part of content is {shorten(kind or 'malformed')}; "
            "this model takes text only",
            param="messages",
        )
    return text


def _prepare_calls(calls: Any, where: str) -> list[Any]:
    """Tool calls with their arguments as objects: clients send JSON text, templates expect data."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RequestError(f"{where}: tool_calls must be a list of objects", param="messages")
    for call in calls:
        function = call.get("function")
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(function, dict) and isinstance(arguments, str):
            try:
                function["arguments"] = json.loads(arguments) if arguments.strip() else {}
            except (ValueError, RecursionError) as error:
                raise RequestError(
                    f"{where}: the arguments of a tool call are not JSON: {error}",
                    param="messages",
                ) from None
    return calls


def _plain(value: Any) -> Any:
    """Rebuilt from JSON's types, so that a template finds no methods of other objects."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    raise RequestError(f"a {type(value).__name__} cannot go into a chat template", param="messages")


def _mark_final(chat: list[dict[str, Any]]) -> str:
    """Append the mark to the last message's text; returns the text as it was."""
    last = chat[-1]
    content = last.get("content")
    if isinstance(content, list) and content:
        text: str = content[-1]["text"]
        content[-1]["text"] = text + _MARK
        return text
    if not isinstance(content, str) or (not content and "tool_calls" in last):
        raise RequestError("the last message has no content to continue", param="messages")
    last["content"] = content + _MARK
    return content


def _cut_at_mark(prompt: str, final: str) -> str:
    place = prompt.rfind(_MARK.strip())
    if place < 0 or final.strip() not in prompt:
        raise RequestError(
            "the chat template leaves out the message to continue",
            hint="ask for a new message instead: continue_final_message=false",
            param="continue_final_message",
        )
    kept = prompt[:place]
    return kept if prompt.startswith(_MARK, place) else kept.rstrip()


def _compile(template: str) -> Template:
    compiled = _compile_or_error(template)
    if isinstance(compiled, RequestError):
        raise RequestError(compiled.message, hint=compiled.hint, param=compiled.param)
    return compiled


@functools.lru_cache(maxsize=64)
def _compile_or_error(template: str) -> Template | RequestError:
    try:
        return compile_template(template)
    except Exception as error:  # noqa: BLE001 - Python refuses some of what Jinja makes of it
        line = getattr(error, "lineno", None) if isinstance(error, jinja2.TemplateError) else None
        return RequestError(
            f"the chat template is broken{f' (line {line})' if line else ''}: {_shown(error)}",
            hint="repair chat_template in the model's tokenizer files",
            param="chat_template",
        )


def _render(compiled: Template, variables: Mapping[str, Any]) -> str:
    deadline = time.monotonic() + MAX_SECONDS
    pieces: list[str] = []
    size = 0
    try:
        for piece in compiled.generate(variables, deadline):
            pieces.append(piece)
            size += len(piece)
            check(size <= MAX_CHARACTERS, "it writes more text than is allowed")
            check(time.monotonic() <= deadline, "it runs longer than is allowed")
    except jinja2.TemplateError as error:
        raise RequestError(
            f"the chat template refuses the messages: {_shown(error)}", param="messages"
        ) from None
    except Exception as error:
        raise RequestError(
            f"the chat template fails on the messages: {type(error).__name__}: {_shown(error)}",
            param="messages",
        ) from error
    return "".join(pieces)


def _shown(error: Exception) -> str:
    text = error.message if isinstance(error, jinja2.TemplateError) else str(error)
    return str(text)[:MAX_REASON]
