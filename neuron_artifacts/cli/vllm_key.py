"""``key --vllm``: the md5 vLLM's Neuron loaders would compute, without vLLM or a device."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import SpecSources
from neuron_artifacts.errors import SpecError, UsageError
from neuron_artifacts.spec import merge_sources

if TYPE_CHECKING:
    from neuron_artifacts.backends.nxdi.confirm import Question
    from neuron_artifacts.backends.nxdi.loaders import Speculation, VllmArguments
    from neuron_artifacts.backends.nxdi.vllm_lora import Lora
    from neuron_artifacts.toolchain import Toolchain

_PANEL = "vLLM's hash"


def _text(*names: str, metavar: str, text: str) -> Any:
    option = typer.Option(*names, metavar=metavar, help=text, rich_help_panel=_PANEL)
    return Annotated[str | None, option]


def _count(*names: str, text: str) -> Any:
    option = typer.Option(*names, metavar="N", help=text, rich_help_panel=_PANEL, min=1)
    return Annotated[int | None, option]


def _switch(*names: str, text: str) -> Any:
    return Annotated[bool, typer.Option(*names, help=text, rich_help_panel=_PANEL)]


_OPTIONS: dict[str, Any] = {
    "vllm": _switch("--vllm", text="Print the md5 vLLM would name the artifact directory by."),
    "sdk": _text("--sdk", metavar="LEVEL", text="Neuron SDK on the serving host: 2.21 to 2.29."),
    "enable_prefix_caching": _switch("--enable-prefix-caching", text="As vLLM is given it."),
    "block_size": _count("--block-size", text="Positions of a cache block."),
    "num_gpu_blocks_override": _count("--num-gpu-blocks-override", text="Cache blocks, in all."),
    "max_prompt_length": _count("--max-prompt-length", text="Of the 0.5 plugin."),
    "additional_config": _text(
        "--additional-config", metavar="JSON", text="The plugin's spelling of overrides."
    ),
    "speculative_config": _text(
        "--speculative-config", metavar="JSON", text="Newer vLLM's spelling of speculation."
    ),
    "enable_chunked_prefill": _switch("--enable-chunked-prefill", text="As vLLM is given it."),
    "max_num_batched_tokens": _count("--max-num-batched-tokens", text="Tokens of one chunk."),
    "enable_lora": _switch("--enable-lora", text="As vLLM is given it."),
    "max_loras": _count("--max-loras", text="Adapters at once."),
    "max_lora_rank": _count("--max-lora-rank", text="Their highest rank."),
    "max_cpu_loras": _count("--max-cpu-loras", text="Adapters in host memory."),
    "host_python": _text(
        "--host-python", metavar="X.Y",
        text="Python on the serving host. (default: the toolchain's, or 3.11)",
    ),
    "host_transformers": _text(
        "--host-transformers", metavar="X.Y.Z",
        text="transformers on it. (default: the toolchain's, or the SDK's)",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class VllmOptions:
    """The options of ``key`` that only ``--vllm`` reads."""

    sdk: str | None
    enable_prefix_caching: bool
    block_size: int | None
    num_gpu_blocks_override: int | None
    max_prompt_length: int | None
    additional_config: str | None
    speculative_config: str | None
    enable_chunked_prefill: bool
    max_num_batched_tokens: int | None
    enable_lora: bool
    max_loras: int | None
    max_lora_rank: int | None
    max_cpu_loras: int | None
    host_python: str | None
    host_transformers: str | None


def takes_vllm_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give a command these options; it receives ``vllm``, which is None without ``--vllm``."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.name != "vllm"]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=kind,
            default=False if name == "vllm" or name.startswith("enable_") else None,
        )
        for name, kind in _OPTIONS.items()
    ]  # fmt: skip

    @functools.wraps(command)
    def run(**kwargs: Any) -> int | None:
        is_asked = kwargs.pop("vllm")
        options = VllmOptions(
            **{field.name: kwargs.pop(field.name) for field in fields(VllmOptions)}
        )
        if not is_asked and (names := _given(options)):
            raise UsageError(f"--{names[0].replace('_', '-')} needs --vllm")
        return command(vllm=options if is_asked else None, **kwargs)

    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return run


def print_vllm_key(
    sources: SpecSources, options: VllmOptions, *, explain: bool, as_json: bool
) -> int:
    """Compute and print the md5; ``explain`` adds the exact text that is hashed."""
    from neuron_artifacts.backends.nxdi.confirm import confirm, find_real_code
    from neuron_artifacts.backends.nxdi.vllm_hash import vllm_artifact_hash

    values, origins = merge_sources(sources.flags, config_file=sources.config_file)
    values = _take_speculation(values, options)
    _check(values, origins, options)
    options, override = _take_overrides(values, options)
    loader = values["vllm_loader"]
    if loader is None:
        override = {**_neuron_arguments(values, origins), **override}
    target, notes = _choose_target(values, origins)
    draft = values["speculative_model"]
    toolchain = find_real_code(options.sdk or "", os.environ, python=values["python"])
    result = vllm_artifact_hash(
        _read_config(values["model"], values["revision"]),
        model=values["model"],
        sdk=options.sdk or "",
        loader=loader,
        target=target,
        arguments=None if loader is None else _vllm_arguments(values, origins, options),
        override_neuron_config=override,
        draft_config=None if draft is None else _read_config(draft, None),
        environ=os.environ,
        **_host(options, toolchain),
    )
    notes += result.notes
    confirmed = None
    if toolchain is not None:
        # The real code too, where an interpreter has this SDK's.
        confirm(_question(values, options, override, target), result, toolchain, os.environ)
        confirmed = str(toolchain.python)
        notes += (f"NxD Inference of {confirmed} computes the same",)
    if as_json:
        body: dict[str, Any] = {
            "md5": result.md5, "sdk": options.sdk, "loader": loader, "target": target,
            "model": values["model"], "notes": list(notes), "confirmed_by": confirmed,
        }  # fmt: skip
        _output.print_json({**body, "document": result.document} if explain else body)
        return 0
    for note in notes:
        _output.talk(f"note: {note}")
    _output.write(result.md5)
    if explain:
        _output.write(result.document)
    return 0


def _question(
    values: Mapping[str, Any], options: VllmOptions, override: Mapping[str, Any], target: str
) -> Question:
    from neuron_artifacts.backends.nxdi.confirm import Question

    return Question(
        model=values["model"], revision=values["revision"], sdk=options.sdk or "",
        loader=values["vllm_loader"],
        arguments=None if values["vllm_loader"] is None else _arguments(values, options),
        override=override, speculation=_speculation(values), target=target,
    )  # fmt: skip


def _host(options: VllmOptions, toolchain: Toolchain | None) -> dict[str, Any]:
    """What is on the serving host: as asked, or as it is beside the real code."""
    from neuron_artifacts.backends.nxdi.levels import PYTHONS, knows_transformers

    python, transformers = options.host_python, options.host_transformers
    if toolchain is not None:
        there = toolchain.packages.get("transformers", "")
        transformers = transformers or (there if knows_transformers(there) else None)
        python = python or (
            toolchain.python_version if toolchain.python_version in PYTHONS else None
        )
    return {"python": python or "3.11", "transformers": transformers}


def _choose_target(
    values: Mapping[str, Any], origins: Mapping[str, str]
) -> tuple[str, tuple[str, ...]]:
    """The platform the hash is for: the environment's before the flag's, as it is there."""
    forced = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")
    asked = None if origins["target"] == "default" else str(values["target"])
    if forced:
        note = f"NEURON_PLATFORM_TARGET_OVERRIDE={forced} is used, not target {asked}"
        return forced, (note,) if asked not in (None, forced) else ()
    return (asked, ()) if asked else ("trn1", ("no target given: computed for trn1",))


def _given(options: VllmOptions) -> list[str]:
    return [f.name for f in fields(options) if getattr(options, f.name) not in (None, False)]


def _check(values: Mapping[str, Any], origins: Mapping[str, str], options: VllmOptions) -> None:
    from neuron_artifacts.backends.nxdi.levels import TRANSFORMERS, level_of

    if origins["backend"] != "default" and values["backend"] != "nxdi":
        raise UsageError(
            f"--vllm is a hash of NxD Inference, not of {values['backend']}",
            hint="--backend nxdi",
        )
    if options.sdk is None:
        raise UsageError("--vllm needs --sdk", hint=f"one of {', '.join(TRANSFORMERS)}")
    level_of(options.sdk, options.host_transformers)
    if values["speculative_model"] is None:
        for name in ("num_speculative_tokens", "speculative_method"):
            if values[name] is not None:
                raise UsageError(f"--{name.replace('_', '-')} needs --speculative-model")
    elif values["num_speculative_tokens"] is None:
        raise UsageError("--speculative-model needs --num-speculative-tokens")
    if values["vllm_loader"] is None:
        names = [name for name in _LOADER_ONLY if values.get(name) is not None]
        names += [name for name in _given(options) if name not in _OF_THE_HOST]
        if names:
            raise UsageError(f"--{names[0].replace('_', '-')} needs --vllm-loader")


_OF_THE_HOST = ("sdk", "host_python", "host_transformers", "additional_config")
_LOADER_ONLY = ("speculative_model", "num_speculative_tokens", "speculative_method")


_SPECULATION = {
    "model": "speculative_model",
    "num_speculative_tokens": "num_speculative_tokens",
    "method": "speculative_method",
}
_NOT_HASHED = ("draft_tensor_parallel_size", "max_model_len")


def _take_speculation(values: Mapping[str, Any], options: VllmOptions) -> dict[str, Any]:
    """Speculation in newer vLLM's spelling, one JSON object, as the older options."""
    from neuron_artifacts.spec import parse_object

    taken = dict(values)
    if options.speculative_config is None:
        return taken
    given = parse_object("--speculative-config", options.speculative_config)
    for name, value in given.items():
        if name in _NOT_HASHED:
            continue
        if name not in _SPECULATION:
            raise SpecError(f"--speculative-config: {name!r} is not known here")
        if not isinstance(value, int if name == "num_speculative_tokens" else str):
            raise SpecError(f"--speculative-config: {name} cannot be {value!r}")
        if values[_SPECULATION[name]] not in (None, value):
            raise SpecError(f"--speculative-config and another option differ in {name}")
        taken[_SPECULATION[name]] = value
    return taken


