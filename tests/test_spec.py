from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import SpecError
from neuron_artifacts.spec import resolve_spec


def test_defaults_say_so() -> None:
    spec = resolve_spec({"model": "m"}, environ={})
    assert (spec.backend, spec.target, spec.tp_degree, spec.batch_size) == ("cpu", "native", 1, 1)
    assert spec.seq_len is None
    assert spec.origins["model"] == "flag"
    assert spec.origins["batch_size"] == "default"


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: from-file\nbatch-size: 2\nseq_len: 64\ntp_degree: 8\n")
    environ = {"NEURON_ARTIFACTS_BATCH_SIZE": "3", "NEURON_ARTIFACTS_SEQ_LEN": "128"}
    spec = resolve_spec({"seq_len": "256"}, environ=environ, config_file=file)
    assert (spec.model, spec.tp_degree, spec.batch_size, spec.seq_len) == ("from-file", 8, 3, 256)
    assert spec.origins["tp_degree"] == f"file {file}"
    assert spec.origins["batch_size"] == "environment NEURON_ARTIFACTS_BATCH_SIZE"
    assert spec.origins["seq_len"] == "flag"


def test_vllm_spellings_are_the_same_options(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("tensor_parallel_size: 2\nmax-num-seqs: 4\nmax_model_len: 512\ndtype: bf16\n")
    spec = resolve_spec({"model": "m"}, environ={}, config_file=file)
    assert (spec.tp_degree, spec.batch_size, spec.seq_len, spec.torch_dtype) == (
        2, 4, 512, "bfloat16",
    )  # fmt: skip


def test_override_neuron_config_wins_and_keeps_the_unknown() -> None:
    spec = resolve_spec(
        {
            "model": "m",
            "batch_size": "2",
            "override_neuron_config": (
                '{"batch_size": 4, "enable_bucketing": false, "fused_qkv": true}'
            ),
        },
        environ={},
    )
    assert (spec.batch_size, spec.enable_bucketing) == (4, False)
    assert spec.extra == {"fused_qkv": True}
    assert spec.origins["batch_size"] == "override_neuron_config (flag)"


@pytest.mark.parametrize("text", ["64,128", "[64, 128]", "64 128", [64, 128], (64, 128)])
def test_bucket_lists_are_read_in_every_spelling(text: Any) -> None:
    spec = resolve_spec({"model": "m", "context_encoding_buckets": text}, environ={})
    assert spec.context_encoding_buckets == (64, 128)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "no model given"),
        ({"model": "m", "batch_size": "0"}, "batch_size must be between 1 and"),
        ({"model": "m", "batch_size": "-3"}, "batch_size must be between 1 and"),
        ({"model": "m", "batch_size": "nan"}, "batch_size must be a whole number"),
        ({"model": "m", "batch_size": 1.5}, "batch_size must be a whole number"),
        ({"model": "m", "batch_size": True}, "batch_size must be a whole number"),
        ({"model": "m", "seq_len": "99999999999999999999"}, "seq_len must be between"),
        (
            {"model": "m", "context_encoding_buckets": "64,x"},
            "each of context_encoding_buckets must be a whole number, got 'x'",
        ),
        ({"model": "m", "context_encoding_buckets": {"a": 1}}, "must be a list of lengths"),
        ({"model": "m", "torch_dtype": "int4"}, "torch_dtype 'int4' is not known"),
        ({"model": "m", "override_neuron_config": "{"}, "override_neuron_config is no JSON object"),
        ({"model": "m", "override_neuron_config": "[1]"}, "not a JSON object"),
        ({"model": "m", "override_neuron_config": '{"a": NaN}'}, "NaN is not JSON"),
        (
            {"model": "m", "override_neuron_config": '{"batch_size": "x"}'},
            "override_neuron_config.batch_size must be a whole number",
        ),
        ({"model": "m", "enable_bucketing": "perhaps"}, "must be true or false"),
    ],
)
def test_bad_values_are_named(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        resolve_spec(flags, environ={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seq_lenn: 4", "unknown option 'seq_lenn'"),
        ("- a\n- b", "must hold a mapping"),
        ("a: [", "is not valid YAML"),
        ("batch_size: 1\nmax_num_seqs: 2", "are the same option"),
        ("a: 1\nb: [1", r"c\.yaml is not valid YAML: expected .* in line 2"),
        ("batch_size: .nan", r"batch_size of file .*c\.yaml must be a whole number"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=message):
        resolve_spec({"model": "m"}, environ={}, config_file=file)


def test_a_bad_value_of_the_environment_is_called_by_its_variable() -> None:
    with pytest.raises(SpecError, match="NEURON_ARTIFACTS_BATCH_SIZE must be a whole number"):
        resolve_spec({"model": "m"}, environ={"NEURON_ARTIFACTS_BATCH_SIZE": "x"})


def test_a_typo_gets_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("max_context_lenght: 4")
    with pytest.raises(SpecError) as caught:
        resolve_spec({"model": "m"}, environ={}, config_file=file)
    assert caught.value.hint == "did you mean 'max_context_length'?"


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        resolve_spec({"model": "m"}, environ={}, config_file=tmp_path / "absent.yaml")


def test_every_wrong_option_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("batch_size: none\nseq_length: 5\n")
    flags = {"model": "m", "tp_degree": "0", "max_num_seqs": 4}
    environ = {"NEURON_ARTIFACTS_TORCH_DTYPE": "int3"}
    with pytest.raises(SpecError) as caught:
        resolve_spec(flags, environ=environ, config_file=file)
    first, *rest = str(caught.value).splitlines()
    assert first == "4 options are wrong:"
    assert [line.split()[0] for line in rest] == [
        "batch_size", "unknown", "NEURON_ARTIFACTS_TORCH_DTYPE", "tp_degree",
    ]  # fmt: skip
    assert "(did you mean 'seq_len'?)" in rest[1]


def test_every_wrong_override_is_told_at_once() -> None:
    override = {"tp_degree": "x", "batch_size": 0, "fused_qkv": True}
    with pytest.raises(SpecError, match="2 options are wrong") as caught:
        resolve_spec({"model": "m", "override_neuron_config": override}, environ={})
    assert "override_neuron_config.batch_size" in str(caught.value)
