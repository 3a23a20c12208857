"""The model's side of a lookup: its configuration, and whether it is compiled already."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import HubError, ModelFormatError, ModelNotFoundError
from neuron_artifacts.neuron_cache import Hub, find_pre_exported, open_model, read_config
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.model_configs import BERT, CLIP_TEXT, LLAMA, PIPELINE, UNET

Connect = Callable[[], Hub]
MODEL = "org/model"
NXD = {
    "_serialized_key": "NxDNeuronConfig", "optimum_neuron_version": "0.4.5", "batch_size": 1,
    "neuronxcc_version": "2.21.33363.0+82129205", "checkpoint_id": "org/base", "target": "trn1",
}  # fmt: skip
EARLY = {"task": "text-generation", "num_cores": 2, "compiler_version": "2.15.143.0+e39249ad"}
TRACED = {"static_batch_size": 1, "dynamic_batch_size": False, "compiler_version": "2.21.1"}


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


def files_of(config: dict[str, Any], **more: Any) -> dict[str, bytes]:
    return {"config.json": encoded(config), **more}


def test_a_model_takes_one_request(hub: CacheHub, connect: Connect) -> None:
    hub.commit(MODEL, files_of(LLAMA))
    found = read_config(open_model(MODEL, connect()))
    assert (found.model_id, found.config, found.age) == (MODEL, LLAMA, None)
    assert len(hub.requests) == 1


def test_a_revision(hub: CacheHub, connect: Connect) -> None:
    hub.commit(MODEL, files_of(LLAMA), branch="v1/x")
    hub.commit(MODEL, files_of(BERT))
    assert read_config(open_model(MODEL, connect(), revision="v1/x")).config == LLAMA


def test_a_pipeline_is_read_by_its_components(hub: CacheHub, connect: Connect) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"], "scheduler": ["diffusers", "PNDM"],
        "image_encoder": [None, None], "safety_checker": ["x", "y"],
    }  # fmt: skip
    hub.commit(MODEL, {
        "model_index.json": encoded(index), "unet/config.json": encoded(UNET),
        "text_encoder/config.json": encoded(CLIP_TEXT),
    })  # fmt: skip
    found = read_config(open_model(MODEL, connect()))
    assert found.config == {name: PIPELINE[name] for name in ("unet", "text_encoder")}


def test_a_folder(tmp_path: Path, connect: Connect, hub: CacheHub) -> None:
    (tmp_path / "config.json").write_bytes(encoded(LLAMA))
    found = read_config(open_model(str(tmp_path), connect()))
    assert (found.model_id, found.config) == (None, LLAMA)
    assert not hub.requests
    (tmp_path / "config.json").write_bytes(b'{"model_type": ')
    with pytest.raises(ModelFormatError, match="not usable JSON"):
        read_config(open_model(str(tmp_path), connect()))


def test_what_is_no_model(hub: CacheHub, connect: Connect, tmp_path: Path) -> None:
    hub.commit(MODEL, {"README.md": b""})
    with pytest.raises(ModelFormatError, match=r"neither config\.json nor model_index\.json"):
        read_config(open_model(MODEL, connect()))
    with pytest.raises(ModelNotFoundError, match="no/such"):
        read_config(open_model("no/such", connect()))
    for name in ("a b", "../x", str(tmp_path / "gone"), "https://hub/x", ""):
        with pytest.raises((ModelNotFoundError, ModelFormatError)):
            read_config(open_model(name, connect()))


def test_offline_reads_what_was_fetched(hub: CacheHub, connect: Connect, kept: Path) -> None:
    hub.commit(MODEL, files_of(LLAMA))
    away = Hub(hub.url, offline=True, cache_dir=kept)
    with pytest.raises(HubError, match="no configuration of org/model was fetched before"):
        read_config(open_model(MODEL, away))
    read_config(open_model(MODEL, connect()))
    asked = len(hub.requests)
    found = read_config(open_model(MODEL, away))
    assert found.config == LLAMA
    assert found.age is not None
    assert len(hub.requests) == asked


def test_a_plain_model_takes_one_head(hub: CacheHub, connect: Connect) -> None:
    hub.commit(MODEL, files_of(LLAMA))
    assert find_pre_exported(open_model(MODEL, connect()), LLAMA) is None
    assert [(r.method, r.path) for r in hub.requests] == [
        ("HEAD", f"/{MODEL}/resolve/main/neuron_config.json")
    ]


@pytest.mark.parametrize(
    ("graphs", "complete"),
    [
        (["model.pt"], True),
        (["model_decode.pt", "model_prefill.pt"], True),
        (["compiled/0.neff"], True),
        ([], False),
    ],
)
def test_a_compiled_decoder_names_its_locks(
    hub: CacheHub, connect: Connect, graphs: list[str], complete: bool
) -> None:
    more = {"neuron_config.json": encoded(NXD), **dict.fromkeys(graphs, b"graph")}
    hub.commit(MODEL, files_of(LLAMA, **more))
    found = find_pre_exported(open_model(MODEL, connect()), LLAMA)
    assert found
    assert (found.layout, found.complete) == ("decoder", complete)
    assert [(lock.package, lock.version, lock.exact) for lock in found.locks] == [
        ("optimum-neuron", "0.4.5", True), ("neuronx-cc", "2.21.33363.0+82129205", True),
    ]  # fmt: skip
    assert found.document()["neuron_config"]["checkpoint_id"] == "org/base"


OLDER: list[tuple[dict[str, Any], str]] = [
    ({**LLAMA, "neuron": EARLY}, "early decoder"),
    ({**BERT, "neuron": TRACED}, "traced"),
    ({"unet": {**UNET, "neuron": TRACED}, "text_encoder": CLIP_TEXT}, "pipeline"),
]


@pytest.mark.parametrize(("config", "layout"), OLDER, ids=[layout for _, layout in OLDER])
def test_older_layouts_are_told_by_their_configuration(
    hub: CacheHub, connect: Connect, config: dict[str, Any], layout: str
) -> None:
    hub.commit(MODEL, files_of(config))
    found = find_pre_exported(open_model(MODEL, connect()), config)
    assert found
    assert found.layout == layout
    [lock] = found.locks
    assert (lock.package, lock.exact) == ("neuronx-cc", False)
    assert len(hub.requests) == 1


def test_a_compiled_encoder_decoder_model_may_have_its_halves_only(
    hub: CacheHub, connect: Connect
) -> None:
    half = encoded({**BERT, "neuron": TRACED})
    hub.commit(MODEL, {"encoder/config.json": half, "decoder/config.json": half})
    model = read_config(open_model(MODEL, connect()))
    assert model.config.keys() == {"encoder", "decoder"}
    found = find_pre_exported(open_model(MODEL, connect()), model.config)
    assert found
    assert found.layout == "pipeline"


def test_a_compiled_folder(tmp_path: Path, connect: Connect) -> None:
    for name, data in files_of(LLAMA, **{"neuron_config.json": encoded(NXD)}).items():
        (tmp_path / name).write_bytes(data)
    found = find_pre_exported(open_model(str(tmp_path), connect()), LLAMA)
    assert found
    assert found.complete is False


def test_an_absurdly_large_configuration_is_refused(
    hub: CacheHub, connect: Connect, tmp_path: Path
) -> None:
    hub.commit(MODEL, {"config.json": encoded(LLAMA) + b" " * (16 << 20)})
    with pytest.raises(ModelFormatError, match="larger than 16 MiB"):
        read_config(open_model(MODEL, connect()))
    (tmp_path / "config.json").write_bytes(encoded(LLAMA))
    os.truncate(tmp_path / "config.json", 1 << 40)
    with pytest.raises(ModelFormatError, match="larger than 16 MiB"):
        read_config(open_model(str(tmp_path), connect()))
