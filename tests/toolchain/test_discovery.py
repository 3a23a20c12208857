"""From everything on the machine to the one interpreter for a backend."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from neuron_artifacts.errors import ToolchainError
from neuron_artifacts.toolchain import choose_toolchain, find_toolchains, survey_toolchains
from tests.doubles import neuron_ls
from tests.toolchain.environments import NXDI, VERSION, bare_environ, make_environment

TNX = {"neuronx-cc": "2.21.33363.0", "torch-neuronx": "2.8.0", "transformers-neuronx": "0.13.1315"}


def image(root: Path, name: str) -> Path:
    return root / "opt" / f"aws_neuronx_venv_{name}"


def test_every_interpreter_is_found_with_what_it_holds(tmp_path: Path) -> None:
    named = make_environment(tmp_path / "named", {"torch": "2.9.1"})
    old = make_environment(image(tmp_path, "transformers_neuronx"), TNX)
    new = make_environment(image(tmp_path, "pytorch_2_9_nxd_inference"), NXDI)
    tools = neuron_ls.install(tmp_path / "tools").parent
    environ = bare_environ(PATH=str(tools), DOUBLE_NEURON_LS="trn2:16")
    found = find_toolchains(environ, python=named, root=tmp_path)
    assert [t.python for t in found] == [named, old, new]
    assert [t.generations for t in found] == [(), ("transformers-neuronx",), ("nxdi",)]
    assert [t.sdk for t in found] == [None, "2.26", "2.29"]
    assert {t.python_version for t in found} == {VERSION}
    assert {(t.platform, len(t.devices)) for t in found} == {("trn2", 16)}


def test_the_versions_of_a_key_are_those_that_make_graphs(tmp_path: Path) -> None:
    extra = {"vllm": "0.16.0", "vllm-neuron": "0.5.0", "optimum-neuron": "0.4.5", "nki": "0.3.0"}
    python = make_environment(tmp_path / "venv", {**NXDI, **extra})
    (toolchain,) = find_toolchains(bare_environ(), python=python, root=tmp_path)
    assert toolchain.document("nxdi") == {**NXDI, "nki": "0.3.0"}
    assert "optimum-neuron" in toolchain.document("optimum")


def test_the_first_that_can_is_chosen(tmp_path: Path) -> None:
    make_environment(tmp_path / "active", TNX)
    new = make_environment(image(tmp_path, "pytorch_2_10_nxd_inference"), NXDI)
    make_environment(image(tmp_path, "pytorch_2_9_nxd_inference"), NXDI)
    environ = bare_environ(VIRTUAL_ENV=str(tmp_path / "active"))
    assert choose_toolchain("nxdi", environ, root=tmp_path).python == new
    chosen = choose_toolchain("transformers-neuronx", environ, root=tmp_path)
    assert chosen.origin == "VIRTUAL_ENV"


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_a_named_interpreter_is_never_passed_over(tmp_path: Path, by: str) -> None:
    named = make_environment(tmp_path / "named", {"neuronx-cc": "2.24.5133.0"})
    make_environment(image(tmp_path, "pytorch_2_9_nxd_inference"), NXDI)
    environ = bare_environ(**({"NEURON_ARTIFACTS_PYTHON": str(named)} if by == "variable" else {}))
    with pytest.raises(ToolchainError) as caught:
        choose_toolchain("nxdi", environ, python=named if by == "argument" else None, root=tmp_path)
    assert str(named) in caught.value.message
    assert "lacks torch-neuronx, neuronx-distributed" in caught.value.message
    assert "aws_neuronx_venv" not in caught.value.message


def test_the_argument_wins_over_the_variable(tmp_path: Path) -> None:
    new = make_environment(tmp_path / "new", NXDI)
    old = make_environment(tmp_path / "old", NXDI)
    environ = bare_environ(NEURON_ARTIFACTS_PYTHON=str(old))
    assert choose_toolchain("nxdi", environ, python=new, root=tmp_path).python == new
    assert choose_toolchain("nxdi", environ, root=tmp_path).python == old


def test_why_nothing_will_do(tmp_path: Path) -> None:
    names = ("torch-neuronx", "neuronx-distributed", "neuronx-distributed-inference")
    empty = make_environment(
        tmp_path / "empty", {"neuronx-cc": "2.24.5133.0"}, placeholders=dict.fromkeys(names, "1.0")
    )
    broken = image(tmp_path, "broken") / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    environ = bare_environ(VIRTUAL_ENV=str(tmp_path / "empty"))
    with pytest.raises(ToolchainError) as caught:
        choose_toolchain("nxdi", environ, root=tmp_path)
    said = caught.value.message
    assert f"{empty} (VIRTUAL_ENV) has PyPI's empty placeholder of torch-neuronx" in said
    assert f"{broken}" in said
    assert "does not work: it ended with code 3" in said
    assert "--python" in str(caught.value.hint)
    assert "pip.repos.neuron.amazonaws.com" in str(caught.value.hint)


def test_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="none was found"):
        choose_toolchain("nxdi", bare_environ(), root=tmp_path)


def test_a_named_interpreter_that_is_not_there(tmp_path: Path) -> None:
    survey = survey_toolchains(bare_environ(), python=tmp_path / "absent", root=tmp_path)
    (unusable,) = survey.unusable
    assert (unusable.named, unusable.reason) == (True, "No such file or directory")
    with pytest.raises(ToolchainError, match="No such file"):
        choose_toolchain("nxdi", bare_environ(), python=tmp_path / "absent", root=tmp_path)


def test_scripts_on_the_path_lead_to_the_interpreter_they_start(tmp_path: Path) -> None:
    real = make_environment(tmp_path / "real", NXDI)
    for name in ("python", "python3"):
        script = tmp_path / "shims" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
        script.chmod(0o755)
    environ = bare_environ(PATH=str(tmp_path / "shims"))
    (only,) = find_toolchains(environ, root=tmp_path)
    assert (only.python, only.origin) == (real, "PATH")
    named = tmp_path / "shims/python"
    assert choose_toolchain("nxdi", environ, python=named, root=tmp_path).python == named


def test_the_link_of_a_virtual_environment_is_kept(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv", NXDI)
    toolchain = choose_toolchain("nxdi", bare_environ(), python=python, root=tmp_path)
    assert toolchain.python == python
    assert toolchain.python.is_symlink()
    assert toolchain.python.resolve() != Path(sys.prefix)
