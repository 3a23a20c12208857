"""The whole way in one run: compile the sample model, serve it, ask it, stop it.

Everything goes through the command line and HTTP, as a deployment would do it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOOL = [sys.executable, "-m", "neuron_artifacts"]
QUESTION = "What is 123 + 456?"
CONFIGURATION = ["--batch-size", "4", "--seq-len", "256"]


def compile_model() -> dict[str, Any]:
    command = [*TOOL, "compile", str(HERE / "adder"), *CONFIGURATION, "--json"]
    result = subprocess.run(
        [*command, "--store", str(HERE.parent)], stdout=subprocess.PIPE, text=True
    )
    if result.returncode:
        sys.exit(result.returncode)
    outcome: dict[str, Any] = json.loads(result.stdout)
    return outcome


def start_server(artifacts: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    command = [*TOOL, "serve", "--artifacts", artifacts, "--port", "0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout
    text = ""
    for line in server.stdout:
        text += line
        if line.startswith("}"):
            return server, json.loads(text)
    sys.exit(server.wait() or 1)


def ask(url: str, question: str) -> tuple[str, float]:
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    return answer["choices"][0]["message"]["content"], time.monotonic() - began


def main() -> None:
    outcome = compile_model()
    server, ready = start_server(outcome["path"])
    try:
        answer, seconds = ask(ready["url"], QUESTION)
    finally:
        server.send_signal(signal.SIGTERM)
        stopped = server.wait(timeout=60)
    phases = {**outcome["seconds"], **ready["seconds"], "answer": seconds}
    print(f"verdict    {outcome['verdict']}: {outcome['compiled']} graphs compiled")
    print(f"key        {outcome['key']}")
    print(f"artifact   {outcome['path']}")
    print(f"seconds    {', '.join(f'{name} {took:.2f}' for name, took in phases.items())}")
    print(f"compiled while serving: {ready['compiled']}")
    print(f"question   {QUESTION}")
    print(f"answer     {answer}")
    if answer.strip() != "579" or ready["compiled"] or stopped:
        sys.exit("the answer should have been 579, with nothing compiled and a clean stop")


if __name__ == "__main__":
    main()
