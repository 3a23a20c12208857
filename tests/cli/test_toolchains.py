"""``toolchains list``, and what ``doctor`` says of Neuron."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import run
from tests.doubles import neuron_ls
from tests.models import ADDER
from tests.toolchain.environments import NXDI, VERSION, make_environment

PLACEHOLDERS = {"vllm-neuron": "0.1.0"}


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return make_environment(tmp_path / "venv", NXDI, placeholders=PLACEHOLDERS)


@pytest.fixture
def tools(tmp_path: Path) -> str:
    return str(neuron_ls.install(tmp_path / "tools").parent)


def findings(result: object) -> str:
    data = result.data  # type: ignore[attr-defined]
    return "\n".join(f"{f['topic']} {f['state']} {f['text']}" for f in data["findings"])


def test_list_as_data(tmp_path: Path, python: Path, tools: str) -> None:
    result = run(
        "toolchains", "list", "--python", python, "--json",
        PATH=f"{tools}:/usr/bin:/bin", DOUBLE_NEURON_LS="trn2:16", VLLM_CACHE_ROOT="/cache",
    )  # fmt: skip
    assert result.code == 0
    first = result.data["toolchains"][0]
    assert first["python"] == str(python)
    assert first["origin"] == "--python"
    assert (first["python_version"], first["sdk"]) == (VERSION, "2.29")
    assert first["backends"] == list(first["generations"]) == ["nxdi"]
    assert first["packages"] == NXDI
    assert first["placeholders"] == PLACEHOLDERS
    assert first["missing"]["optimum"] == ["optimum-neuron"]
    assert list(first["ignored_variables"]) == ["VLLM_CACHE_ROOT"]
    assert result.data["machine"]["platform"] == "trn2"
    assert len(result.data["machine"]["devices"]) == 16


def test_list_as_text(python: Path, tools: str) -> None:
    result = run(
        "toolchains", "list", "--python", python,
        PATH=f"{tools}:/usr/bin:/bin", DOUBLE_NEURON_LS="trn2:16",
        NEURON_CONTEXT_LENGTH_BUCKETS="128",
    )  # fmt: skip
    assert result.code == 0
    block = [line.split(maxsplit=1) for line in result.out.partition("\n\n")[0].splitlines()]
    assert ["backends", "nxdi"] in block
    assert ["version", f"{VERSION}, Neuron SDK 2.29"] in block
    assert ["package", "neuronx-cc 2.24.5133.0"] in block
    assert ["placeholder", "vllm-neuron 0.1.0: from PyPI, and empty"] in block
    remedy = dict(line for line in block if len(line) == 2)["remedy"]
    assert remedy.startswith(f"{python} -m pip install")
    assert remedy.endswith("https://pip.repos.neuron.amazonaws.com vllm-neuron")
    assert any(line[0] == "ignored" and "--context-encoding-buckets" in line[1] for line in block)
    assert "16 devices of 96 GiB, 64 logical cores (LNC 2)" in result.out


def test_a_named_interpreter_that_does_not_work_fails(tmp_path: Path) -> None:
    result = run("toolchains", "list", "--python", tmp_path / "absent", "--json")
    assert result.code == 1
    assert result.data["unusable"][0]["reason"] == "No such file or directory"
    text = run("toolchains", "list", NEURON_ARTIFACTS_PYTHON=str(tmp_path / "absent"))
    assert text.code == 1
    assert "No such file or directory" in text.out


def test_the_group_explains_itself() -> None:
    assert "list" in run("toolchains", "--help").out
    assert run("toolchains").code == 2
    assert run("toolchains", "no-such").code == 2
    assert "--python" in run("toolchains", "list", "--help").out


def test_doctor_without_neuron(tmp_path: Path) -> None:
    result = run("doctor", "--json", cwd=tmp_path, VLLM_CACHE_ROOT="/cache", NEURON_CC_FLAGS="-O1")
    said = findings(result)
    assert "toolchain info no Python here has the Neuron libraries" in said
    assert "VLLM_CACHE_ROOT: ignored, no Neuron toolchain was found here" in said
    assert "NEURON_CC_FLAGS: ignored" in said


def test_doctor_names_toolchains_placeholders_devices_and_variables(
    tmp_path: Path, python: Path, tools: str
) -> None:
    result = run(
        "doctor", "--json", cwd=tmp_path, NEURON_ARTIFACTS_PYTHON=str(python),
        PATH=f"{tools}:/usr/bin:/bin", DOUBLE_NEURON_LS="trn1:16", DOUBLE_NEURON_LS_PID="4711",
        NEURON_CC_FLAGS="-O1", VLLM_CACHE_ROOT="/cache", NEURON_COMPILED_ARTIFACTS="/a",
    )  # fmt: skip
    said = findings(result)
    assert f"toolchain ok {python} (Python {VERSION}, SDK 2.29) runs nxdi" in said
    assert "toolchain warning" in said
    assert "vllm-neuron 0.1.0 from PyPI only reserve the name" in said
    assert "device ok trn1: 16 devices of 32 GiB, 32 logical cores (LNC 1)" in said
    assert "device warning in use by process 4711" in said
    assert "NEURON_CC_FLAGS=-O1: honoured" in said
    assert "VLLM_CACHE_ROOT (the cache of compiled graphs): ignored by nxdi" in said
    assert "NEURON_COMPILED_ARTIFACTS=/a: honoured" in said
    hints = [f["hint"] or "" for f in result.data["findings"]]
    assert any(hint.startswith(f"{python} -m pip install --upgrade") for hint in hints)


def test_doctor_on_a_build_host_and_with_a_broken_interpreter(tmp_path: Path) -> None:
    native = {"neuronx-cc": "2.26.6360.0", "vllm": "0.21.0", "vllm-neuron": "0.21.0.1.0.0"}
    make_environment(tmp_path / "venv", native)
    result = run(
        "doctor", "--json", cwd=tmp_path, VIRTUAL_ENV=str(tmp_path / "venv"),
        NEURON_ARTIFACTS_PYTHON=str(tmp_path / "absent"), NEURON_COMPILED_ARTIFACTS="/a",
    )  # fmt: skip
    said = findings(result)
    assert result.code == 1
    assert "toolchain problem" in said
    assert "device info no Neuron device" in said
    assert "NEURON_COMPILED_ARTIFACTS (a directory that NxD Inference compiled): ignored by" in said


@pytest.mark.parametrize("by", ["--python", "NEURON_ARTIFACTS_PYTHON"])
def test_an_interpreter_that_will_not_do_is_named_as_it_was_told(python: Path, by: str) -> None:
    flags = (by, str(python)) if by == "--python" else ()
    environ = {} if flags else {by: str(python)}
    result = run("compile", ADDER, "--backend", "optimum", "--target", "trn1", *flags, **environ)
    assert (result.code, f"{python} ({by}) lacks optimum-neuron" in result.err) == (1, True)
