"""What was asked: flags over environment over a YAML file over defaults, each with its origin."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_artifacts._files import (
    MAX_YAML_BYTES,
    load_json_object,
    load_yaml,
    read_regular,
    shorten,
)
from neuron_artifacts.errors import SpecError

ENVIRONMENT_PREFIX = "NEURON_ARTIFACTS_"
ARTIFACTS_VARIABLE = "NEURON_COMPILED_ARTIFACTS"
"""vLLM's own: where ``compile`` puts an artifact and where serving finds it."""

ALIASES = {
    "tensor_parallel_size": "tp_degree",
    "max_num_seqs": "batch_size",
    "max_model_len": "seq_len",
    "dtype": "torch_dtype",
}
"""vLLM's spellings of the same options."""

DTYPES = {
    "auto": "auto", "float32": "float32", "fp32": "float32", "float": "float32",
    "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16", "fp16": "float16",
    "half": "float16", "torch.float32": "float32", "torch.bfloat16": "bfloat16",
    "torch.float16": "float16",
}  # fmt: skip


@dataclass(frozen=True)
class CompileSpec:
    """A request to compile; ``None`` means that the backend decides.

    ``extra`` holds entries of ``override_neuron_config`` that are no field here: the backend
    honours or refuses each by name. ``speculative_*`` and ``vllm_loader`` are vLLM's words for
    what its Neuron loaders put into NeuronConfig; ``python`` is the interpreter that has the
    Neuron libraries. ``origins`` says where each field's value came from.
    """

    model: str
    revision: str | None
    backend: str
    target: str
    tp_degree: int
    batch_size: int
    seq_len: int | None
    max_context_length: int | None
    enable_bucketing: bool
    context_encoding_buckets: tuple[int, ...] | None
    token_generation_buckets: tuple[int, ...] | None
    torch_dtype: str
    speculative_model: str | None
    num_speculative_tokens: int | None
    speculative_method: str | None
    vllm_loader: str | None
    python: str | None
    allow_compile: bool
    store: str
    output: str | None
    jobs: int | None
    extra: Mapping[str, Any]
    origins: Mapping[str, str]


def default_backend(devices: Path = Path("/dev")) -> str:
    """NxD Inference where the machine has a Neuron device, else the embedded compiler."""
    return "nxdi" if any(devices.glob("neuron[0-9]*")) else "cpu"


