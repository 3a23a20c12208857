"""The options that make a compile request, declared once for every command that takes one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from neuron_artifacts.spec import ENVIRONMENT_PREFIX, CompileSpec, resolve_spec

MODEL = "Model"
CONFIG = "Neuron configuration"
NEURON = "Neuron backends"
PLACE = "Where"

AsJson = Annotated[bool, typer.Option("--json", help="Print data as JSON on standard output.")]
Store = Annotated[
    str,
    typer.Option(
        "--store", metavar="DIR", envvar=f"{ENVIRONMENT_PREFIX}STORE",
        help="The store: artifacts lie in DIR/neuron-compiled-artifacts/<key>.",
    ),
]  # fmt: skip


def _option(panel: str, *names: str, metavar: str, text: str) -> Any:
    option = typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel)
    return Annotated[str | None, option]


# All values arrive as text: one place, the spec, judges them, whatever their origin.
SPEC_OPTIONS: dict[str, Any] = {
    "model": Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model folder or a hub id (org/name).")
    ],
    "revision": _option(
        MODEL, "--revision", metavar="REV", text="Branch, tag or commit of a hub model."
    ),
    "backend": _option(
        CONFIG, "--backend", metavar="NAME",
        text="Who compiles: nxdi, optimum, transformers-neuronx, vllm-neuron or cpu. "
        "(default: nxdi where there is a Neuron device, else cpu)",
    ),
    "target": _option(
        CONFIG, "--target", metavar="NAME",
        text="What the graphs run on: native, or for cpu x86-64-v3, x86-64-v4, x86-64-v4-bf16, "
        "aarch64, and for Neuron inf2, trn1, trn1n, trn2, trn3. (default: native)",
    ),
    "tp_degree": _option(
        CONFIG, "--tp-degree", "--tensor-parallel-size", metavar="N",
        text="Tensor-parallel ranks. (default: 1)",
    ),
    "batch_size": _option(
        CONFIG, "--batch-size", "--max-num-seqs", metavar="N",
        text="Slots: sequences served at once. (default: 1)",
    ),
    "seq_len": _option(
        CONFIG, "--seq-len", "--max-model-len", metavar="N",
        text="Positions of a slot, prompt and answer together. (default: the model's, up to 2048)",
    ),
    "max_context_length": _option(
        CONFIG, "--max-context-length", metavar="N", text="Longest prompt. (default: seq_len)"
    ),
    "context_encoding_buckets": _option(
        CONFIG, "--context-encoding-buckets", metavar="N,N,…",
        text="Prompt lengths to compile for. (default: powers of two from 128)",
    ),
    "token_generation_buckets": _option(
        CONFIG, "--token-generation-buckets", metavar="N,N,…",
        text="Sequence lengths to compile decoding for. (default: powers of two from 128)",
    ),
    "torch_dtype": _option(
        CONFIG, "--torch-dtype", "--dtype", metavar="NAME",
        text="What to compute in: auto, float32, bfloat16, or for Neuron float16. (default: auto)",
    ),
    "override_neuron_config": _option(
        CONFIG, "--override-neuron-config", metavar="JSON",
        text="NeuronConfig fields laid over everything else.",
    ),
    "speculative_model": _option(
        NEURON, "--speculative-model", metavar="MODEL", text="Draft model: a folder or a hub id."
    ),
    "num_speculative_tokens": _option(
        NEURON, "--num-speculative-tokens", metavar="N", text="Tokens drafted at once."
    ),
    "speculative_method": _option(
        NEURON, "--speculative-method", metavar="NAME", text="eagle, or none."
    ),
    "vllm_loader": _option(
        NEURON, "--vllm-loader", metavar="NAME",
        text="Whose defaults to start from: aws-fork-2.22, aws-fork-2.23, aws-fork-2.24, "
        "vllm-main, vllm-neuron-0.2 or vllm-neuron-0.5. (default: the toolchain's)",
    ),
    "python": _option(
        NEURON, "--python", metavar="PATH",
        text="Interpreter that has the Neuron libraries. (default: found; see toolchains list)",
    ),
    "allow_compile": Annotated[
        bool | None,
        typer.Option(
            "--allow-compile", rich_help_panel=NEURON,
            help="optimum: compile also what the Neuron cache does not have.",
        ),
    ],
    "store": _option(
        PLACE, "--store", metavar="DIR",
        text="Artifacts lie in DIR/neuron-compiled-artifacts/<key>. (default: .)",
    ),
    "output": _option(
        PLACE, "--output", metavar="DIR",
        text="Put the artifact at DIR itself. (default: $NEURON_COMPILED_ARTIFACTS, else by key)",
    ),
    "jobs": _option(PLACE, "--jobs", metavar="N", text="Compilers at once. (default: all cores)"),
}  # fmt: skip

_CONFIG_FILE = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE.yaml", rich_help_panel=CONFIG,
        help="Options from a YAML file; flags and NEURON_ARTIFACTS_* variables win over it.",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class SpecSources:
    """The spec options of a command, not merged yet."""

    flags: Mapping[str, Any]
    config_file: Path | None


def takes_spec(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give a command every spec option; it receives the merged ``spec`` instead of them.

    A command that asks for ``sources`` gets them as they are, to merge them itself.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.name not in ("spec", "sources")]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in {**SPEC_OPTIONS, "config": _CONFIG_FILE}.items()
    ]

    @functools.wraps(command)
    def run(**kwargs: Any) -> int | None:
        flags = {name: kwargs.pop(name) for name in SPEC_OPTIONS}
        config_file = kwargs.pop("config")
        if "sources" in signature.parameters:
            return command(sources=SpecSources(flags, config_file), **kwargs)
        spec: CompileSpec = resolve_spec(flags, config_file=config_file)
        return command(spec=spec, **kwargs)

    parameters = [*added, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
