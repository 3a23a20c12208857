from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_artifacts.artifact.findings import Finding
from neuron_artifacts.artifact.neuron_directory import NeuronDirectory, read_neuron_directory
from neuron_artifacts.build.adopt import adopt_directory
from neuron_artifacts.errors import IncompleteError, MissError, StoreError
from neuron_artifacts.store import LocalStore
from tests.artifact.artifacts import make_safetensors
from tests.artifact.neuron_files import (
    NEURON_CONFIG,
    config_text,
    make_config,
    make_model_pt,
    make_neff,
    md5_of,
    write,
    write_entry,
    write_multimodal,
    write_nxdi,
    write_optimum,
    write_shards,
)
from tests.limits import no_descriptors


def problems(directory: Path, *, full: bool = True) -> list[tuple[str, str]]:
    found = read_neuron_directory(directory, full=full).problems
    return [(finding.severity, finding.path) for finding in found]


def severities(contents: NeuronDirectory) -> set[str]:
    return {finding.severity for finding in contents.findings}


def test_a_whole_nxdi_directory(tmp_path: Path) -> None:
    contents = read_neuron_directory(write_nxdi(tmp_path), full=True)
    assert (contents.kind, contents.findings) == ("nxdi", ())
    assert contents.fields["quantize_clamp_bound"] == float("inf")
    assert contents.config is not None
    assert contents.config.md5 == contents.path.name
    assert [shard.path for shard in contents.shards] == [
        f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in (0, 1)
    ]
    assert [path for path, _ in contents.all_neffs] == ["model.pt", "model.pt"]


def test_what_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    contents = write_nxdi(tmp_path)
    with no_descriptors():
        findings = read_neuron_directory(contents).problems
    assert {finding.severity for finding in findings} == {"unreadable"}
    assert {finding.path for finding in findings} >= {"model.pt", "neuron_config.json"}
    with no_descriptors(), pytest.raises(StoreError, match="Too many open files"):
        adopt_directory(contents, LocalStore(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_weights_that_may_not_be_read_are_not_said_to_be_missing(tmp_path: Path) -> None:
    contents = write_nxdi(tmp_path)
    (contents / "weights").chmod(0)
    try:
        findings = read_neuron_directory(contents).problems
    finally:
        (contents / "weights").chmod(0o755)
    assert {finding.what for finding in findings} == {"cannot be read: Permission denied"}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda d: (d / "model.pt").unlink(), ("incomplete", "model.pt")),
        (lambda d: write(d / "model.pt", b""), ("corrupt", "model.pt")),
        (lambda d: write(d / "model.pt", make_model_pt()[:300]), ("corrupt", "model.pt")),
        (lambda d: (d / "neuron_config.json").unlink(), ("incomplete", "neuron_config.json")),
        (lambda d: write(d / "neuron_config.json", b"{"), ("corrupt", "neuron_config.json")),
        (lambda d: write(d / "neuron_config.json", b"[]"), ("corrupt", "neuron_config.json")),
        (lambda d: write(d / "neuron_config.json", b"{}"), ("corrupt", "neuron_config.json")),
        (lambda d: write(d / "neuron_config.json", b"[" * 9999), ("corrupt", "neuron_config.json")),
        (lambda d: shutil.rmtree(d / "weights"),
         ("incomplete", "weights/tp0_sharded_checkpoint.safetensors")),
        (lambda d: (d / "weights/tp1_sharded_checkpoint.safetensors").unlink(),
         ("incomplete", "weights/tp1_sharded_checkpoint.safetensors")),
        (lambda d: write(d / "weights/tp1_sharded_checkpoint.safetensors", make_safetensors()[:-1]),
         ("corrupt", "weights/tp1_sharded_checkpoint.safetensors")),
    ],
)  # fmt: skip
def test_what_is_broken_is_named(
    tmp_path: Path, damage: Callable[[Path], object], expected: tuple[str, str]
) -> None:
    directory = write_nxdi(tmp_path)
    damage(directory)
    assert problems(directory)[0] == expected


