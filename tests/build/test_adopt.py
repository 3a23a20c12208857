from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.build.adopt import Adopted, adopt_directory
from neuron_artifacts.errors import (
    CorruptError,
    IncompatibleError,
    IncompleteError,
    MissError,
    ModelNotFoundError,
    RefusedError,
    SpecError,
    UntrustedError,
    UsageError,
)
from neuron_artifacts.events import Event, Note
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.staging import Staging
from tests.artifact.artifacts import make_safetensors
from tests.artifact.neuron_files import (
    make_model_pt,
    make_neff,
    write,
    write_multimodal,
    write_nxdi,
    write_optimum,
    write_shards,
)
from tests.backends.nxdi.vectors import read
from tests.models import copy_model


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", DigestCache(tmp_path / "digests"))


def take(source: Path, store: LocalStore, **options: Any) -> Adopted:
    adopted = adopt_directory(source, store, **options)
    assert verify_artifact(adopted.path, "full").status == "ok"
    return adopted


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_it_stands_in_the_store_and_the_source_is_as_it_was(
    tmp_path: Path, store: LocalStore
) -> None:
    source = write_nxdi(tmp_path)
    before = contents(source)
    adopted = take(source, store)
    assert contents(source) == before
    assert adopted.path == store.path(adopted.manifest.key)
    laid = contents(adopted.path)
    assert before.items() <= laid.items()
    assert set(laid) - set(before) == {
        "config.json", "artifact.json", "artifact.provenance.json",
    }  # fmt: skip
    shutil.rmtree(source)
    assert verify_artifact(adopted.path, "full").status == "ok"


def test_the_manifest_says_what_is_known_and_what_is_not(tmp_path: Path, store: LocalStore) -> None:
    source = write_nxdi(tmp_path)
    manifest = take(source, store).manifest
    graphs = manifest.document["graphs"]
    assert (manifest.backend, manifest.target) == ("nxdi", "unknown")
    assert set(manifest.toolchain.values()) == {"unknown"}
    assert "neuronx-cc" in manifest.toolchain
    assert (graphs["environment"], graphs["sdk"]) == ("unknown", "unknown")
    assert graphs["graphs"] == {
        "model.pt": hashlib.sha256((source / "model.pt").read_bytes()).hexdigest()
    }
    assert graphs["neuron_config"]["quantize_clamp_bound"] == "inf"
    assert "start_rank_id" not in graphs["neuron_config"]
    assert graphs["model"]["hidden_size"] == 64
    assert [(g.phase, g.bucket, g.file) for g in manifest.graphs] == [
        ("context_encoding", 64, "model.pt"), ("token_generation", 128, "model.pt"),
    ]  # fmt: skip
    assert manifest.serve["md5"] == source.name
    assert manifest.serve["ranks"] == {"start": 0, "count": 2}
    assert manifest.model == {"name": "org/tiny", "source": "org/tiny", "revision": None}
    assert {file.path: file.role for file in manifest.files} == {
        "config.json": "model", "neuron_config.json": "model", "model.pt": "graph",
        "weights/tp0_sharded_checkpoint.safetensors": "weights",
        "weights/tp1_sharded_checkpoint.safetensors": "weights",
    }  # fmt: skip


def test_the_key_is_of_the_bytes_and_not_of_the_place(tmp_path: Path, store: LocalStore) -> None:
    first = take(write_nxdi(tmp_path / "a"), store).manifest
    again = take(write_nxdi(tmp_path / "b"), store)
    assert again.was_there
    assert again.manifest.key == first.key
    compiled_again = take(write_nxdi(tmp_path / "c", neffs=[make_neff(name="other")]), store)
    assert compiled_again.manifest.graphs_digest != first.graphs_digest
    source = write_nxdi(tmp_path / "d")
    write(source / "weights/tp0_sharded_checkpoint.safetensors", make_safetensors(b"new!"))
    fine_tune = take(source, store).manifest
    assert fine_tune.graphs_digest == first.graphs_digest
    assert fine_tune.weights_digest != first.weights_digest


def test_a_document_that_nxd_inference_wrote(tmp_path: Path, store: LocalStore) -> None:
    """The text of a real class, hashed by the real code, at every level there is one for."""
    texts = [
        (sdk, text, case["md5"][sdk])
        for case in read("vectors")["cases"]
        for sdk, text in case.get("json", {}).items()
    ]
    assert texts
    for sdk, text, md5 in texts:
        fields = json.loads(text)["neuron_config"]
        if fields["quantized"] or json.loads(text)["fused_spec_config"]:
            continue
        source = tmp_path / sdk / md5
        write(source / "neuron_config.json", text.encode() + b"\n")
        write(source / "model.pt", make_model_pt([make_neff(lnc=fields["logical_nc_config"])]))
        write_shards(source / "weights", range(fields["local_ranks_size"]))
        if not fields["save_sharded_checkpoint"]:
            write(source / "model.safetensors", make_safetensors())
        manifest = take(source, store).manifest
        assert manifest.serve["md5"] == md5
        assert manifest.document["graphs"]["sdk"] == sdk


