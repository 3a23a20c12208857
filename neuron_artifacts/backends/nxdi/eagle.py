"""An EAGLE draft as NxD Inference needs it: with the language-model head of its target.

Published drafts leave the head out, because others share the target's. NxD Inference loads draft
and target as two checkpoints. Source: aws-neuron-sdk
``libraries/nxd-inference/developer_guides/feature-guide.rst``, EAGLE checkpoint compatibility.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from neuron_artifacts._files import CHUNK, sync, sync_directory
from neuron_artifacts.backends.nxdi.preflight.speculation import LM_HEAD
from neuron_artifacts.errors import ModelFormatError, RefusedError, StoreError
from neuron_artifacts.events import BytesMoved, Observer, ignore
from neuron_artifacts.model import ModelSnapshot, resolve_model
from neuron_artifacts.model.floats import FLOAT_BYTES, encode, widen
from neuron_artifacts.model.safetensors_header import TensorInfo
from neuron_artifacts.model.snapshot import CONFIG_NAME, INDEX_NAME, SINGLE_NAME
from neuron_artifacts.store.staging import rename_without_replacing, storing

EMBEDDINGS = "model.embed_tokens.weight"
HEAD_FILE = "model-lm_head.safetensors"
"""The file a sharded draft gets for its head."""

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Head:
    """The target's head: which tensor of which file it is."""

    file: str
    tensor: TensorInfo


@dataclass(frozen=True)
class ConvertedDraft:
    """What was written, and where its head comes from."""

    path: Path
    head: Head
    dtype: str
    files: tuple[str, ...]


def convert_eagle(
    draft: str,
    *,
    target_model: str,
    output: Path,
    revision: str | None = None,
    observe: Observer = ignore,
) -> ConvertedDraft:
    """Convert a draft; both models are folders or hub ids.

    Raises
    ------
    NeuronArtifactsError
        A model cannot be had, the two do not go together, or ``output`` cannot be written.
    """
    _check_free(output)
    given = resolve_model(
        draft, revision=revision,
        progress=lambda name, done, total: observe(BytesMoved(f"downloading {name}", done, total)),
    )  # fmt: skip
    target = resolve_model(target_model, weights=False)
    head = find_head(target)
    check_draft(given, head)
    source = _place_of(target, head.file, observe)
    total = given.weight_bytes + head.tensor.nbytes
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        observe(BytesMoved("writing the draft", min(done, total), total))

    return write_draft(given, head, source, output, on_bytes=tell)


def find_head(target: ModelSnapshot) -> Head:
    """The head of a model: of its own, or its embeddings where the two are tied.

    Raises
    ------
    ModelFormatError
        It has neither.
    """
    tied = target.config.get("tie_word_embeddings", False)
    for name in (LM_HEAD, *((EMBEDDINGS,) if tied else ())):
        for file, tensors in target.tensors.items():
            if name in tensors:
                return Head(file, tensors[name])
    raise ModelFormatError(
        f"the target {target.name} has no {LM_HEAD}"
        + (f" and no {EMBEDDINGS}" if tied else ", and its embeddings are not tied to it"),
        hint="name the model that the draft was trained for",
    )


def check_draft(draft: ModelSnapshot, head: Head) -> str:
    """Refuse what would not become a draft that works; gives the dtype the head gets.

    Raises
    ------
    RefusedError
        It has a head, it is an EAGLE3 draft, or the head does not fit it.
    ModelFormatError
        Its weights have no common float type.
    """
    if LM_HEAD in draft.all_tensors:
        raise RefusedError(f"the draft {draft.name} has {LM_HEAD} already", hint="use it as it is")
    names = {name.removeprefix("model.") for name in draft.all_tensors}
    if "draft_vocab_size" in draft.config or "d2t" in names:
        raise RefusedError(
            f"{draft.name} is an EAGLE3 draft, which has a head of its own",
            hint="the checkpoint is not whole: download it again",
        )
    if "fc.weight" not in names:
        raise RefusedError(f"{draft.name} has no fc.weight, so it is no EAGLE draft")
    expected = (draft.config.get("vocab_size"), draft.config.get("hidden_size"))
    if head.tensor.shape != expected:
        raise RefusedError(
            f"the target's {head.tensor.name} is {list(head.tensor.shape)}, and the draft needs "
            f"{list(expected)} (vocab_size, hidden_size)",
            hint="the draft was trained for another model",
        )
    return _draft_dtype(draft, head)