def test_half_a_compile_is_known_by_what_it_lacks(tmp_path: Path) -> None:
    """The configuration is written before anything is compiled."""
    directory = write_nxdi(tmp_path)
    shutil.rmtree(directory / "weights")
    (directory / "model.pt").unlink()
    first = read_neuron_directory(directory).problems[0]
    assert (first.severity, first.path) == ("incomplete", "model.pt")
    assert "interrupted" in first.what


def test_a_configuration_that_was_edited_does_not_have_the_name(tmp_path: Path) -> None:
    directory = write_nxdi(tmp_path)
    changed = make_config({"batch_size": 8})
    write(directory / "neuron_config.json", config_text(changed) + b"\n")
    (finding,) = read_neuron_directory(directory).problems
    assert finding.severity == "corrupt"
    assert md5_of(changed) in finding.what


def test_another_name_than_an_md5_says_nothing(tmp_path: Path) -> None:
    assert problems(write_nxdi(tmp_path, name="my-artifact")) == []


def test_a_rewritten_draft_path_keeps_the_name_it_was_hashed_with(tmp_path: Path) -> None:
    """vLLM's forks hash first and rewrite afterwards."""
    fused = {"draft_config": {}, "draft_model_path": "org/draft", "worker_cls": {}}
    hashed = make_config({"enable_fused_speculation": True}, fused_spec_config=fused)
    directory = write_nxdi(
        tmp_path, {"enable_fused_speculation": True}, name=md5_of(hashed),
        fused_spec_config={**fused, "draft_model_path": "local-models/org/draft"},
    )  # fmt: skip
    assert problems(directory) == []


def test_ranks_of_one_node_of_several(tmp_path: Path) -> None:
    ranks = {"tp_degree": 8, "world_size": 8, "start_rank_id": 4, "local_ranks_size": 4}
    directory = write_nxdi(tmp_path, ranks)
    contents = read_neuron_directory(directory)
    assert contents.findings == ()
    assert [s.path[10] for s in contents.shards] == ["4", "5", "6", "7"]
    write_shards(directory / "weights", [0])
    (note,) = read_neuron_directory(directory).findings
    assert (note.severity, note.path) == ("note", "weights/tp0_sharded_checkpoint.safetensors")


@pytest.mark.parametrize(
    "fields",
    [
        {"local_ranks_size": 10**12}, {"tp_degree": "8", "world_size": None},
        {"start_rank_id": -1}, {"local_ranks_size": True}, {"logical_nc_config": 1.5},
        {"lora_config": {"dynamic_multi_lora": True, "lora_ckpt_paths_cpu": {"../x": "/a"}}},
    ],
)  # fmt: skip
def test_fields_that_make_no_sense_are_corrupt(tmp_path: Path, fields: dict[str, Any]) -> None:
    directory = write_nxdi(tmp_path)
    content = make_config(fields)
    write(directory / "neuron_config.json", config_text(content))
    assert problems(directory)[0] == ("corrupt", "neuron_config.json")


