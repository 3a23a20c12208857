"""Real clients against a served artifact: a wrong slot, position or bucket is a wrong sum."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.end_to_end.conftest import SLOTS, Served, serving

PAIRS = [(123, 456), (7, 8), (999, 999), (0, 0), (505, 496), (80, 920), (314, 159), (12, 3)]


@pytest.fixture
def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def ask(client: openai.OpenAI, question: str, **options: object) -> str:
    response = client.chat.completions.create(
        model="adder", messages=[{"role": "user", "content": question}], temperature=0, **options
    )  # type: ignore[call-overload]
    return str(response.choices[0].message.content)


def test_nothing_was_compiled(server: Served) -> None:
    assert server.ready["compiled"] == 0
    assert list(server.ready["seconds"]) == ["verify", "load", "warm-up"]
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "neuron_artifacts_compiles_total 0.0" in metrics or any(
        line.startswith("neuron_artifacts_compiles_total{") and line.endswith(" 0.0")
        for line in metrics.splitlines()
    )


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_chat_adds(client: openai.OpenAI, a: int, b: int) -> None:
    assert ask(client, f"What is {a} + {b}?") == str(a + b)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_completion_adds(client: openai.OpenAI, a: int, b: int) -> None:
    response = client.completions.create(model="adder", prompt=f"{a}+{b}=", temperature=0)
    assert response.choices[0].text == str(a + b)
    assert response.choices[0].finish_reason == "stop"
    assert response.usage
    assert response.usage.completion_tokens == len(str(a + b)) + 1


def test_a_long_prompt_crosses_buckets(client: openai.OpenAI) -> None:
    rng = random.Random(1)
    for target in (20, 60, 130, 200, 400):
        lines = ""
        while len(lines) < target:
            a, b = rng.randrange(1000), rng.randrange(1000)
            lines += f"{a}+{b}={a + b}\n"
        response = client.completions.create(
            model="adder", prompt=f"{lines}123+456=", temperature=0
        )
        assert response.choices[0].text == "579", target


def test_streaming_gives_the_same_pieces(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="adder", messages=[{"role": "user", "content": "What is 123 + 456?"}],
        temperature=0, stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "579"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 4


def test_async_client(server: Served) -> None:
    async def many() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
            answers = await asyncio.gather(
                *(
                    client.completions.create(model="adder", prompt=f"{a}+{b}=", temperature=0)
                    for a, b in PAIRS
                )
            )
        return [answer.choices[0].text for answer in answers]

    assert asyncio.run(many()) == [str(a + b) for a, b in PAIRS]


def test_langchain(server: Served) -> None:
    model = ChatOpenAI(
        base_url=f"{server.url}/v1",
        api_key="x",
        model="adder",
        temperature=0,  # type: ignore[arg-type]
    )
    assert model.invoke("What is 314 + 159?").content == "473"
    assert "".join(str(chunk.content) for chunk in model.stream("What is 80 + 920?")) == "1000"


def mixed_requests() -> list[tuple[str, dict[str, object]]]:
    rng = random.Random(7)
    requests = []
    for i in range(64):
        a, b = rng.randrange(1000), rng.randrange(1000)
        before = "".join(f"{x}+{y}={x + y}\n" for x, y in PAIRS[: rng.randrange(8)])
        question = f"What is {a} + {b}?" if i % 3 else f"{before}{a}+{b}="
        options: dict[str, object] = {}
        if i % 5 == 0:
            options = {"max_tokens": 12, "extra_body": {"ignore_eos": True}}
        requests.append((question, options))
    return requests


def test_64_mixed_requests_over_4_slots_equal_one_at_a_time(client: openai.OpenAI) -> None:
    requests = mixed_requests()
    assert len(requests) > 10 * SLOTS
    alone = [ask(client, question, **options) for question, options in requests]
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(lambda r: ask(client, r[0], **r[1]), requests))
    assert together == alone


def test_what_does_not_fit_is_a_clear_400(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="adder", prompt="1+1=" * 113, temperature=0)
    assert "448" in str(caught.value)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="adder", prompt="1+1=", max_tokens=600)
    assert "512" in str(caught.value)


def test_a_client_that_leaves_frees_its_slot(server: Served, client: openai.OpenAI) -> None:
    body = {
        "model": "adder", "prompt": "1+1=", "max_tokens": 500, "ignore_eos": True, "stream": True,
    }  # fmt: skip
    for _ in range(3 * SLOTS):
        with httpx.stream(
            "POST", f"{server.url}/v1/completions", json=body, timeout=30
        ) as response:
            next(response.iter_lines())
    deadline = time.monotonic() + 20
    while httpx.get(f"{server.url}/load").json()["server_load"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert httpx.get(f"{server.url}/load").json()["server_load"] == 0
    assert ask(client, "What is 2 + 2?") == "4"


def test_sigterm_drains_what_was_accepted(adder: Path) -> None:
    with serving("--artifacts", adder) as served:
        answers: list[str] = []

        def generate(a: int) -> None:
            body = {"prompt": f"{a}+1=", "temperature": 0, "max_tokens": 400, "ignore_eos": True}
            response = httpx.post(f"{served.url}/v1/completions", json=body, timeout=60)
            answers.append(response.json()["choices"][0]["text"])

        threads = [threading.Thread(target=generate, args=(a,)) for a in range(2 * SLOTS)]
        for thread in threads:
            thread.start()
        with httpx.Client(base_url=served.url) as watcher:
            # The first may be done before the last is accepted.
            while len(answers) + watcher.get("/load").json()["server_load"] < len(threads):
                time.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert served.process.wait(timeout=60) == 0
    assert len(answers) == 2 * SLOTS


def test_an_api_key_guards_the_api(adder: Path) -> None:
    with serving("--artifacts", adder, VLLM_API_KEY="sesame") as served:
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert httpx.get(f"{served.url}/v1/models").status_code == 401
        keyed = httpx.get(f"{served.url}/v1/models", headers={"Authorization": "Bearer sesame"})
        assert keyed.json()["data"][0]["root"] == str(adder)
        assert "sesame" not in served.url + str(served.ready)
