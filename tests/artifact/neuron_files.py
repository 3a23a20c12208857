"""Files such as the Neuron libraries write, made byte by byte: no library is at hand to make them.

A NEFF follows ``neuron-runtime/explore/work-with-neff-files.rst`` of aws-neuron-sdk, a ``model.pt``
what ``torch.jit.save`` writes (stored members in one folder, aligned by padding, source deflated),
and the directories ``NeuronApplicationBase.compile`` of neuronx-distributed-inference
(``models/application_base.py``) and ``NxDPreTrainedModel.save`` of optimum-neuron.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.artifact.artifacts import make_safetensors

BUILD = "2.0.1.0%compiler/release@0123456"

NEURON_CONFIG: dict[str, Any] = {
    "batch_size": 1,
    "enable_bucketing": False,
    "enable_fused_speculation": False,
    "local_ranks_size": 2,
    "logical_nc_config": 1,
    "lora_config": None,
    "max_context_length": 64,
    "max_length": 128,
    "quantize_clamp_bound": float("inf"),
    "quantized": False,
    "save_sharded_checkpoint": True,
    "seq_len": 128,
    "skip_sharding": False,
    "start_rank_id": 0,
    "target": None,
    "torch_dtype": "bfloat16",
    "tp_degree": 2,
    "world_size": 2,
}
"""The fields of NeuronConfig that decide what must lie in the directory."""


def make_tar(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def neff_members(lnc: int = 1) -> dict[str, bytes]:
    shared = {"neff.json": b"{}", "kelf-a.json": b'{"graphs": []}', "info.json": b"{}"}
    cores = {f"sg{core:02}/def.json": b"{}" for core in range(lnc)}
    return {**shared, **cores}


def make_neff(
    *, package: int = 2, major: int = 2, lnc: int = 1, name: str = "graph",
    members: Mapping[str, bytes] | None = None, payload: bytes | None = None,
) -> bytes:  # fmt: skip
    if payload is None:
        tar = make_tar(neff_members(lnc) if members is None else members)
        payload = gzip.compress(tar, mtime=0) if package == 2 else tar
    if package == 1:
        digest = hashlib.sha256(payload).digest()
    else:
        digest = hashlib.md5(payload).digest() + b"0" * 16
    header = struct.pack("<QQQQQ", package, 1024, len(payload), major, 0)
    header += BUILD.encode().ljust(128, b"\0") + struct.pack("<I", 1) + digest + bytes(range(16))
    header += name.encode().ljust(256, b"\0") + struct.pack("<I", 1) + bytes(64)
    header += struct.pack("<QI", 1 << 63, lnc)
    return header.ljust(1024, b"\0") + payload


def make_model_pt(
    neffs: Sequence[bytes] = (), *, extra: Mapping[str, bytes] | None = None
) -> bytes:
    """A TorchScript archive whose pickle holds the NEFFs among other bytes."""
    pickled = b"\x80\x02c__torch__\nModel\n"
    for neff in neffs:
        pickled += b"X" + struct.pack("<I", len(neff)) + neff + b"q\0"
    members = {
        "data.pkl": pickled + b".",
        "code/__torch__.py": b"class Model(Module):\n" * 40,
        "constants.pkl": b"\x80\x02).",
        "version": b"3\n",
        "byteorder": b"little",
        **(extra or {}),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(f"model/{name}")
            entry.compress_type = (
                zipfile.ZIP_DEFLATED if name.startswith("code/") else zipfile.ZIP_STORED
            )
            archive.writestr(entry, data)
    return out.getvalue()


def make_config(neuron: Mapping[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """The content of a ``neuron_config.json`` of NxD Inference."""
    return {
        "_name_or_path": "org/tiny",
        "architectures": ["LlamaForCausalLM"],
        "eos_token_id": 2,
        "fused_spec_config": None,
        "hidden_size": 64,
        "id2label": {"0": "LABEL_0"},
        "model_type": "llama",
        "neuron_config": {**NEURON_CONFIG, **(neuron or {})},
        "vocab_size": 256,
        **top,
    }


def config_text(content: Mapping[str, Any]) -> bytes:
    """The text that is hashed; the file has a newline more."""
    return json.dumps(content, indent=2, sort_keys=True).encode()


def md5_of(content: Mapping[str, Any]) -> str:
    return hashlib.md5(config_text(content)).hexdigest()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_shards(folder: Path, ranks: Sequence[int]) -> None:
    for rank in ranks:
        write(folder / f"tp{rank}_sharded_checkpoint.safetensors", make_safetensors())


def write_nxdi(
    parent: Path, neuron: Mapping[str, Any] | None = None, *, name: str | None = None,
    neffs: Sequence[bytes] | None = None, **top: Any,
) -> Path:  # fmt: skip
    """What ``compile`` leaves; the directory is named by its MD5, as vLLM names it."""
    content = make_config(neuron, **top)
    directory = parent / (name or md5_of(content))
    fields = content["neuron_config"]
    write(directory / "neuron_config.json", config_text(content) + b"\n")
    lnc = fields["logical_nc_config"]
    found = [make_neff(lnc=lnc), make_neff(lnc=lnc, name="b")] if neffs is None else neffs
    write(directory / "model.pt", make_model_pt(found))
    if fields["save_sharded_checkpoint"] and not fields["skip_sharding"]:
        ranks = range(fields["start_rank_id"], fields["start_rank_id"] + fields["local_ranks_size"])
        write_shards(directory / "weights", ranks)
    return directory


def write_multimodal(parent: Path) -> Path:
    """What the image-to-text base class leaves (``models/image_to_text_model_base.py``)."""
    text = {"neuron_config": dict(NEURON_CONFIG)}
    vision = {"neuron_config": {**NEURON_CONFIG, "buckets": [8, 88]}}
    content = make_config(text_config=text, vision_config=vision)
    directory = parent / md5_of(content)
    write(directory / "neuron_config.json", config_text(content) + b"\n")
    for part in ("text_model", "vision_model"):
        write(directory / part / "model.pt", make_model_pt([make_neff()]))
        write_shards(directory / part / "weights", (0, 1))
    return directory


def write_optimum(parent: Path, *, bundles: Sequence[str] = (), **fields: Any) -> Path:
    """What ``save_pretrained`` of optimum-neuron leaves, its checkpoint sharded."""
    directory = parent / "optimum"
    content = {
        "_serialized_key": "NxDVLMNeuronConfig" if bundles else "NxDNeuronConfig",
        "batch_size": 1, "checkpoint_id": None, "checkpoint_revision": None, "ep_degree": 1,
        "local_ranks_size": 2, "neuronxcc_version": "2.21.33363.0",
        "optimum_neuron_version": "0.4.6", "pp_degree": 1, "sequence_length": 128,
        "start_rank_id": 0, "target": "trn1", "tp_degree": 2, **fields,
    }  # fmt: skip
    write(directory / "neuron_config.json", json.dumps(content, indent=2).encode() + b"\n")
    write(directory / "config.json", b"{}\n")
    for name in bundles or ("",):
        file = f"model_{name}.pt" if name else "model.pt"
        write(directory / file, make_model_pt([make_neff()]))
        write_shards(directory / "checkpoint" / name / "weights", (0, 1))
    return directory


def write_entry(cache: Path, key: str = "0123456789abcdef0123456789abcdef") -> Path:
    """One entry of vllm-neuron's compile cache."""
    entry = cache / key
    metadata = {"version": 0, "cache_key": key, "output_count": 1}
    write(entry / "graph.hlo", b"hlo")
    write(entry / f"graph_{key}.neff", make_neff())
    write(entry / ".artifact_metadata_v0.json", json.dumps(metadata).encode())
    write(entry / ".compilation_complete", b"completed: yes\n")
    return entry
