"""Where interpreters are looked for, in which order, and each once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from neuron_artifacts.toolchain.interpreters import find_candidates
from tests.toolchain.environments import bare_environ


def python_in(folder: Path, target: str | Path = sys.executable, name: str = "python") -> Path:
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    link = folder / "bin" / name
    link.symlink_to(target)
    return link


def test_the_order_and_the_origins(tmp_path: Path) -> None:
    named, by_variable, active, conda, on_path = (
        python_in(tmp_path / name) for name in ("a", "b", "c", "d", "e")
    )
    images = [
        python_in(tmp_path / "root/opt" / f"aws_neuronx_venv_{name}")
        for name in ("pytorch_2_10", "pytorch_2_9_nxd_inference", "pytorch_2_9")
    ]
    python_in(tmp_path / "root/opt/aws_neuron_venv_pytorch_inf1")
    (tmp_path / "root/opt/aws_neuronx_venv_without_python").mkdir()
    environ = {
        "NEURON_ARTIFACTS_PYTHON": str(by_variable), "VIRTUAL_ENV": str(tmp_path / "c"),
        "CONDA_PREFIX": str(tmp_path / "d"), "PATH": str(tmp_path / "e/bin"),
    }  # fmt: skip
    found = find_candidates(environ, python=str(named), root=tmp_path / "root")
    assert [c.python for c in found] == [named, by_variable, active, conda, on_path, *images]
    assert [c.origin for c in found[:5]] == [
        "--python", "NEURON_ARTIFACTS_PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX", "PATH",
    ]  # fmt: skip
    assert [c.named for c in found] == [True, True] + [False] * 6
    assert all(c.python.is_symlink() for c in found), "what makes it an environment is kept"


def test_one_interpreter_by_many_names_is_one(tmp_path: Path) -> None:
    python = python_in(tmp_path / "venv")
    python_in(tmp_path / "venv", "python", "python3")
    (tmp_path / "alias").symlink_to(tmp_path / "venv")
    environ = bare_environ(
        VIRTUAL_ENV=str(tmp_path / "alias"), PATH=str(tmp_path / "venv/bin"),
        NEURON_ARTIFACTS_PYTHON=str(tmp_path / "venv/bin/python3"),
    )  # fmt: skip
    (only,) = find_candidates(environ, python=python, root=tmp_path)
    assert (only.python, only.origin) == (python, "--python")


def test_ways_to_name_one(tmp_path: Path, monkeypatch: object) -> None:
    python = python_in(tmp_path / "venv")
    environ = bare_environ(PATH=str(tmp_path / "venv/bin"))
    for name in (tmp_path / "venv", os.path.relpath(python), "python"):
        (only,) = find_candidates(environ, python=name, root=tmp_path)
        assert only.python.samefile(python), name
        assert only.python.is_absolute()
    missing, _ = find_candidates(environ, python="python9", root=tmp_path)
    assert missing.python.name == "python9"
    assert missing.named
