"""``generate``: offline inference over an artifact."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._logging import set_up_logging
from neuron_artifacts.cli._options import AsJson
from neuron_artifacts.cli._progress import show_progress
from neuron_artifacts.cli._serve_options import Artifacts, Threads, Verify, VerifyOption
from neuron_artifacts.errors import UsageError


def generate_command(
    *,
    artifacts: Artifacts = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="A prompt; may be given several times."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts", metavar="FILE", help="A file with one prompt a line; - is standard input."
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Put each prompt through the chat template as a user's message."
        ),
    ] = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Tokens to generate at most.")
    ] = 64,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Nucleus sampling.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", help="0 keeps every token.")] = 0,
    seed: Annotated[int | None, typer.Option("--seed", help="Makes sampling repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Text to end at.")] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on past the end token.")
    ] = False,
    threads: Threads = None,
    verify: VerifyOption = Verify.full,
    as_json: AsJson = False,
) -> int:
    """Generate text for one or many prompts, without a server and without compiling."""
    from neuron_artifacts.runtime.llm import LLM
    from neuron_artifacts.runtime.loader import find_artifacts, load_artifact
    from neuron_artifacts.runtime.params import SamplingParams

    set_up_logging()
    texts = _gather(prompt, prompts)
    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed,
        stop=tuple(stop or ()), ignore_eos=ignore_eos,
    )  # fmt: skip
    with show_progress() as observe:
        loaded = load_artifact(
            find_artifacts(artifacts), verify=verify.value, threads=threads, warm_up=False,
            observe=observe,
        )  # fmt: skip
    with LLM(loaded.runner, loaded.tokenizer) as llm:
        if chat:
            results = llm.chat([[{"role": "user", "content": text}] for text in texts], params)
        else:
            results = llm.generate(texts, params)
    _show(texts, results, as_json)
    return 0


def _gather(given: list[str] | None, source: str | None) -> list[str]:
    texts = list(given or ())
    name = "standard input" if source == "-" else source
    try:
        if source:
            data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
            # Not splitlines(), which would also end a prompt at U+2028 and its like.
            texts += [line.rstrip("\r") for line in data.decode().split("\n")]
        "".join(given or ()).encode()
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8 text") from None
    except UnicodeEncodeError:  # bytes of an argument that the system could not decode
        raise UsageError("--prompt is not UTF-8 text") from None
    texts = [text for text in texts if text]
    if not texts:
        raise UsageError("no prompt given", hint="--prompt TEXT, or --prompts FILE (- for stdin)")
    return texts


def _show(texts: list[str], results: list[Any], as_json: bool) -> None:
    if as_json:
        _output.print_json(
            [
                {
                    "prompt": text,
                    "text": result.outputs[0].text,
                    "token_ids": list(result.outputs[0].token_ids),
                    "finish_reason": result.outputs[0].finish_reason,
                    "prompt_tokens": len(result.prompt_token_ids),
                }
                for text, result in zip(texts, results, strict=True)
            ]
        )
        return
    for text, result in zip(texts, results, strict=True):
        if len(texts) == 1:
            _output.write_as_is(result.outputs[0].text)
        else:
            _output.write_as_is(f"{text}\t{result.outputs[0].text}")