def test_tokenizer_and_configuration_come_from_the_model(tmp_path: Path, store: LocalStore) -> None:
    model = copy_model(tmp_path / "model")
    (model / "tokenizer.json").write_bytes(b"{}")
    source = write_nxdi(tmp_path)
    write(source / "tokenizer_config.json", b'{"mine": 1}')
    write(model / "tokenizer_config.json", b'{"theirs": 1}')
    manifest = take(source, store, model=model).manifest
    path = store.path(manifest.key)
    assert (path / "tokenizer.json").read_bytes() == b"{}"
    assert (path / "tokenizer_config.json").read_bytes() == b'{"mine": 1}'
    assert (path / "config.json").read_bytes() == (model / "config.json").read_bytes()
    assert not (path / "model.safetensors").exists()
    assert manifest.model["source"] == str(model)


def test_without_a_tokenizer_it_is_said(tmp_path: Path, store: LocalStore) -> None:
    events: list[Event] = []
    take(write_nxdi(tmp_path), store, observe=events.append)
    assert any(isinstance(e, Note) and "no tokenizer" in e.text for e in events)


def test_a_configuration_is_made_from_what_nxd_inference_saved(
    tmp_path: Path, store: LocalStore
) -> None:
    source = write_nxdi(tmp_path, sliding=float("inf"), text_config={"neuron_config": {}, "a": 1})
    path = take(source, store).path
    config = json.loads((path / "config.json").read_bytes())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["text_config"] == {"a": 1}
    assert not {"neuron_config", "fused_spec_config", "sliding"} & set(config)


class TestWeightsElsewhere:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        return copy_model(tmp_path / "model")

    def source(self, tmp_path: Path, **fields: Any) -> Path:
        return write_nxdi(tmp_path, {"save_sharded_checkpoint": False, **fields})

    def test_they_are_laid_in(self, tmp_path: Path, store: LocalStore, model: Path) -> None:
        with pytest.raises(IncompleteError, match="holds no weights") as raised:
            adopt_directory(self.source(tmp_path), store)
        assert raised.value.hint
        assert "--model" in raised.value.hint
        adopted = take(self.source(tmp_path), store, model=model)
        laid = adopted.path / "model.safetensors"
        assert laid.read_bytes() == (model / "model.safetensors").read_bytes()
        assert laid.stat().st_ino != (model / "model.safetensors").stat().st_ino

    def test_a_checkpoint_in_the_directory_wins(
        self, tmp_path: Path, store: LocalStore, model: Path
    ) -> None:
        source = self.source(tmp_path)
        write(source / "model.safetensors", make_safetensors())
        path = take(source, store, model=model).path
        assert (path / "model.safetensors").read_bytes() == make_safetensors()

    def test_quantised_ones_cannot_be(self, tmp_path: Path, store: LocalStore, model: Path) -> None:
        place = write(tmp_path / "int8.pt", b"x")
        source = self.source(tmp_path, quantized=True, quantized_checkpoints_path=str(place))
        with pytest.raises(IncompleteError) as raised:
            adopt_directory(source, store, model=model)
        assert raised.value.hint
        assert "save_sharded_checkpoint" in raised.value.hint

    def test_the_folder_must_be_there(self, tmp_path: Path, store: LocalStore) -> None:
        with pytest.raises(ModelNotFoundError):
            adopt_directory(self.source(tmp_path), store, model=tmp_path / "none")


def test_multimodal(tmp_path: Path, store: LocalStore) -> None:
    manifest = take(write_multimodal(tmp_path), store).manifest
    text = {graph.phase for graph in manifest.graphs if graph.file == "text_model/model.pt"}
    assert text == {"context_encoding", "token_generation"}
    vision = [graph for graph in manifest.graphs if graph.file == "vision_model/model.pt"]
    assert [(graph.phase, graph.bucket) for graph in vision] == [
        ("vision_encoder", 8), ("vision_encoder", 88),
    ]  # fmt: skip
    roles = {file.path: file.role for file in manifest.files}
    assert roles["vision_model/model.pt"] == "graph"
    assert roles["vision_model/weights/tp1_sharded_checkpoint.safetensors"] == "weights"


