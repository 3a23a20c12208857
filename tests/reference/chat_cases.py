"""Chat templates and the conversations they are compared on, for goldens and their test."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parents[1] / "data" / "chat_templates"
EXPECTED = TEMPLATES / "expected.json"

NOW = datetime(2025, 2, 3, 4, 5, 6)
"""What ``strftime_now`` is made to read."""

SPECIAL_TOKENS = {
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
}


def special_tokens(template: str) -> dict[str, str]:
    """The special tokens of the family a template's name starts with."""
    return next(tokens for family, tokens in SPECIAL_TOKENS.items() if template.startswith(family))


def message(role: str, content: Any = None, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Wetter an einem Ort: <b>\"heute\"</b> & 'morgen' ☂",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "now", "description": "", "parameters": {}}}
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}},
}
CALL_AGAIN = {
    "id": "call67890",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {}},
}

SYSTEM = message("system", "You add numbers.")
ASK, ANSWER = message("user", "What is 12 + 30?"), message("assistant", "42")
AGAIN = message("user", "And doubled?")
CALLED = message("assistant", tool_calls=[CALL])
RESULT = message("tool", '{"degrees": 21}', tool_call_id="call12345", name="get_weather")

CONVERSATIONS: Mapping[str, Mapping[str, Any]] = {
    "user": {"messages": [ASK]},
    "user, no prompt": {"messages": [ASK], "add_generation_prompt": False},
    "system": {"messages": [SYSTEM, ASK]},
    "turns": {"messages": [ASK, ANSWER, AGAIN]},
    "system, turns": {"messages": [SYSTEM, ASK, ANSWER, AGAIN]},
    "ends with the assistant": {
        "messages": [ASK, ANSWER], "add_generation_prompt": False,
    },
    "tools": {"messages": [SYSTEM, ASK], "tools": [WEATHER, CLOCK]},
    "tools, no system": {"messages": [ASK], "tools": [WEATHER]},
    "no tools": {"messages": [ASK], "tools": []},
    "tool call": {"messages": [ASK, CALLED, RESULT], "tools": [WEATHER]},
    "tool call with text": {
        "messages": [ASK, message("assistant", "Let me look.", tool_calls=[CALL]), RESULT, ANSWER,
                     AGAIN],
        "tools": [WEATHER],
    },
    "two tool calls": {
        "messages": [
            ASK, message("assistant", tool_calls=[CALL, CALL_AGAIN]), RESULT,
            message("tool", "no such city", tool_call_id="call67890"),
        ],
        "tools": [WEATHER],
    },
    "tool call, short id": {
        "messages": [ASK, message("assistant", tool_calls=[CALL | {"id": "1"}]), RESULT],
    },
    "tools with the system's date": {
        "messages": [SYSTEM, ASK], "tools": [WEATHER], "date_string": "1 Apr 2025",
        "tools_in_user_message": False,
    },
    "not ASCII": {"messages": [message("user", "你好，世界 😀 — <b>naïve</b> & \"quoted\"")]},
    "empty": {"messages": [message("system", ""), message("user", "")]},
    "spaces": {"messages": [message("user", "  two\n\n"), message("assistant", "\t three \n"),
                            message("user", "\n")]},
    "Jinja in the text": {"messages": [message("user", "{{ bos_token }} {% raw %} {# no #}")]},
    "parts": {"messages": [message("user", [{"type": "text", "text": "12 + 30"}])]},
    "reasoning": {
        "messages": [ASK, message("assistant", "42", reasoning_content="Ten and two…"), AGAIN],
    },
    "reasoning in the text": {
        "messages": [ASK, message("assistant", "<think>\nTen…\n</think>\n\n42"), AGAIN],
    },
    "reasoning, last": {
        "messages": [ASK, message("assistant", "42", reasoning="Ten and two…")],
        "add_generation_prompt": False,
    },
    "without thinking": {"messages": [ASK], "enable_thinking": False},
    "continue": {
        "messages": [ASK, message("assistant", "The sum is")],
        "add_generation_prompt": False, "continue_final_message": True,
    },
    "continue after a space": {
        "messages": [ASK, message("assistant", "The sum is ")],
        "add_generation_prompt": False, "continue_final_message": True,
    },
    "continue the user": {
        "messages": [SYSTEM, message("user", "What is")],
        "add_generation_prompt": False, "continue_final_message": True,
    },
    "continue, no text": {
        "messages": [ASK, CALLED],
        "add_generation_prompt": False, "continue_final_message": True,
    },
    "two users": {"messages": [ASK, AGAIN]},
    "assistant first": {"messages": [ANSWER, ASK]},
    "system last": {"messages": [ASK, SYSTEM]},
    "unknown role": {"messages": [ASK, message("critic", "Wrong.")]},
    "tool without a call": {"messages": [message("tool", "21"), ASK]},
}  # fmt: skip
