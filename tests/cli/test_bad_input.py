"""Bad input gets one clear line, a hint where there is one, and the right exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.run import run
from tests.models import SMALL, change_config, copy_model

FLAGS = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", value)]


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda model: (model / name).write_text(text) and None


def config(**fields: object) -> Callable[[Path], None]:
    return lambda model: change_config(model, **fields)


WEIGHTS = "model.safetensors"


@pytest.mark.parametrize(
    ("spoil", "flags", "code", "message"),
    [
        (config(architectures=["GPT2LMHeadModel"]), [], 7, "'GPT2LMHeadModel' is not supported"),
        (config(architectures="LlamaForCausalLM"), [], 1, "architectures must be a list"),
        (config(hidden_act="gelu"), [], 7, "hidden_act is 'gelu'"),
        (config(hidden_size="64"), [], 1, "hidden_size must be a whole number"),
        (config(hidden_size=-64), [], 1, "hidden_size must be a whole number"),
        (config(num_hidden_layers=True), [], 1, "num_hidden_layers must be a whole number"),
        (config(vocab_size=99), [], 1, "model.embed_tokens.weight"),
        (config(quantization_config={"quant_method": "gptq"}), [], 7, "quantization_config"),
        (write("config.json", "{"), [], 1, "config.json is not usable JSON"),
        (write("config.json", "[1]"), [], 1, "config.json is not usable JSON: not a JSON object"),
        (write("config.json", '{"hidden_size": NaN}'), [], 1, "NaN is not JSON"),
        (write("config.json", '{"a": 1, "a": 2}'), [], 1, "a name appears twice"),
        (lambda m: (m / "config.json").unlink(), [], 1, "has no config.json"),
        (lambda m: (m / WEIGHTS).unlink(), [], 1, "has no weights"),
        (lambda m: cut(m / WEIGHTS, 0), [], 1, "is 0 bytes long"),
        (lambda m: cut(m / WEIGHTS, 0.0005), [], 1, "is cut short"),
        (lambda m: cut(m / WEIGHTS, 0.5), [], 1, "is cut short"),
        (lambda m: cut(m / WEIGHTS, 0.9999), [], 1, "is cut short"),
        (None, ["--batch-size", "nan"], 2, "batch_size must be a whole number, got 'nan'"),
        (None, ["--batch-size", "-1"], 2, "batch_size must be between"),
        (None, ["--seq-len", "0"], 2, "seq_len must be between"),
        (None, ["--context-encoding-buckets", "64,32"], 2, "must ascend"),
        (None, ["--context-encoding-buckets", "32,4096"], 2, "beyond max_context_length 64"),
        (None, ["--tp-degree", "4"], 7, "tp_degree is 4"),
        (None, ["--torch-dtype", "int3"], 2, "torch_dtype 'int3' is not known"),
        (None, ["--override-neuron-config", "{"], 2, "override_neuron_config is no JSON object"),
        (None, ["--override-neuron-config", '{"a": Infinity}'], 2, "Infinity is not JSON"),
        (None, ["--backend", "tpu"], 2, "unknown backend 'tpu'"),
        (None, ["--target", "6502"], 2, "target '6502' is unknown"),
        (None, ["--batch-size", "99999999"], 7, "of cache"),
        (None, ["--config", "absent.yaml"], 2, "absent.yaml cannot be read"),
    ],
)  # fmt: skip
def test_compile(
    tmp_path: Path, spoil: Callable[[Path], None] | None, flags: list[str], code: int, message: str
) -> None:
    model = copy_model(tmp_path / "model")
    if spoil:
        spoil(model)
    result = run("compile", "model", *FLAGS, *flags, cwd=tmp_path)
    assert result.code == code, result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert result.out == ""
    store = tmp_path / "neuron-compiled-artifacts"
    assert not [p for p in store.glob("*") if not p.name.startswith(".")]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./absent", "./absent is neither a folder nor a hub id"),
        ("/absent/model", "is neither a folder nor a hub id"),
        ("a b", "is neither a folder nor a hub id"),
        ("", "model must be text, and not empty"),
    ],
)
def test_no_such_model(tmp_path: Path, model: str, message: str) -> None:
    result = run("compile", model, cwd=tmp_path)
    assert result.code in (1, 2)
    assert message in result.err


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    environ = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    result = run("compile", "org/model", cwd=tmp_path, **environ)
    assert result.code == 1
    assert "http://127.0.0.1:9" in result.err
    assert "tip: " in result.err


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    script = 'cd "$1" && rmdir "$1" && exec "$2" -m neuron_artifacts list'
    done = subprocess.run(
        ["sh", "-c", script, "sh", str(tmp_path), sys.executable],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: the current folder is gone" in done.stderr


def test_json_errors_are_data_too(tmp_path: Path) -> None:
    result = run("compile", "./absent", "--json", cwd=tmp_path)
    error = result.data["error"]
    assert (error["type"], error["exit_code"], result.code) == ("ModelNotFoundError", 1, 1)
    assert error["hint"]


def test_no_compiler_names_both_remedies(tmp_path: Path) -> None:
    copy_model(tmp_path / "model")
    result = run("compile", "model", *FLAGS, cwd=tmp_path, PATH=str(tmp_path))
    assert result.code == 1
    assert "gcc" in result.err
    assert "toolchain" in result.err


def test_a_broken_compiler_is_a_clear_error(tmp_path: Path) -> None:
    copy_model(tmp_path / "model")
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho kaputt >&2\nexit 3\n")
    broken.chmod(0o755)
    result = run("compile", "model", *FLAGS, cwd=tmp_path, NEURON_ARTIFACTS_CC=str(broken))
    assert result.code == 1
    assert str(broken) in result.err or "kaputt" in result.err


def test_a_read_only_store_is_refused_before_compiling(tmp_path: Path) -> None:
    copy_model(tmp_path / "model")
    (tmp_path / "store").write_text("a file where the store should be")
    result = run("compile", "model", *FLAGS, "--store", "store", cwd=tmp_path)
    assert result.code == 1
    assert "cannot be written" in result.err
    assert "compiled" not in result.err


@pytest.mark.skipif(os.getuid() != 0, reason="a read-only mount needs root")
def test_a_read_only_file_system(tmp_path: Path) -> None:
    import subprocess

    copy_model(tmp_path / "model")
    store = tmp_path / "store"
    store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(store)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        result = run("compile", "model", *FLAGS, "--store", "store", cwd=tmp_path)
        assert result.code == 1
        assert "cannot be written" in result.err
    finally:
        subprocess.run(["umount", str(store)], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="a small file system needs root")
def test_too_small_a_disk_is_refused_with_both_numbers(tmp_path: Path) -> None:
    import subprocess

    copy_model(tmp_path / "model")
    store = tmp_path / "store"
    store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(store)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        refused = run("compile", "model", *FLAGS, "--store", "store", cwd=tmp_path)
        assert refused.code == 7
        assert re.search(r"needs 67\.\d MiB of disk and 1\S+ [KM]iB are free", refused.err)
        full = store / "filler"
        full.write_bytes(b"x" * (900 << 10))
        forced = run(
            "compile", "model", *FLAGS, "--store", "store", "--skip-preflight", cwd=tmp_path
        )
        assert forced.code == 7
        assert "no space left" in forced.err
        root = store / "neuron-compiled-artifacts"
        assert [p.name for p in root.iterdir() if not p.name.startswith(".")] == []
    finally:
        subprocess.run(["umount", str(store)], check=True)


@pytest.mark.parametrize("name", ["inspect", "validate"])
def test_commands_on_a_directory_that_is_no_artifact(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    result = run(name, tmp_path)
    assert result.code == 5
    assert "artifact.json" in result.out + result.err


def test_diff_of_nonsense(tmp_path: Path) -> None:
    for name in ("nonsense", "deadbeef"):
        result = run("diff", name, "deadbeef", cwd=tmp_path)
        assert result.code == 3
        assert name in result.err


def test_serve_and_generate_without_an_artifact(tmp_path: Path) -> None:
    for command in (["serve"], ["generate", "--prompt", "x"]):
        assert run(*command, cwd=tmp_path).code == 2
        assert run(*command, "--artifacts", tmp_path / "absent").code == 3


def test_a_config_of_the_wrong_kind(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(json.dumps(["a", "list"]))
    result = run("compile", "--config", "bad.yaml", cwd=tmp_path)
    assert (result.code, "must hold a mapping" in result.err) == (2, True)


@pytest.mark.parametrize("command", [("serve",), ("generate", "--prompt", "1")])
def test_an_empty_name_is_not_the_working_directory(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    refused = run(*command, "--artifacts", "", cwd=tmp_path)
    assert (refused.code, "name a directory" in refused.err) == (2, True)
    unset = run(*command, cwd=tmp_path, NEURON_COMPILED_ARTIFACTS="")
    assert (unset.code, "no artifact directory given" in unset.err) == (2, True)