def test_what_does_not_belong_is_left_out_and_named(tmp_path: Path, store: LocalStore) -> None:
    source = write_nxdi(tmp_path)
    write_shards(source / "weights", [7])
    for name in ("notes.txt", "modeling.py", "pytorch_model.bin"):
        write(source / name, b"x")
    (source / "link").symlink_to("/etc/passwd")
    adopted = take(source, store)
    assert adopted.left_out == (
        "link", "modeling.py", "notes.txt", "pytorch_model.bin",
        "weights/tp7_sharded_checkpoint.safetensors",
    )  # fmt: skip
    assert not (adopted.path / "modeling.py").exists()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda d: (d / "model.pt").unlink(), IncompleteError, "model.pt: is missing"),
        (lambda d: write(d / "model.pt", b"PK"), CorruptError, "model.pt"),
        (lambda d: (d / "weights/tp1_sharded_checkpoint.safetensors").unlink(), IncompleteError,
         "tp1_sharded"),
        (lambda d: (d / "neuron_config.json").unlink(), IncompleteError, "neuron_config.json"),
        (lambda d: write(d / "neuron_config.json", (d / "neuron_config.json").read_bytes() + b" "),
         CorruptError, "not the directory's name"),
        (lambda d: write(d / "model.pt", make_model_pt([make_neff(lnc=2)])), IncompatibleError,
         "physical cores"),
        (lambda d: write(d / "model.pt", make_model_pt([make_neff()[:-1] + b"x"])), CorruptError,
         "damaged NEFF"),
        (lambda d: write(d / "artifact.json", b"{}"), UsageError, "has a manifest already"),
        (lambda d: shutil.rmtree(d), MissError, "no such directory"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_the_reason(
    tmp_path: Path, store: LocalStore, spoil: Callable[[Path], object],
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    source = write_nxdi(tmp_path)
    spoil(source)
    with pytest.raises(error, match=message):
        adopt_directory(source, store)
    assert store.directories() == []
    assert not list(store.root.glob(".staging/*"))


def test_links_are_refused(tmp_path: Path, store: LocalStore) -> None:
    secret = write(tmp_path / "secret", b"{}")
    source = write_nxdi(tmp_path)
    (source / "tokenizer.json").symlink_to(secret)
    with pytest.raises(UntrustedError, match=r"tokenizer\.json is a symbolic link"):
        adopt_directory(source, store)
    (source / "tokenizer.json").unlink()
    shutil.move(source / "weights", tmp_path / "w")
    (source / "weights").symlink_to(tmp_path / "w")
    with pytest.raises(UntrustedError, match="weights is a symbolic link"):
        adopt_directory(source, store)


def test_other_libraries_are_refused(tmp_path: Path, store: LocalStore) -> None:
    with pytest.raises(RefusedError, match="optimum's work"):
        adopt_directory(write_optimum(tmp_path), store)


@pytest.mark.parametrize(
    ("fields", "asked", "expected"),
    [
        ({}, "trn1", "trn1"), ({"target": "trn1"}, None, "trn1"),
        ({"target": "trn1"}, "inf2", "inf2"), ({"target": "gpu"}, None, "unknown"),
        ({"logical_nc_config": 2}, "trn1", IncompatibleError),
        ({"target": "trn2"}, "trn1", IncompatibleError), ({}, "gpu", SpecError),
    ],
)  # fmt: skip
def test_the_target_is_what_one_is_told(
    tmp_path: Path, store: LocalStore, fields: dict[str, Any], asked: str | None, expected: Any
) -> None:
    source = write_nxdi(tmp_path, fields)
    if isinstance(expected, str):
        assert take(source, store, target=asked).manifest.target == expected
    else:
        with pytest.raises(expected):
            adopt_directory(source, store, target=asked)


@pytest.mark.parametrize("field", ["batch_size", "max_length", "torch_dtype"])
def test_a_configuration_without_a_field_that_serving_needs(
    tmp_path: Path, store: LocalStore, field: str
) -> None:
    source = write_nxdi(tmp_path, name="any")
    content = json.loads((source / "neuron_config.json").read_bytes())
    del content["neuron_config"][field]
    write(source / "neuron_config.json", json.dumps(content).encode())
    with pytest.raises(CorruptError, match=field):
        adopt_directory(source, store)


def test_a_source_that_changes_while_it_is_copied_is_not_published(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote the directory may write it still: what counts is what was copied."""
    source = write_nxdi(tmp_path)
    place = Staging.place

    def replace_first(self: Staging, path: Path, name: str, *rest: Any, **options: Any) -> Any:
        if name == "model.pt":
            write(path, make_model_pt([make_neff(name="another")])[:-5])
        return place(self, path, name, *rest, **options)

    monkeypatch.setattr(Staging, "place", replace_first)
    with pytest.raises(CorruptError):
        adopt_directory(source, store)
    assert store.directories() == []


def test_a_broken_artifact_of_the_same_key_makes_way(tmp_path: Path, store: LocalStore) -> None:
    source = write_nxdi(tmp_path)
    path = take(source, store).path
    (path / "model.pt").unlink()
    again = take(source, store)
    assert (again.path, again.was_there) == (path, False)
    assert read_manifest(path).key == again.manifest.key
    assert list((store.root / ".set-aside").iterdir())