def merge_sources(
    flags: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    needs_model: bool = True,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge the four sources as they are, with each value's origin.

    ``None`` among ``flags`` means not given. ``override_neuron_config`` is left unapplied. Where
    none is needed, a model that nobody named is an empty name.

    Raises
    ------
    SpecError
        An unknown name, a value of the wrong type or range, or no model where one is needed.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {name: default for name, (_, default) in _FIELDS.items()}
    values["backend"] = default_backend()
    origins = dict.fromkeys(values, "default")
    layers = (
        (_read_file(config_file), f"file {config_file}"),
        (_read_environment(environ), "environment"),
        ({name: value for name, value in flags.items() if value is not None}, "flag"),
    )
    _raise_all([e for layer, origin in layers for e in _lay_over(values, origins, layer, origin)])
    if not values["model"]:
        if needs_model:
            raise SpecError("no model given", hint="name a model folder or a hub id, e.g. org/name")
        values["model"] = ""
    return values, origins


def resolve_spec(
    flags: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    needs_model: bool = True,
) -> CompileSpec:
    """Merge the four sources, then lay ``override_neuron_config`` over them, as vLLM does.

    Raises
    ------
    SpecError
        An unknown name, a value of the wrong type or range, or no model where one is needed.
    """
    values, origins = merge_sources(
        flags, environ=environ, config_file=config_file, needs_model=needs_model
    )
    extra = _apply_override(values, origins)
    return CompileSpec(extra=extra, origins=origins, **values)


def without_options(spec: CompileSpec, names: Collection[str]) -> CompileSpec:
    """The request as if nobody had given these options, fields or further overrides."""
    fields = {name: _FIELDS[name][1] for name in names if name in _FIELDS and name != "model"}
    fields.pop("override_neuron_config", None)
    return replace(
        spec,
        extra={name: value for name, value in spec.extra.items() if name not in names},
        origins={**spec.origins, **dict.fromkeys(fields, "default")},
        **fields,
    )


def _lay_over(
    values: dict[str, Any], origins: dict[str, str], layer: Mapping[str, Any], origin: str
) -> Iterator[SpecError]:
    """Change ``values`` and ``origins``; gives what could not be taken."""
    seen: dict[str, str] = {}
    for spelled, raw in layer.items():
        try:
            name = _canonical_name(spelled, origin)
            if seen.setdefault(name, spelled) != spelled:
                both = f"{shorten(seen[name])} and {shorten(spelled)}"
                raise SpecError(f"{both} are the same option", hint="give one")
            values[name] = _FIELDS[name][0](_label(spelled, name, origin), raw)
        except SpecError as error:
            yield error
            continue
        origins[name] = f"{origin} {ENVIRONMENT_PREFIX}{name.upper()}" if (
            origin == "environment"
        ) else origin  # fmt: skip


def _label(spelled: str, name: str, origin: str) -> str:
    """How a message calls an option: by where whoever has to change it finds it."""
    if origin == "environment":
        return ENVIRONMENT_PREFIX + name.upper()
    return f"{spelled} of {origin}" if origin.startswith("file ") else spelled


def _apply_override(values: dict[str, Any], origins: dict[str, str]) -> dict[str, Any]:
    override = values.pop("override_neuron_config") or {}
    origin = origins.pop("override_neuron_config")
    extra, errors = {}, []
    for spelled, raw in override.items():
        name = ALIASES.get(spelled, spelled)
        if name not in _OVERRIDABLE:
            extra[spelled] = raw
            continue
        try:
            values[name] = _FIELDS[name][0](f"override_neuron_config.{spelled}", raw)
        except SpecError as error:
            errors.append(error)
        origins[name] = f"override_neuron_config ({origin})"
    _raise_all(errors)
    return extra


def _raise_all(errors: list[SpecError]) -> None:
    """One error as it is; of several, each on a line with its hint."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        lines = [e.message + (f" ({e.hint})" if e.hint else "") for e in errors]
        raise SpecError("\n".join((f"{len(errors)} options are wrong:", *lines)))


def _canonical_name(spelled: str, origin: str) -> str:
    name = str(spelled).replace("-", "_")
    name = ALIASES.get(name, name)
    if name in _FIELDS:
        return name
    near = difflib.get_close_matches(name, [*_FIELDS, *ALIASES], n=1)
    raise SpecError(
        f"unknown option {shorten(spelled)}" + (f" in {origin}" if origin != "flag" else ""),
        hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_FIELDS)}",
    )


def _read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: environ[variable]
        for name in _FIELDS
        if environ.get(variable := ENVIRONMENT_PREFIX + name.upper())
    }


def _read_file(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        content = load_yaml(read_regular(path, MAX_YAML_BYTES))
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SpecError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SpecError(f"{path} must hold a mapping of option names to values")
    return {name: value for name, value in content.items() if value is not None}


def _text(name: str, value: Any) -> str:
    if isinstance(value, (str, Path)) and str(value).strip():
        return str(value)
    raise SpecError(f"{name} must be text, and not empty, got {shorten(value)}")


def _count(name: str, value: Any) -> int:
    if isinstance(value, str):
        try:
            value = int(value.strip())
        except ValueError:
            raise SpecError(f"{name} must be a whole number, got {shorten(value)}") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"{name} must be a whole number, got {shorten(value)}")
    if not 1 <= value <= 1 << 30:
        raise SpecError(f"{name} must be between 1 and {1 << 30}, got {shorten(value)}")
    return value


def _flag(name: str, value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if isinstance(value, bool):
        return value
    raise SpecError(f"{name} must be true or false, got {shorten(value)}")


def _counts(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = [part for part in value.strip().strip("[]").replace(",", " ").split() if part]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise SpecError(f"{name} must be a list of lengths, e.g. 128,512, got {shorten(value)}")
    return tuple(_count(f"each of {name}", item) for item in value)


def _dtype(name: str, value: Any) -> str:
    if isinstance(value, str) and value.lower() in DTYPES:
        return DTYPES[value.lower()]
    raise SpecError(
        f"{name} {shorten(value)} is not known", hint="one of auto, float32, bfloat16, float16"
    )


def parse_object(name: str, value: Any) -> dict[str, Any]:
    """A JSON object, from its text or parsed already; infinities are refused."""
    if isinstance(value, str):
        try:
            return load_json_object(value.encode())
        except ValueError as error:
            raise SpecError(
                f"{name} is no JSON object that can be used: {error}",
                hint="""in a shell, quote it whole: '{"fused_qkv": true}'""",
            ) from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise SpecError(f"{name} must be a JSON object, got {shorten(value)}")
    if not _is_finite(value):
        raise SpecError(f"{name} holds NaN or an infinity")
    return value


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


_FIELDS: dict[str, tuple[Callable[[str, Any], Any], Any]] = {
    "model": (_text, None),
    "revision": (_text, None),
    "backend": (_text, None),
    "target": (_text, "native"),
    "tp_degree": (_count, 1),
    "batch_size": (_count, 1),
    "seq_len": (_count, None),
    "max_context_length": (_count, None),
    "enable_bucketing": (_flag, True),
    "context_encoding_buckets": (_counts, None),
    "token_generation_buckets": (_counts, None),
    "torch_dtype": (_dtype, "auto"),
    "override_neuron_config": (parse_object, None),
    "speculative_model": (_text, None),
    "num_speculative_tokens": (_count, None),
    "speculative_method": (_text, None),
    "vllm_loader": (_text, None),
    "python": (_text, None),
    "allow_compile": (_flag, False),
    "store": (_text, "."),
    "output": (_text, None),
    "jobs": (_count, None),
}

OPTION_NAMES = tuple(_FIELDS)

_OVERRIDABLE = frozenset({
    "tp_degree", "batch_size", "seq_len", "max_context_length", "enable_bucketing",
    "context_encoding_buckets", "token_generation_buckets", "torch_dtype",
})  # fmt: skip
