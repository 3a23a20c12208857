"""What lies beside graphs whose weights are not sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.companions import find_companions
from neuron_artifacts.errors import RefusedError
from neuron_artifacts.model import resolve_model
from tests.models import copy_model


def fields(path: Path, **changes: Any) -> dict[str, Any]:
    base = {"save_sharded_checkpoint": False, "quantized": True}
    return {**base, "quantized_checkpoints_path": str(path), **changes}


def lay(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_a_quantised_checkpoint_whole_and_nothing_that_could_be_run(tmp_path: Path) -> None:
    names = ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]
    folder = lay(tmp_path / "q", *names, "model.pt", "modeling.py")
    assert find_companions(fields(folder), None) == {f"quantized/{n}": folder / n for n in names}
    assert find_companions(fields(folder, quantized=False), None) == {}
    assert find_companions(fields(folder, save_sharded_checkpoint=True), None) == {}


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    pickle = tmp_path / "q.pt"
    pickle.write_bytes(b"")
    for path in (pickle, lay(tmp_path / "q", "model.pt"), tmp_path / "none"):
        with pytest.raises(RefusedError, match="carries no pickle"):
            find_companions(fields(path), None)


@pytest.mark.parametrize("name", ["llama-gqa-tied-llama3", "llama-mqa-biases-sharded"])
def test_a_draft_of_one_file_or_of_many(tmp_path: Path, name: str) -> None:
    folder = copy_model(tmp_path / "draft", name)
    found = find_companions(fields(tmp_path, quantized=False), resolve_model(str(folder)))
    wanted = {path.name for path in folder.glob("*.safetensors*")} | {"config.json"}
    assert found == {f"draft/{file}": folder / file for file in wanted}