def _take_overrides(
    values: Mapping[str, Any], options: VllmOptions
) -> tuple[VllmOptions, dict[str, Any]]:
    """The overrides, in whichever of vLLM's two spellings they come, and what comes with them."""
    from neuron_artifacts.spec import parse_object

    override = dict(values["override_neuron_config"] or {})
    if options.additional_config is None:
        return options, override
    additional = parse_object("--additional-config", options.additional_config)
    inner = additional.pop("override_neuron_config", None) or {}
    options = _take_prompt_length(options, additional.pop("max_prompt_length", None))
    if additional:
        raise SpecError(f"--additional-config: {sorted(additional)[0]!r} is not known here")
    if override and inner:
        raise SpecError("overrides in both --additional-config and --override-neuron-config")
    return options, override or parse_object("override_neuron_config", inner)


def _take_prompt_length(options: VllmOptions, length: Any) -> VllmOptions:
    if length is None:
        return options
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise SpecError(f"max_prompt_length must be a whole number from 1, got {length!r}")
    if options.max_prompt_length not in (None, length):
        raise SpecError(
            f"--additional-config has max_prompt_length {length}, and --max-prompt-length is "
            f"{options.max_prompt_length}"
        )
    return replace(options, max_prompt_length=length)


# Spec options that are NeuronConfig arguments under the same name.
_NEURON_NAMES = (
    "tp_degree", "batch_size", "seq_len", "max_context_length", "enable_bucketing",
    "context_encoding_buckets", "token_generation_buckets", "torch_dtype",
)  # fmt: skip

