"""A build that failed for good is refused the next time, until it is asked for again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.cpu.adapter import CpuBackend
from neuron_artifacts.build import compile_artifact
from neuron_artifacts.errors import CompileError, RefusedError
from neuron_artifacts.spec import CompileSpec, resolve_spec
from tests.cli.run import run
from tests.models import SMALL, copy_model


@pytest.fixture
def spec(tmp_path: Path) -> CompileSpec:
    model = copy_model(tmp_path / "m")
    return resolve_spec({"model": str(model), "store": str(tmp_path), **SMALL}, environ={})


def fail_with(cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_graph(*_: Any) -> Any:
        raise CompileError("the compiler gave up", log="why", cause=cause)

    monkeypatch.setattr(CpuBackend, "compile_graph", compile_graph)


def test_a_permanent_failure_is_refused_with_its_cause(
    spec: CompileSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_with("unsupported_operator", patch)
        with pytest.raises(CompileError):
            compile_artifact(spec, environ={})
    with pytest.raises(RefusedError, match=r"unsupported operator.*the compiler gave up") as caught:
        compile_artifact(spec, environ={})
    assert "--retry" in (caught.value.hint or "")
    assert compile_artifact(spec, environ={}, retry=True).compiled == 3
    assert compile_artifact(spec, environ={}).decision.action == "hit"


def test_a_lookup_shows_what_failed_why_and_until_when(
    spec: CompileSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_with("device_memory", patch)
        with pytest.raises(CompileError):
            compile_artifact(spec, environ={})
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    place = Path(spec.store)
    for command in (["cache-lookup", "m"], ["compile", "m", "--dry-run"]):
        shown = run(*command, *flags, cwd=place)
        assert shown.code in (0, 3), shown.err
        assert "known     failed on 20" in shown.out
        assert "(device memory): the compiler gave up; refused until 20" in shown.out
        assert "\n          | why\n" in shown.out
    body = run("compile", "m", "--dry-run", "--json", *flags, cwd=place).data["known_failure"]
    assert (body["cause"], body["log"]) == ("device_memory", "why")
    assert body["expires"] > body["created"]
    refused = run("compile", "m", *flags, cwd=place)
    assert (refused.code, "--retry" in refused.err) == (7, True)
    assert run("compile", "m", "--retry", *flags, cwd=place).code == 0
    assert "known  " not in run("compile", "m", "--dry-run", *flags, cwd=place).out


@pytest.mark.parametrize("cause", ["interrupted", "host_memory", "disk_full", "unknown"])
def test_a_passing_failure_is_not_remembered(
    cause: str, spec: CompileSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_with(cause, patch)
        with pytest.raises(CompileError):
            compile_artifact(spec, environ={})
    assert compile_artifact(spec, environ={}).compiled == 3
