"""How a directory of a Neuron library reads, as JSON and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuron_artifacts.cli import _output

if TYPE_CHECKING:
    from neuron_artifacts.artifact.neuron_directory import NeuronDirectory

_SHOWN_FIELDS = (
    "tp_degree", "world_size", "start_rank_id", "local_ranks_size", "logical_nc_config", "target",
    "batch_size", "seq_len", "sequence_length", "max_context_length", "torch_dtype", "quantized",
    "save_sharded_checkpoint", "speculation_length", "enable_bucketing",
    "context_encoding_buckets", "token_generation_buckets", "checkpoint_id", "neuronxcc_version",
    "optimum_neuron_version",
)  # fmt: skip


def contents_json(contents: NeuronDirectory) -> dict[str, Any]:
    """Everything that was read but the archives' members; infinities are text."""
    return {
        "kind": contents.kind,
        "config_md5": contents.config.md5 if contents.config else None,
        "neuron_config": _strict(contents.fields),
        "models": [
            {"path": model.path, "bytes": model.size, "neffs": len(model.neffs)}
            for model in contents.models
        ],
        "neffs": [
            {
                "path": path,
                "member": getattr(neff, "member", None),
                "offset": getattr(neff, "offset", None),
                **vars(neff.neff.header),
                "core_programs": neff.neff.core_programs or None,
            }
            for path, neff in contents.all_neffs
        ],
        "shards": [vars(shard) for shard in contents.shards],
        "findings": [vars(finding) for finding in contents.findings],
    }


def contents_text(contents: NeuronDirectory) -> str:
    from neuron_artifacts.preflight import show_bytes

    facts: list[tuple[str, Any]] = [("kind", contents.kind)]
    if contents.config:
        facts.append(("md5 of configuration", contents.config.md5))
    facts += [
        (name, contents.fields[name])
        for name in _SHOWN_FIELDS
        if contents.fields.get(name) is not None
    ]
    facts += [(model.path, show_bytes(model.size)) for model in contents.models]
    parts = [_output.table(("field", "value"), facts)]
    rows = [
        (path, h.name, h.version, h.lnc, show_bytes(h.data_size), h.build)
        for path, neff in contents.all_neffs
        for h in (neff.neff.header,)
    ]
    if rows:
        parts.append(_output.table(("neff in", "name", "version", "lnc", "size", "build"), rows))
    shards = [(shard.path, shard.tensors, show_bytes(shard.size)) for shard in contents.shards]
    if shards:
        parts.append(_output.table(("shard", "tensors", "size"), shards))
    found = [(finding.severity, str(finding)) for finding in contents.findings]
    if found:
        parts.append(_output.table(("finding", "what"), found))
    return "\n\n".join(parts)


def _strict(value: Any) -> Any:
    """JSON that every parser reads: NxD Inference writes infinities, which are none."""
    if isinstance(value, dict):
        return {name: _strict(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and value - value != 0.0:
        return repr(value)
    return value
