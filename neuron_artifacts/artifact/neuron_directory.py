"""What a Neuron library has written into a directory, and whether it is all there.

Works on directories with a manifest of ours and on those without, on any machine: nothing is
imported from the libraries and nothing is unpickled. Layouts:

=====================  =========================================================================
nxdi                   ``neuron_config.json``, ``model.pt``, ``weights/`` (``application_base.py``)
nxdi-multimodal        the same once in ``text_model/`` and once in ``vision_model/``
                       (``image_to_text_model_base.py``)
optimum                ``config.json``, ``neuron_config.json`` of another schema, ``model*.pt``,
                       ``checkpoint/`` (``backend/pretrained_model.py`` of optimum-neuron)
transformers-neuronx   ``<20 hex>.neff`` for each kernel (``base.py``)
vllm-neuron            ``<32 hex>/graph.hlo`` and what was compiled from it
=====================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuron_artifacts.artifact.findings import Finding, severity_of, sort_findings
from neuron_artifacts.artifact.loose_neffs import LooseNeff, find_loose, read_entries, read_kernels
from neuron_artifacts.artifact.neuron_config_file import (
    CONFIG_FILE,
    NeuronConfigFile,
    read_neuron_config,
)
from neuron_artifacts.artifact.neuron_weights import (
    ShardFile,
    adapter_paths,
    check_weights,
    is_file,
    whole,
)
from neuron_artifacts.artifact.optimum_directory import check_optimum, is_optimum
from neuron_artifacts.artifact.torchscript import EmbeddedNeff, read_torchscript
from neuron_artifacts.errors import CorruptError, IncompleteError, MissError

Kind = Literal["nxdi", "nxdi-multimodal", "optimum", "transformers-neuronx", "vllm-neuron"]

MODEL_FILE = "model.pt"
MULTIMODAL = ("text_model/", "vision_model/")


@dataclass(frozen=True)
class CompiledModel:
    """A ``model.pt``: its size in bytes, and the NEFFs found in it."""

    path: str
    size: int
    neffs: tuple[EmbeddedNeff, ...]


@dataclass(frozen=True)
class NeuronDirectory:
    """The contents; ``findings`` are sorted, the gravest first.

    ``fields`` is the NeuronConfig, empty where there is none to read.
    """

    path: Path
    kind: Kind
    config: NeuronConfigFile | None
    fields: Mapping[str, Any]
    models: tuple[CompiledModel, ...]
    neffs: tuple[LooseNeff, ...]
    shards: tuple[ShardFile, ...]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_problem)

    @property
    def all_neffs(self) -> Iterator[tuple[str, EmbeddedNeff | LooseNeff]]:
        """Every NEFF with the file it is in."""
        for model in self.models:
            yield from ((model.path, neff) for neff in model.neffs)
        yield from ((neff.path, neff) for neff in self.neffs)


def read_neuron_directory(directory: Path, *, full: bool = False) -> NeuronDirectory:
    """Read a directory; with ``full`` every checksum and every NEFF's archive too.

    Raises
    ------
    MissError
        There is no such directory.
    IncompleteError
        Nothing in it is a Neuron library's work.
    """
    if not directory.is_dir():
        what = "it is no directory" if directory.exists() else "there is no such directory"
        raise MissError(f"{what}: {directory}")
    config, findings = _read_config(directory)
    kind = _kind_of(directory, config)
    if kind is None:
        raise IncompleteError(f"{directory} holds nothing that a Neuron library has written")
    if kind in ("transformers-neuronx", "vllm-neuron"):
        return _read_loose(directory, kind, config, full)
    content = config.content if config else {}
    fields = content if kind == "optimum" else _object(content, "neuron_config")
    models, more = _read_models(directory, _model_names(directory, kind), full)
    findings += more
    shards: tuple[ShardFile, ...] = ()
    if config is not None:
        shards, more = _check_content(directory, kind, config, fields)
        findings += more
        findings += _check_cores(models, fields)
    return NeuronDirectory(
        directory, kind, config, fields, models, (), shards, sort_findings(findings)
    )


def _read_loose(
    directory: Path, kind: Kind, config: NeuronConfigFile | None, full: bool
) -> NeuronDirectory:
    """NEFFs that are files; a configuration beside them is whoever's who saved them."""
    read = read_kernels if kind == "transformers-neuronx" else read_entries
    neffs, findings = read(directory, full=full)
    fields = config.content if config else {}
    return NeuronDirectory(directory, kind, config, fields, (), neffs, (), sort_findings(findings))


