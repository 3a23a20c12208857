"""vLLM's hash once more, by the real code: a disagreement is an error that shows both texts."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_artifacts.backends.nxdi.drafts import draft_settings
from neuron_artifacts.backends.nxdi.levels import level_of, level_of_release
from neuron_artifacts.backends.nxdi.loaders import (
    Speculation,
    VllmArguments,
    neuron_arguments,
    resolve_dtype,
)
from neuron_artifacts.backends.nxdi.vllm_hash import VllmHash
from neuron_artifacts.errors import ToolchainError
from neuron_artifacts.model import resolve_model
from neuron_artifacts.model.snapshot import CONFIG_NAME, read_json
from neuron_artifacts.toolchain import Toolchain, choose_toolchain
from neuron_artifacts.toolchain.platforms import TARGET_VARIABLE
from neuron_artifacts.worker import run_worker

WORKER = Path(__file__).with_name("worker.py")
_SHOWN_LINES = 40


@dataclass(frozen=True)
class Question:
    """What was asked of the hash; ``override`` are NeuronConfig's arguments without a loader."""

    model: str
    revision: str | None
    sdk: str
    loader: str | None
    arguments: VllmArguments | None
    override: Mapping[str, Any]
    speculation: Speculation | None
    target: str


def find_real_code(sdk: str, environ: Mapping[str, str], *, python: str | None) -> Toolchain | None:
    """An interpreter that has this SDK level's NxD Inference; ``None`` if there is none.

    Raises
    ------
    ToolchainError
        One was named, and it has not.
    """
    named = python or environ.get("NEURON_ARTIFACTS_PYTHON")
    try:
        toolchain = choose_toolchain("nxdi", environ, python=python)
    except ToolchainError:
        if named:
            raise
        return None
    release = toolchain.packages["neuronx-distributed-inference"]
    level = level_of_release(release)
    if level is not None and level.name == sdk:
        return toolchain
    if named:
        raise ToolchainError(
            f"{toolchain.python} has NxD Inference {release}, which is not SDK {sdk}'s",
            hint="name another interpreter, or leave --python out to compute without one",
        )
    return None


def confirm(
    question: Question, result: VllmHash, toolchain: Toolchain, environ: Mapping[str, str]
) -> None:
    """Compare with what NxD Inference itself computes.

    Raises
    ------
    ToolchainError
        The two differ; the message has the lines in which they do.
    CompileError
        The real code refuses the configuration.
    """
    with tempfile.TemporaryDirectory(prefix="neuron-artifacts-") as directory:
        answer = run_worker(
            toolchain.python, WORKER, _request(question), directory=Path(directory),
            environ={**environ, TARGET_VARIABLE: environ.get(TARGET_VARIABLE) or question.target},
        )  # fmt: skip
    theirs = str(answer.get("document"))
    if theirs == result.document:
        return
    lines = difflib.unified_diff(
        result.document.splitlines(), theirs.splitlines(), "computed here",
        f"NxD Inference of {toolchain.python}", lineterm="", n=1,
    )  # fmt: skip
    raise ToolchainError(
        f"vLLM's hash is {result.md5} by our tables and {answer.get('md5')} by the real code:\n"
        + "\n".join(list(lines)[:_SHOWN_LINES]),
        hint="trust the real code, and report this: the tables are wrong",
    )


def _request(question: Question) -> dict[str, Any]:
    folder, config = _locate(question.model, question.revision)
    arguments = dict(question.override)
    if question.loader is not None and question.arguments is not None:
        dtype = resolve_dtype(
            question.loader, question.arguments.dtype, config, level_of(question.sdk)
        )
        arguments = neuron_arguments(
            question.loader, replace(question.arguments, dtype=dtype), question.override
        )
    request: dict[str, Any] = {
        "action": "hash", "model": folder, "name_or_path": question.model,
        "neuron_config": arguments,
    }  # fmt: skip
    if question.speculation is not None and arguments.get("enable_fused_speculation"):
        draft, _ = _locate(question.speculation.model, None)
        request["draft"] = {
            "model": draft, "name_or_path": question.speculation.model,
            **draft_settings(question.loader, arguments, question.override),
        }  # fmt: skip
    return request


def _locate(model: str, revision: str | None) -> tuple[str, Mapping[str, Any]]:
    folder = Path(model)
    if folder.is_dir():
        return str(folder.absolute()), read_json(folder / CONFIG_NAME)
    found = resolve_model(model, revision=revision, weights=False)
    return str(found.root), found.config