_VLLM_NAMES = ("tp_degree", "batch_size", "seq_len", "torch_dtype")


def _neuron_arguments(values: Mapping[str, Any], origins: Mapping[str, str]) -> dict[str, Any]:
    given = {name: values[name] for name in _NEURON_NAMES if origins[name] != "default"}
    if given.get("torch_dtype") == "auto":
        del given["torch_dtype"]
    return {n: list(v) if isinstance(v, tuple) else v for n, v in given.items()}


def _vllm_arguments(
    values: Mapping[str, Any], origins: Mapping[str, str], options: VllmOptions
) -> VllmArguments:
    for name in _NEURON_NAMES:
        if origins[name] != "default" and name not in _VLLM_NAMES:
            raise UsageError(
                f"{name} is no option of vLLM",
                hint="put it into --override-neuron-config, as vLLM gets it",
            )
    for name, flag in (("batch_size", "--max-num-seqs"), ("seq_len", "--max-model-len")):
        if origins[name] == "default":
            raise UsageError(
                f"a loader's hash needs {flag}", hint="vLLM's own default depends on its version"
            )
    return _arguments(values, options)


def _arguments(values: Mapping[str, Any], options: VllmOptions) -> VllmArguments:
    from neuron_artifacts.backends.nxdi.loaders import VllmArguments

    return VllmArguments(
        tensor_parallel_size=values["tp_degree"],
        max_num_seqs=values["batch_size"],
        max_model_len=values["seq_len"],
        dtype=values["torch_dtype"],
        block_size=options.block_size,
        enable_prefix_caching=options.enable_prefix_caching,
        num_gpu_blocks_override=options.num_gpu_blocks_override,
        max_prompt_length=options.max_prompt_length,
        speculation=_speculation(values),
        chunked_prefill=_chunk(options),
        lora=_lora(options),
    )


def _chunk(options: VllmOptions) -> int | None:
    from neuron_artifacts.backends.nxdi.loaders import CHUNK_TOKENS

    return (
        (options.max_num_batched_tokens or CHUNK_TOKENS) if options.enable_chunked_prefill else None
    )


def _lora(options: VllmOptions) -> Lora | None:
    from neuron_artifacts.backends.nxdi.vllm_lora import Lora

    if not options.enable_lora:
        return None
    return Lora(options.max_loras or 1, options.max_lora_rank or 16, options.max_cpu_loras)


def _speculation(values: Mapping[str, Any]) -> Speculation | None:
    from neuron_artifacts.backends.nxdi.loaders import Speculation

    if values["speculative_model"] is None:
        return None
    return Speculation(
        values["speculative_model"],
        values["num_speculative_tokens"] or 0,
        values["speculative_method"],
    )


def _read_config(model: str, revision: str | None) -> Mapping[str, Any]:
    """Only ``config.json`` is read: a folder needs no weights."""
    from neuron_artifacts.model.resolve import resolve_model
    from neuron_artifacts.model.snapshot import CONFIG_NAME, read_json

    folder = Path(model)
    if folder.is_dir():
        return read_json(folder / CONFIG_NAME)
    return resolve_model(model, revision=revision, weights=False).config
