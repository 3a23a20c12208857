"""What a directory that NxD Inference compiled elsewhere says of itself, as a key document.

A key names everything that shaped the graphs. Of a directory without a manifest much of that is
not known, and stands there as ``unknown``; the bytes of the graphs stand in for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from neuron_artifacts.artifact import FileEntry, GraphEntry
from neuron_artifacts.artifact.manifest import UNKNOWN
from neuron_artifacts.artifact.neuron_directory import NeuronDirectory
from neuron_artifacts.backends.neuron_host import level_of_fields
from neuron_artifacts.backends.nxdi.identity import (
    LAYOUT_FIELDS,
    SERVING_FIELDS,
    graphs_document,
    list_graphs,
)
from neuron_artifacts.backends.nxdi.recognise import recognise_loader, speculation_of
from neuron_artifacts.errors import CorruptError, IncompatibleError
from neuron_artifacts.key import ArtifactKey, digest_of, make_key
from neuron_artifacts.neuron_config import NeuronConfig
from neuron_artifacts.toolchain.generations import KEY_PACKAGES
from neuron_artifacts.toolchain.platforms import HARDWARE, chip_of, hardware_of

VISION = "vision_model/model.pt"

_NEURON_ONLY = (
    "attribute_map", "fused_spec_config", "metadata", "neuron_config", "num_cores_per_group",
)  # fmt: skip
"""What NxD Inference adds to the attributes of a model's configuration."""


def target_of(fields: Mapping[str, Any], asked: str | None) -> str:
    """What the graphs run on: as the caller says, as the configuration says, or unknown.

    Raises
    ------
    SpecError
        There is no such target.
    IncompatibleError
        The configuration is for other hardware than the caller says.
    """
    told = fields.get("target")
    named = told if isinstance(told, str) and told in HARDWARE else None
    if asked is None:
        return named or UNKNOWN
    hardware, lnc = hardware_of(asked), fields.get("logical_nc_config")
    if named and HARDWARE[named] != hardware:
        raise IncompatibleError(f"it was compiled for {named}, and not for {asked}")
    if isinstance(lnc, int) and lnc not in chip_of(asked).logical_nc_configs:
        raise IncompatibleError(
            f"it was compiled for {lnc} physical cores per logical one, which {asked} has not"
        )
    return asked


def unknown_toolchain() -> dict[str, str]:
    """The packages whose versions shaped the graphs, and that no file of them tells."""
    return dict.fromkeys(KEY_PACKAGES["nxdi"], UNKNOWN)


def model_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own configuration, out of a ``neuron_config.json``.

    NxD Inference saves every attribute of ``config.json`` with its own beside them.
    """
    return {
        name: model_config(value) if isinstance(value, Mapping) else value
        for name, value in content.items()
        if name not in _NEURON_ONLY and not (isinstance(value, float) and not math.isfinite(value))
    }


def adopted_key(
    contents: NeuronDirectory, files: tuple[FileEntry, ...], target: str
) -> ArtifactKey:
    """The key of a directory whose files are ``files``.

    Raises
    ------
    CorruptError
        The configuration holds what no key document can.
    """
    content = contents.config.content if contents.config else {}
    level = level_of_fields(contents.fields)
    by_role: dict[str, dict[str, str]] = {"graph": {}, "weights": {}, "model": {}}
    for file in files:
        by_role[file.role][file.path] = file.sha256
    try:
        graphs = graphs_document(
            backend="nxdi", target=target, toolchain=unknown_toolchain(),
            config=model_config(content), neuron_config=contents.fields, environ={},
            draft=_draft_config(content),
        )  # fmt: skip
        graphs |= {
            "environment": UNKNOWN,
            "sdk": level.name if level else UNKNOWN,
            "graphs": by_role["graph"],
        }
        weights = {
            "files": {name: {"sha256": digest} for name, digest in by_role["weights"].items()},
            "assets": by_role["model"],
            "serving": {n: content[n] for n in SERVING_FIELDS if content.get(n) is not None},
            "layout": {name: contents.fields.get(name) for name in LAYOUT_FIELDS},
        }
        return make_key(graphs, weights)
    except (TypeError, ValueError) as error:
        raise CorruptError(f"neuron_config.json cannot be described: {error}") from None


def adopted_graphs(contents: NeuronDirectory, key: ArtifactKey) -> tuple[GraphEntry, ...]:
    """The graphs that the configuration asks for. What compiling them took is not known."""
    file = contents.models[0].path
    graphs = [(phase, bucket, file) for phase, bucket in list_graphs(contents.fields)]
    if contents.kind == "nxdi-multimodal":
        graphs += [("vision_encoder", bucket, VISION) for bucket in _vision_buckets(contents)]
    return tuple(
        GraphEntry(
            phase, bucket, file,
            digest_of({"graphs": key.graphs_digest, "phase": phase, "bucket": bucket}), 0.0, 0,
        )
        for phase, bucket, file in graphs
    )  # fmt: skip


def _vision_buckets(contents: NeuronDirectory) -> tuple[int, ...]:
    """As the model has set them before they are saved (``enable_vision_encoder``)."""
    content = contents.config.content if contents.config else {}
    try:
        return tuple(int(bucket) for bucket in content["vision_config"]["neuron_config"]["buckets"])
    except (KeyError, TypeError, ValueError):
        return ()


def summarise(fields: Mapping[str, Any]) -> NeuronConfig:
    """The part of a finished NeuronConfig that every backend has.

    Raises
    ------
    CorruptError
        A field is missing, or no number.
    """
    try:
        graphs = list_graphs(fields)
        context = tuple(bucket for phase, bucket in graphs if phase == "context_encoding")
        decoding = {bucket for phase, bucket in graphs if phase != "context_encoding"}
        numbers = ("tp_degree", "batch_size", "seq_len", "max_context_length")
        return NeuronConfig(
            **{name: int(fields[name]) for name in numbers},
            enable_bucketing=bool(fields["enable_bucketing"]),
            context_encoding_buckets=context,
            token_generation_buckets=tuple(sorted(decoding)),
            torch_dtype=str(fields["torch_dtype"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"makes no sense: {error}"
        raise CorruptError(f"neuron_config.json {what}") from None


def serve_recipe(contents: NeuronDirectory, served_name: str, target: str) -> dict[str, Any]:
    """How it is served. ``md5`` is the name vLLM knows it by.

    The ``loader`` is that of vLLM which asks for this configuration, where one can be told from
    the others, and the overrides are what it was given.
    """
    fields, config = contents.fields, summarise(contents.fields)
    content = contents.config.content if contents.config else {"neuron_config": fields}
    level, speculation = level_of_fields(fields), speculation_of(content)
    known = recognise_loader(content, level, target) if level else None
    recipe: dict[str, Any] = {
        "max_model_len": min(
            int(fields["seq_len"]) - int(fields.get("speculation_length") or 0),
            config.max_model_len,
        ),
        "max_num_seqs": config.batch_size,
        "served_model_name": served_name,
        "loader": known.loader if known else None,
        "override_neuron_config": {**known.override, **known.options} if known else {},
        "ranks": {
            "start": fields.get("start_rank_id") or 0,
            "count": fields.get("local_ranks_size") or config.tp_degree,
        },
        "md5": contents.config.md5s[-1] if contents.config else None,
    }
    return recipe | ({"speculation": asdict(speculation)} if speculation else {})


def _draft_config(content: Mapping[str, Any]) -> dict[str, Any] | None:
    fused = content.get("fused_spec_config")
    draft = fused.get("draft_config") if isinstance(fused, Mapping) else None
    return model_config(draft) if isinstance(draft, Mapping) else None