class TestUnsharded:
    FIELDS: ClassVar = {"save_sharded_checkpoint": False}

    def test_the_checkpoint_is_not_here(self, tmp_path: Path) -> None:
        (finding,) = read_neuron_directory(write_nxdi(tmp_path, self.FIELDS)).problems
        assert (finding.severity, finding.field) == ("incomplete", "_name_or_path")
        assert "'org/tiny'" in finding.what

    def test_the_checkpoint_is_elsewhere_on_this_machine(self, tmp_path: Path) -> None:
        place = str(write(tmp_path / "m" / "model.safetensors", make_safetensors()).parent)
        contents = read_neuron_directory(write_nxdi(tmp_path, self.FIELDS, _name_or_path=place))
        (finding,) = contents.findings
        assert (finding.severity, finding.field) == ("advice", "_name_or_path")
        assert place in finding.what
        write(contents.path / "model.safetensors", make_safetensors())
        (finding,) = read_neuron_directory(contents.path).findings
        assert (finding.severity, finding.field) == ("note", "_name_or_path")

    def test_a_folder_without_weights_wins_all_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        directory = write_nxdi(tmp_path, self.FIELDS, _name_or_path=str(tmp_path / "m"))
        write(directory / "model.safetensors", make_safetensors())
        assert [f.severity for f in read_neuron_directory(directory).problems] == ["incomplete"]

    def test_it_lies_in_the_directory(self, tmp_path: Path) -> None:
        directory = write_nxdi(tmp_path, self.FIELDS)
        write(directory / "model.safetensors", make_safetensors())
        assert read_neuron_directory(directory).findings == ()
        write(directory / "model.safetensors", make_safetensors()[:-1])
        assert problems(directory) == [("corrupt", "model.safetensors")]

    def test_a_shard_of_it_is_missing(self, tmp_path: Path) -> None:
        directory = write_nxdi(tmp_path, self.FIELDS)
        index = {"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}
        write(directory / "model.safetensors.index.json", json.dumps(index).encode())
        write(directory / "model-1.safetensors", make_safetensors())
        assert problems(directory) == [("incomplete", "model-2.safetensors")]

    @pytest.mark.parametrize(("exists", "severity"), [(True, "advice"), (False, "incomplete")])
    def test_quantised_weights_come_from_their_own_place(
        self, tmp_path: Path, exists: bool, severity: str
    ) -> None:
        place = tmp_path / "int8.pt"
        if exists:
            place.write_bytes(b"x")
        fields = {**self.FIELDS, "quantized": True, "quantized_checkpoints_path": str(place)}
        (finding,) = read_neuron_directory(write_nxdi(tmp_path, fields)).findings
        assert finding.severity == severity

    def test_a_draft_must_be_there_too(self, tmp_path: Path) -> None:
        directory = write_nxdi(
            tmp_path, {**self.FIELDS, "enable_fused_speculation": True},
            fused_spec_config={"draft_model_path": "/nowhere/draft\0"},
        )  # fmt: skip
        write(directory / "model.safetensors", make_safetensors())
        (finding,) = read_neuron_directory(directory).problems
        assert finding.field == "draft_model_path"

    @pytest.mark.parametrize(("name", "severity"), [("quantized", "note"), ("draft", "advice")])
    def test_weights_that_the_directory_carries(
        self, tmp_path: Path, name: str, severity: str
    ) -> None:
        """Ours do; vLLM looks where they were when they were compiled with."""
        more: dict[str, Any] = {"quantized": True, "quantized_checkpoints_path": "/nowhere/int8"}
        if name == "draft":
            more = {"enable_fused_speculation": True}
        directory = write_nxdi(
            tmp_path, {**self.FIELDS, **more}, fused_spec_config={"draft_model_path": "/nowhere/d"}
        )
        for folder in {directory / name, directory}:
            write(folder / "model.safetensors", make_safetensors())
        (finding,) = read_neuron_directory(directory).findings
        assert (finding.severity, finding.path) == (severity, name)
        write(directory / name / "model.safetensors", make_safetensors()[:-1])
        assert problems(directory) == [("corrupt", f"{name}/model.safetensors")]
        (directory / name / "model.safetensors").unlink()
        assert problems(directory) == [("incomplete", name)]


def test_skipped_sharding_leaves_what_cannot_be_loaded(tmp_path: Path) -> None:
    directory = write_nxdi(tmp_path, {"skip_sharding": True})
    assert {severity for severity, _ in problems(directory)} == {"incomplete"}


def test_shards_of_adapters_and_where_the_adapters_must_lie(tmp_path: Path) -> None:
    lora = {"dynamic_multi_lora": True, "lora_ckpt_paths": {}, "lora_ckpt_paths_cpu": {"fr": "/a"}}
    directory = write_nxdi(tmp_path, {"lora_config": lora})
    names = [f"weights/fr_tp{rank}_sharded_lora_cpu_checkpoint.safetensors" for rank in (0, 1)]
    assert problems(directory) == [("incomplete", name) for name in names]
    for name in names:
        write(directory / name, make_safetensors())
    (finding,) = read_neuron_directory(directory).findings
    assert (finding.severity, finding.field) == ("advice", "lora_ckpt_paths")


def test_graphs_for_other_cores_than_the_configuration_says(tmp_path: Path) -> None:
    directory = write_nxdi(tmp_path, {"logical_nc_config": 2}, neffs=[make_neff(lnc=1)])
    (finding,) = read_neuron_directory(directory).problems
    assert (finding.severity, finding.field) == ("incompatible", "logical_nc_config")
    old = write_nxdi(tmp_path, {"logical_nc_config": 2}, neffs=[make_neff(lnc=0)], name="old")
    assert read_neuron_directory(old).findings == ()


def test_a_model_without_a_recognised_neff_is_only_noted(tmp_path: Path) -> None:
    contents = read_neuron_directory(write_nxdi(tmp_path, neffs=[]))
    assert severities(contents) == {"note"}


def test_multimodal(tmp_path: Path) -> None:
    directory = write_multimodal(tmp_path)
    contents = read_neuron_directory(directory, full=True)
    assert (contents.kind, contents.findings) == ("nxdi-multimodal", ())
    assert [shard.path.split("/")[0] for shard in contents.shards] == [
        "text_model", "text_model", "vision_model", "vision_model",
    ]  # fmt: skip
    (directory / "vision_model" / "model.pt").unlink()
    (directory / "text_model/weights/tp0_sharded_checkpoint.safetensors").unlink()
    assert [path for _, path in problems(directory)] == [
        "vision_model/model.pt", "text_model/weights/tp0_sharded_checkpoint.safetensors",
    ]  # fmt: skip


def test_a_multimodal_compile_that_stopped_after_the_text_model(tmp_path: Path) -> None:
    directory = write_multimodal(tmp_path)
    shutil.rmtree(directory / "vision_model")
    assert ("incomplete", "vision_model/model.pt") in problems(directory)


class TestOptimum:
    def test_whole(self, tmp_path: Path) -> None:
        contents = read_neuron_directory(write_optimum(tmp_path), full=True)
        assert (contents.kind, contents.findings) == ("optimum", ())
        assert len(contents.shards) == 2
        assert contents.fields["neuronxcc_version"] == "2.21.33363.0"

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("config.json", "config.json"),
            ("model.pt", "model.pt"),
            ("checkpoint/weights/tp0_sharded_checkpoint.safetensors", None),
            ("checkpoint/weights/tp1_sharded_checkpoint.safetensors", None),
        ],
    )
    def test_what_is_missing(self, tmp_path: Path, name: str, expected: str | None) -> None:
        directory = write_optimum(tmp_path)
        (directory / name).unlink()
        assert problems(directory) == [("incomplete", expected or name)]

    def test_bundles_have_folders_of_their_own(self, tmp_path: Path) -> None:
        directory = write_optimum(tmp_path, bundles=("text", "vision"))
        contents = read_neuron_directory(directory)
        assert contents.findings == ()
        assert [model.path for model in contents.models] == ["model_text.pt", "model_vision.pt"]
        assert len(contents.shards) == 4
        (directory / "model_vision.pt").unlink()
        assert ("incomplete", "model_vision.pt") in problems(directory)

    @pytest.mark.parametrize(
        ("checkpoint_id", "in_it", "severity"),
        [("org/m", False, "advice"), (None, False, "incomplete"), (None, True, None)],
    )
    def test_weights_from_elsewhere(
        self, tmp_path: Path, checkpoint_id: str | None, in_it: bool, severity: str | None
    ) -> None:
        directory = write_optimum(tmp_path, checkpoint_id=checkpoint_id)
        shutil.rmtree(directory / "checkpoint")
        if in_it:
            write(directory / "model.safetensors", make_safetensors())
        found = [finding.severity for finding in read_neuron_directory(directory).findings]
        assert found == ([severity] if severity else [])