def write_draft(
    draft: ModelSnapshot,
    head: Head,
    source: Path,
    output: Path,
    *,
    on_bytes: OnBytes = lambda _count: None,
) -> ConvertedDraft:
    """Write a copy of ``draft`` with a head from ``source`` to ``output``, whole or not at all.

    Neither model is changed, and one block at a time is in memory.

    Raises
    ------
    RefusedError, ModelFormatError
        The two do not go together.
    StoreError, ResourceError
        ``output`` exists, or cannot be written.
    """
    dtype = check_draft(draft, head)
    output = output.absolute()
    _check_free(output)
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(6)}")
    try:
        with storing(output):
            temporary.mkdir(parents=True)
            _write_folder(draft, head, source, dtype, temporary, on_bytes)
            sync_directory(temporary)
            moved = rename_without_replacing(temporary, output)
            sync_directory(output.parent)
        if not moved:
            raise _taken(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ConvertedDraft(output, head, dtype, tuple(sorted(f.name for f in output.iterdir())))


def _check_free(output: Path) -> None:
    if os.path.lexists(output):
        raise _taken(output)


def _taken(output: Path) -> StoreError:
    return StoreError(f"{output} exists already", hint="choose another --output")


def _place_of(target: ModelSnapshot, name: str, observe: Observer) -> Path:
    """The target's file on this machine, brought there if need be."""
    from neuron_artifacts.model.hub import download_weight_file

    path = next(file.path for file in target.weight_files if file.name == name)
    return path or download_weight_file(
        target.name, target.revision, name,
        progress=lambda what, done, total: observe(BytesMoved(f"downloading {what}", done, total)),
    )  # fmt: skip


def _draft_dtype(draft: ModelSnapshot, head: Head) -> str:
    counts = Counter(i.dtype for i in draft.all_tensors.values() if i.dtype in FLOAT_BYTES)
    if not counts or head.tensor.dtype not in FLOAT_BYTES:
        raise ModelFormatError(
            f"a head of {head.tensor.dtype} cannot be given to a draft of "
            f"{', '.join(sorted({i.dtype for i in draft.all_tensors.values()}))}",
            hint=f"both must be of {', '.join(FLOAT_BYTES)}",
        )
    return max(sorted(counts), key=lambda dtype: counts[dtype])


def _write_folder(
    draft: ModelSnapshot, head: Head, source: Path, dtype: str, folder: Path, on_bytes: OnBytes
) -> None:
    for file in draft.asset_files:
        _copy(_local(file.path, file.name), folder / file.name)
    # Tied, NxD Inference would put the draft's embeddings in the place of this head.
    config = {**draft.config, "tie_word_embeddings": False}
    _write_json(folder / CONFIG_NAME, config)
    if draft.index is None:
        single = _local(draft.weight_files[0].path, SINGLE_NAME)
        tensors = draft.tensors[draft.weight_files[0].name]
        _write_weights(folder / SINGLE_NAME, tensors, single, head, source, dtype, on_bytes)
        return
    for file in draft.weight_files:
        _copy(_local(file.path, file.name), folder / file.name)
        on_bytes(file.size)
    _write_weights(folder / HEAD_FILE, {}, None, head, source, dtype, on_bytes)
    _write_json(folder / INDEX_NAME, _extended_index(draft.index, head, dtype))


def _extended_index(index: Mapping[str, Any], head: Head, dtype: str) -> dict[str, Any]:
    metadata = dict(index.get("metadata") or {})
    if isinstance(metadata.get("total_size"), int):
        metadata["total_size"] += _head_bytes(head, dtype)
    weight_map = {**index["weight_map"], LM_HEAD: HEAD_FILE}
    return {**index, "metadata": metadata, "weight_map": weight_map}


def _write_weights(
    path: Path, tensors: Mapping[str, TensorInfo], draft: Path | None, head: Head, target: Path,
    dtype: str, on_bytes: OnBytes,
) -> None:  # fmt: skip
    """One safetensors file: the draft's tensors as they lie, then the head."""
    kept = sorted(tensors.values(), key=lambda info: (info.start, info.end))
    header = _header(kept, head, dtype)
    with path.open("xb") as writer:
        size = writer.write(len(header).to_bytes(8, "little") + header)
        if draft is not None:
            with draft.open("rb") as reader:
                for info in kept:
                    size += _write_all(writer, _blocks(reader, info), on_bytes)
        with target.open("rb") as reader:
            size += _write_all(writer, _converted(reader, head.tensor, dtype), on_bytes)
        writer.flush()
        sync(writer, size)


def _header(kept: list[TensorInfo], head: Head, dtype: str) -> bytes:
    # transformers opens a file only if its metadata says which framework it is from.
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    sizes = [(info.name, info.dtype, info.shape, info.nbytes) for info in kept]
    for name, kind, shape, size in (
        *sizes, (LM_HEAD, dtype, head.tensor.shape, _head_bytes(head, dtype)),
    ):  # fmt: skip
        offsets = [position, position + size]
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": offsets}
        position += size
    raw = json.dumps(entries, separators=(",", ":")).encode()
    return raw + b" " * (-len(raw) % 8)


def _head_bytes(head: Head, dtype: str) -> int:
    rows, columns = head.tensor.shape
    return rows * columns * FLOAT_BYTES[dtype]


def _converted(reader: BinaryIO, info: TensorInfo, dtype: str) -> Iterator[bytes]:
    for block in _blocks(reader, info):
        yield block if info.dtype == dtype else encode(widen(block, info.dtype), dtype)


def _blocks(reader: BinaryIO, info: TensorInfo) -> Iterator[bytes]:
    reader.seek(info.start)
    left = info.nbytes
    while left:
        block = reader.read(min(left, CHUNK))
        if not block:
            raise ModelFormatError(f"{reader.name} became shorter while it was read")
        left -= len(block)
        yield block


def _write_all(writer: BinaryIO, blocks: Iterator[bytes], on_bytes: OnBytes) -> int:
    """How much that was."""
    size = 0
    for block in blocks:
        size += writer.write(block)
        on_bytes(len(block))
    return size


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)
    descriptor = os.open(destination, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _local(path: Path | None, name: str) -> Path:
    if path is None:
        raise ModelFormatError(f"{name} of the draft is not on this machine")
    return path