def _read_config(directory: Path) -> tuple[NeuronConfigFile | None, list[Finding]]:
    try:
        return read_neuron_config(directory / CONFIG_FILE), []
    except IncompleteError as error:
        return None, [Finding("incomplete", error.message, CONFIG_FILE)]
    except CorruptError as error:
        return None, [Finding(severity_of(error), error.message, CONFIG_FILE)]


def _kind_of(directory: Path, config: NeuronConfigFile | None) -> Kind | None:
    content = config.content if config else {}
    if is_optimum(content):
        return "optimum"
    nested = [_object(_object(content, f"{name}_config"), "neuron_config")
              for name in ("text", "vision")]  # fmt: skip
    if all(nested) or any((directory / prefix).is_dir() for prefix in MULTIMODAL):
        return "nxdi-multimodal"
    if (directory / MODEL_FILE).exists():
        return "nxdi"
    loose = find_loose(directory)
    return loose or ("nxdi" if _object(content, "neuron_config") else None)


def _model_names(directory: Path, kind: Kind) -> list[str]:
    """The archives that must be there; optimum-neuron names one for each of its bundles."""
    if kind == "nxdi-multimodal":
        return [f"{prefix}{MODEL_FILE}" for prefix in MULTIMODAL]
    if kind == "optimum":
        bundles = sorted(path.name for path in directory.glob("model_*.pt"))
        return bundles or [MODEL_FILE]
    return [MODEL_FILE]


def _read_models(
    directory: Path, names: list[str], full: bool
) -> tuple[tuple[CompiledModel, ...], list[Finding]]:
    models: list[CompiledModel] = []
    findings: list[Finding] = []
    for name in names:
        path = directory / name
        if not path.is_file():
            what = "is missing: the compile was interrupted, failed, or only a dry run"
            findings.append(Finding("incomplete", what, name))
            continue
        try:
            script = read_torchscript(path, full=full)
        except CorruptError as error:
            findings.append(Finding(severity_of(error), error.message, name))
            continue
        models.append(CompiledModel(name, path.stat().st_size, script.neffs))
        if not script.neffs:
            findings.append(Finding("note", "no NEFF was recognised in it", name))
    return tuple(models), findings


def _check_content(
    directory: Path, kind: Kind, config: NeuronConfigFile, fields: Mapping[str, Any]
) -> tuple[tuple[ShardFile, ...], list[Finding]]:
    """What the configuration asks for, beginning with the name it gives the directory."""
    findings: list[Finding] = []
    if kind != "optimum" and not config.agrees_with(directory.name):
        what = (
            f"its MD5 is {config.md5}, which is not the directory's name: one of them was changed"
        )
        findings.append(Finding("corrupt", what, CONFIG_FILE))
    if not fields:
        findings.append(Finding("corrupt", "has no neuron_config in it", CONFIG_FILE))
        return (), findings
    try:
        if kind == "optimum":
            report = check_optimum(directory, fields)
        else:
            prefixes = MULTIMODAL if kind == "nxdi-multimodal" else ("",)
            report = check_weights(directory, config.content, prefixes)
    except ValueError as error:
        return (), [*findings, Finding("corrupt", str(error), CONFIG_FILE)]
    findings += report.findings
    for name, path in adapter_paths(fields).items():
        if not is_file(Path(path) / "adapter_config.json"):
            what = f"LoRA adapter {name!r} must lie at {path!r:.200} wherever this is loaded"
            findings.append(Finding("advice", what, CONFIG_FILE, "lora_ckpt_paths"))
    return report.shards, findings


def _check_cores(models: tuple[CompiledModel, ...], fields: Mapping[str, Any]) -> Iterator[Finding]:
    """Graphs are compiled for the logical cores that the configuration says."""
    try:
        lnc = whole(fields, "logical_nc_config", 0)
    except ValueError as error:
        yield Finding("corrupt", str(error), CONFIG_FILE, "logical_nc_config")
        return
    for model in models:
        found = {neff.neff.header.lnc for neff in model.neffs} - {None, lnc}
        if lnc and found:
            what = (
                f"has graphs for {min(filter(None, found))} physical cores per logical one, "
                f"and {CONFIG_FILE} says {lnc}"
            )
            yield Finding("incompatible", what, model.path, "logical_nc_config")


def _object(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name)
    return value if isinstance(value, Mapping) else {}
