"""Chat completions: the template's prompt, the engine's answer, OpenAI's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from neuron_artifacts.runtime.params import SamplingParams
from tests.runtime.server.harness import RunningServer, reference, running, toy_state

MESSAGES = [{"role": "user", "content": "Hello"}]
PROMPT = "<s><|user|>Hello</s><|assistant|>"


def chat(server: RunningServer, **body: Any) -> dict[str, Any]:
    body = {"model": "toy", "messages": MESSAGES, "temperature": 0, **body}
    response = httpx.post(server.url + "/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def answer_to(server: RunningServer, prompt: str, **params: Any) -> Any:
    ids = server.state.tokenizer.encode(prompt, add_special_tokens=False)
    params = {"max_tokens": 6, "temperature": 0.0, **params}
    return reference(server.state, ids, SamplingParams(**params))


def test_shape(server: RunningServer) -> None:
    body = chat(server, max_tokens=6)
    expected = answer_to(server, PROMPT)
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    tokens = len(expected.outputs[0].token_ids)
    assert body == {
        "object": "chat.completion",
        "model": "toy",
        "system_fingerprint": "na-toy",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": expected.outputs[0].text},
                "logprobs": None,
                "finish_reason": expected.outputs[0].finish_reason,
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": len(expected.prompt_token_ids),
            "completion_tokens": tokens,
            "total_tokens": len(expected.prompt_token_ids) + tokens,
            "prompt_tokens_details": None,
        },
    }


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, PROMPT),
        ({"add_generation_prompt": False}, "<s><|user|>Hello</s>"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}, PROMPT),
        (
            {
                "messages": [*MESSAGES, {"role": "assistant", "content": "12 +"}],
                "add_generation_prompt": False,
                "continue_final_message": True,
            },
            "<s><|user|>Hello</s><|assistant|>12 +",
        ),
        ({"chat_template_kwargs": {"bos_token": "<tool>"}}, PROMPT.replace("<s>", "<tool>")),
        ({"add_special_tokens": True}, "<s>" + PROMPT),
    ],
    ids=str,
)
def test_prompts(server: RunningServer, fields: dict[str, Any], prompt: str) -> None:
    body = chat(server, max_tokens=6, **fields)
    expected = answer_to(server, prompt)
    assert body["usage"]["prompt_tokens"] == len(expected.prompt_token_ids)
    assert body["choices"][0]["message"]["content"] == expected.outputs[0].text


@pytest.mark.parametrize(
    ("choice", "shown"), [(None, True), ("auto", True), ("none", False)], ids=str
)
def test_tools_are_shown_to_the_template(folder: Path, choice: str | None, shown: bool) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    state = toy_state(folder)
    template = (
        "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}|{{ messages[0].content }}"
    )
    state.tokenizer.chat_templates["default"] = template
    with running(state) as server:
        body = chat(server, tools=tools, tool_choice=choice, max_tokens=6)
        expected = answer_to(server, "add|Hello" if shown else "|Hello")
    assert body["choices"][0]["message"]["content"] == expected.outputs[0].text


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 4}, 4),
        ({"max_tokens": 3, "max_completion_tokens": 5}, 5),
        ({}, None),
    ],
)
def test_limits(server: RunningServer, fields: dict[str, int], tokens: int | None) -> None:
    """Without a limit the answer fills the context of 256."""
    body = chat(server, ignore_eos=True, **fields)
    usage = body["usage"]
    assert usage["completion_tokens"] == (tokens or 256 - usage["prompt_tokens"])
    assert body["choices"][0]["finish_reason"] == "length"


def test_the_generation_configurations_limit_is_a_default(folder: Path) -> None:
    with running(toy_state(folder, defaults={"max_tokens": 9})) as server:
        assert chat(server, ignore_eos=True)["usage"]["completion_tokens"] == 9
        assert chat(server, ignore_eos=True, max_tokens=11)["usage"]["completion_tokens"] == 11


@pytest.mark.parametrize("top", [None, 0, 2])
def test_logprobs(server: RunningServer, top: int | None) -> None:
    body = chat(server, max_tokens=30, ignore_eos=True, logprobs=True, top_logprobs=top)
    expected = answer_to(server, PROMPT, max_tokens=30, ignore_eos=True, logprobs=top or 0)
    content = body["choices"][0]["logprobs"]["content"]
    output = expected.outputs[0]
    assert [entry["logprob"] for entry in content] == [
        position[token].logprob
        for token, position in zip(output.token_ids, output.logprobs, strict=True)
    ]
    for entry, position in zip(content, output.logprobs, strict=True):
        likeliest = sorted(position.values(), key=lambda other: other.rank)[: top or 0]
        assert [(t["token"], t["logprob"]) for t in entry["top_logprobs"]] == [
            (other.decoded_token, other.logprob) for other in likeliest
        ]


def test_bytes_make_up_the_text(server: RunningServer) -> None:
    """Also where one character takes several tokens, whose own text is a replacement."""
    body = chat(server, max_tokens=60, ignore_eos=True, logprobs=True)
    content = body["choices"][0]["logprobs"]["content"]
    assert any("�" in entry["token"] for entry in content)
    spelled = b"".join(bytes(entry["bytes"]) for entry in content)
    special = [entry["token"] for entry in content if entry["token"] in ("<s>", "</s>")]
    assert not special
    assert spelled.decode(errors="replace") == body["choices"][0]["message"]["content"]


def test_no_template(tmp_path: Path) -> None:
    state = toy_state(tmp_path / "toy")
    state.tokenizer.chat_templates.clear()
    with running(state) as server:
        response = httpx.post(
            server.url + "/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 1}
        )
    assert response.status_code == 400
    assert "chat template" in response.json()["error"]["message"]