def test_transformers_neuronx_kernels(tmp_path: Path) -> None:
    write(tmp_path / "0123456789abcdef0123.neff", make_neff())
    write(tmp_path / "odd.neff", make_neff())
    contents = read_neuron_directory(tmp_path, full=True)
    assert contents.kind == "transformers-neuronx"
    assert [neff.path for neff in contents.neffs] == ["0123456789abcdef0123.neff"]
    assert [(f.severity, f.path) for f in contents.findings] == [("note", "odd.neff")]
    write(tmp_path / "f123456789abcdef0123.neff", make_neff()[:-1])
    assert problems(tmp_path) == [("corrupt", "f123456789abcdef0123.neff")]


def test_kernels_beside_settings_are_no_half_compile(tmp_path: Path) -> None:
    """What the transformers-neuronx backend saves: its own settings have a neuron_config too."""
    write(tmp_path / "0123456789abcdef0123.neff", make_neff())
    settings = {"tp_degree": 2, "neuron_config": {"fuse_qkv": True}}
    write(tmp_path / "neuron_config.json", json.dumps(settings).encode())
    contents = read_neuron_directory(tmp_path, full=True)
    assert (contents.kind, contents.findings) == ("transformers-neuronx", ())
    assert contents.fields["tp_degree"] == 2


