"""What a user may type for a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from neuron_artifacts.errors import HubError, ModelFormatError, ModelNotFoundError, UsageError
from neuron_artifacts.model import resolve_model
from tests.model.checkpoints import lay, single


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_folder_by_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lay(tmp_path / "name", single())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spelling in (str(folder), "name", "./name", "~/name", "name/"):
        assert (
            resolve_model(spelling).weight_files[0].size
            == (folder / "model.safetensors").stat().st_size
        )
    with pytest.raises(UsageError, match="--revision"):
        resolve_model("name", revision="main")


@pytest.mark.parametrize(
    "model",
    [
        "./missing", "/missing/folder", "~/missing", "~nobody-of-that-name/x", "a/b/c", "a b",
        "x\0y", "org/" + "x" * 5000 + "/y", "", "-x", "a/-b", "https://host/org/name",
    ],
)  # fmt: skip
def test_neither_folder_nor_hub_id(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match="neither a folder nor"):
        resolve_model(model)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="is a file") as caught:
        resolve_model(str(tmp_path / "model.safetensors"))
    assert str(tmp_path) in (caught.value.hint or "")


def test_a_gguf_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(str(tmp_path / "model.gguf"))
    assert "GGUF" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (("adapter_config.json", "adapter_model.safetensors"), "merge_and_unload"),
        (("adapter_config.json", "config.json"), "merge_and_unload"),
        (("llama-Q4_K_M.gguf",), "GGUF"),
        (("artifact.json", "config.json"), "the model it was compiled from"),
        (("model_index.json",), "diffusion"),
        (("config.json",), "save_pretrained"),
        ((), "config.json beside"),
    ],
)
def test_what_people_take_for_a_model(tmp_path: Path, names: tuple[str, ...], advice: str) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelFormatError) as caught:
        resolve_model(str(tmp_path))
    assert advice in (caught.value.hint or "")


@pytest.mark.parametrize(
    "model", ["name", "org/name", "org/Name-1.5_b", "x" * 90, "org/" + "x" * 300]
)
@pytest.mark.parametrize("weights", [False, True])
def test_a_hub_id_goes_to_the_hub(model: str, weights: bool) -> None:
    with pytest.raises((HubError, ModelNotFoundError), match=r"HF_HUB_OFFLINE|valid hub id"):
        resolve_model(model, weights=weights)