@pytest.mark.parametrize("below", ["compile_cache", "neuron/compile_cache"])
def test_vllm_neuron_entries_below_its_root(tmp_path: Path, below: str) -> None:
    entry = write_entry(tmp_path / below)
    contents = read_neuron_directory(tmp_path)
    assert [neff.path for neff in contents.neffs] == [
        f"{below}/{entry.name}/graph_{entry.name}.neff"
    ]


@pytest.mark.parametrize("itself", [True, False])
def test_vllm_neuron_entries(tmp_path: Path, itself: bool) -> None:
    entry = write_entry(tmp_path)
    place, prefix = (entry, "") if itself else (tmp_path, f"{entry.name}/")
    contents = read_neuron_directory(place, full=True)
    assert (contents.kind, contents.findings, len(contents.neffs)) == ("vllm-neuron", (), 1)
    (entry / ".compilation_complete").unlink()
    write(entry / ".artifact_metadata_v0.json", b'{"cache_key": "another"}')
    assert problems(place) == [
        ("corrupt", f"{prefix}.artifact_metadata_v0.json"),
        ("incomplete", f"{prefix}.compilation_complete"),
    ]


def test_other_directories_are_not_ours_to_judge(tmp_path: Path) -> None:
    write(tmp_path / "neuron_config.json", b'{"batch_size": 1}')
    with pytest.raises(IncompleteError, match="nothing that a Neuron library"):
        read_neuron_directory(tmp_path)
    with pytest.raises(MissError):
        read_neuron_directory(tmp_path / "none")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*NEURON_CONFIG, "quantized_checkpoints_path"]), JSON), JSON)
def test_any_configuration_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any], fused: Any
) -> None:
    directory = tmp_path_factory.getbasetemp() / "fuzzed"
    content = make_config(fields, fused_spec_config=fused, text_config=fused, _name_or_path=fused)
    write(directory / "neuron_config.json", config_text(content))
    write(directory / "model.pt", make_model_pt([make_neff()]))
    for finding in read_neuron_directory(directory).findings:
        assert isinstance(finding, Finding)
        assert "\n" not in str(finding)
