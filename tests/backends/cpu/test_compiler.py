"""Finding compilers and running them: real ones, broken ones, and none."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from neuron_artifacts.backends.cpu import compiler as module
from neuron_artifacts.backends.cpu.compiler import Compiler, compile_graph, find_compiler
from neuron_artifacts.backends.cpu.elf import read_machine
from neuron_artifacts.backends.cpu.targets import Target, resolve_target
from neuron_artifacts.errors import CompileError, ToolchainError
from tests.backends.cpu.test_emit import source

NATIVE = resolve_target("native")
FOREIGN = resolve_target("x86-64-v3" if NATIVE.machine == "aarch64" else "aarch64")


@pytest.fixture(scope="session")
def compiler(session_cache: Path) -> Compiler:
    return find_compiler(NATIVE, dict(os.environ), session_cache)


@pytest.fixture
def no_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_bundled_zig", lambda: None)


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def fake_gcc(path: Path, version: str = "12.2.0", machine: str | None = None) -> Path:
    """Answers like gcc, and counts how often it is asked."""
    triple = f"{machine or NATIVE.machine}-linux-gnu"
    body = f"""for word; do :; done
echo "$word" >> {path}.calls
case "$word" in
  --version) echo "gcc {version}" ;;
  -dumpversion | -dumpfullversion) echo {version} ;;
  -dumpmachine) echo {triple} ;;
  *) echo "GNU ld 2.40" ;;
esac"""
    return script(path, body)


def calls(path: Path) -> int:
    log = Path(f"{path}.calls")
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_the_compiler_here_says_what_it_is(compiler: Compiler) -> None:
    document = compiler.document()
    assert document["compiler"] in ("gcc", "clang", "zig")
    assert document["version"][0].isdigit()
    assert document["machine"] == platform.machine()
    assert "/" not in json.dumps([document[k] for k in ("version", "build", "machine", "linker")])


@pytest.mark.parametrize(
    ("present", "environ", "expected"),
    [
        (("gcc", "cc", "clang"), {}, "gcc"),
        (("cc", "clang"), {}, "cc"),
        (("clang",), {}, "clang"),
        (("gcc", "mine"), {"CC": "mine"}, "mine"),
        (("gcc", "mine", "other"), {"CC": "other", "NEURON_ARTIFACTS_CC": "mine"}, "mine"),
        (("gcc", "mine"), {"CC": "  "}, "gcc"),
    ],
)
def test_compilers_are_taken_in_order(
    tmp_path: Path, present: tuple[str, ...], environ: Mapping[str, str], expected: str
) -> None:
    for name in present:
        fake_gcc(tmp_path / "bin" / name)
    found = find_compiler(NATIVE, {"PATH": path_of(tmp_path), **environ}, tmp_path / "cache")
    assert Path(found.argv[0]).name == expected


def path_of(folder: Path) -> str:
    """Our fakes, and of the system only what a shell script needs."""
    (folder / "bin").mkdir(exist_ok=True)
    return str(folder / "bin")


def test_arguments_in_cc_are_kept(tmp_path: Path) -> None:
    fake_gcc(tmp_path / "bin" / "mine")
    environ = {"PATH": path_of(tmp_path), "CC": "mine '-B a b'"}
    assert find_compiler(NATIVE, environ, tmp_path).argv[1:] == ("-B a b",)


def test_a_cross_compiler_is_found_by_its_triple(tmp_path: Path) -> None:
    fake_gcc(tmp_path / "bin" / "gcc")
    fake_gcc(tmp_path / "bin" / f"{FOREIGN.machine}-linux-gnu-gcc", machine=FOREIGN.machine)
    environ = {"PATH": path_of(tmp_path), "CC": "gcc"}  # CC is for this machine: passed over
    found = find_compiler(FOREIGN, environ, tmp_path / "cache")
    assert found.machine == FOREIGN.machine


def test_an_explicit_compiler_for_another_machine_is_refused(tmp_path: Path) -> None:
    fake_gcc(tmp_path / "bin" / "gcc")
    environ = {"PATH": path_of(tmp_path), "NEURON_ARTIFACTS_CC": "gcc"}
    with pytest.raises(ToolchainError, match=f"not for {FOREIGN.machine}"):
        find_compiler(FOREIGN, environ, tmp_path)


def test_a_hit_costs_no_subprocess_until_the_file_changes(tmp_path: Path) -> None:
    gcc = fake_gcc(tmp_path / "bin" / "gcc")
    environ, cache = {"PATH": path_of(tmp_path)}, tmp_path / "cache"
    first = find_compiler(NATIVE, environ, cache)
    asked = calls(gcc)
    assert find_compiler(NATIVE, environ, cache) == first
    assert calls(gcc) == asked
    fake_gcc(gcc, version="13.1.0")
    assert find_compiler(NATIVE, environ, cache).version == "13.1.0"
    assert calls(gcc) > asked


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "\0"])
def test_a_damaged_cache_is_asked_again(tmp_path: Path, content: str) -> None:
    fake_gcc(tmp_path / "bin" / "gcc")
    environ = {"PATH": path_of(tmp_path)}
    (tmp_path / "compilers.json").write_text(content)
    assert find_compiler(NATIVE, environ, tmp_path).kind == "gcc"


def test_entries_of_another_shape_are_asked_again(tmp_path: Path) -> None:
    gcc = fake_gcc(tmp_path / "bin" / "gcc")
    environ = {"PATH": path_of(tmp_path)}
    find_compiler(NATIVE, environ, tmp_path)
    cache = tmp_path / "compilers.json"
    cache.write_text(json.dumps({key: {"kind": "gcc"} for key in json.loads(cache.read_text())}))
    asked = calls(gcc)
    assert find_compiler(NATIVE, environ, tmp_path).version == "12.2.0"
    assert calls(gcc) > asked


def test_without_a_compiler_both_remedies_are_named(tmp_path: Path, no_zig: None) -> None:
    for target in (NATIVE, FOREIGN):
        with pytest.raises(ToolchainError, match=target.name) as caught:
            find_compiler(target, {"PATH": path_of(tmp_path)}, tmp_path)
        assert "apt install gcc" in (caught.value.hint or "")
        assert "pip install 'neuron-artifacts[toolchain]'" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["CC", "NEURON_ARTIFACTS_CC"])
@pytest.mark.parametrize("body", ["exit 0", "exit 3", "echo hello", "kill -9 $$"])
def test_a_named_compiler_that_is_none_is_an_error(tmp_path: Path, name: str, body: str) -> None:
    script(tmp_path / "bin" / "mine", body)
    with pytest.raises(ToolchainError, match=f"{name}=mine"):
        find_compiler(NATIVE, {"PATH": path_of(tmp_path), name: "mine"}, tmp_path)


@pytest.mark.parametrize("command", ["absent", "'unbalanced"])
def test_a_named_compiler_that_is_absent_is_an_error(tmp_path: Path, command: str) -> None:
    fake_gcc(tmp_path / "bin" / "gcc")
    with pytest.raises(ToolchainError, match="CC"):
        find_compiler(NATIVE, {"PATH": path_of(tmp_path), "CC": command}, tmp_path)


def test_the_bytes_do_not_depend_on_folder_time_or_environment(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a.so", tmp_path / "far" / "away" / "b.so"
    second.parent.mkdir(parents=True)
    compile_graph(compiler, NATIVE, source(target=NATIVE), first)
    for name in ("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "GCC_EXEC_PREFIX", "CFLAGS"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    compile_graph(compiler, NATIVE, source(target=NATIVE), second)
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()
    assert read_machine(first) == NATIVE.machine
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.so", "far"]


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4", "x86-64-v4-bf16"])
@pytest.mark.parametrize("phase", ["context_encoding", "token_generation"])
def test_every_target_of_this_machine_compiles(
    compiler: Compiler, tmp_path: Path, target: str, phase: str
) -> None:
    chosen = resolve_target(target)
    if chosen.machine != platform.machine():
        pytest.skip("no compiler for it here")
    for storage, compute in (("F32", "float32"), ("F16", "float32"), ("BF16", "bfloat16")):
        text = source(phase=phase, target=chosen, storage=storage, compute=compute)
        compile_graph(compiler, chosen, text, tmp_path / "graph.so")
        assert read_machine(tmp_path / "graph.so") == chosen.machine


def test_zig_compiles_for_every_target(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    for name in ("x86-64-v3", "x86-64-v4-bf16", "aarch64"):
        target = resolve_target(name)
        zig = find_compiler(target, {"PATH": path_of(tmp_path)}, tmp_path / "cache")
        assert zig.kind == "zig"
        for phase in ("context_encoding", "token_generation"):
            compile_graph(zig, target, source(phase=phase, target=target), tmp_path / "graph.so")
            assert read_machine(tmp_path / "graph.so") == target.machine


def test_a_failure_shows_the_end_of_the_log(compiler: Compiler, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="no such thing") as caught:
        compile_graph(compiler, NATIVE, "#error no such thing\n", tmp_path / "graph.so")
    assert "no such thing" in caught.value.log
    assert "NEURON_ARTIFACTS_CC" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "cause"), [("exit 0", "printed nothing"), ("kill -9 $$", "signal 9")]
)
def test_a_compiler_that_makes_nothing_is_a_failure(tmp_path: Path, body: str, cause: str) -> None:
    broken = script(tmp_path / "bin" / "gcc", body)
    compiler = Compiler("gcc", (str(broken),), "12", "gcc 12", NATIVE.machine, "ld")
    with pytest.raises(CompileError, match=cause):
        compile_graph(compiler, NATIVE, "", tmp_path / "graph.so")
    assert not (tmp_path / "graph.so").exists()


def test_a_compiler_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    compiler = Compiler("gcc", (str(tmp_path / "gone"),), "12", "gcc", NATIVE.machine, "ld")
    with pytest.raises(CompileError, match="No such file"):
        compile_graph(compiler, NATIVE, "", tmp_path / "graph.so")


SLOW = """import sys; from pathlib import Path
from neuron_artifacts.backends.cpu.compiler import Compiler, compile_graph
from neuron_artifacts.backends.cpu.targets import resolve_target
compiler = Compiler("gcc", (sys.argv[1],), "12", "gcc 12", "any", "ld")
compile_graph(compiler, resolve_target("native"), "", Path(sys.argv[2]) / "graph.so")
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_compiler_outlives_us(tmp_path: Path, end: signal.Signals) -> None:
    slow = script(tmp_path / "slow", f"echo $$ > {tmp_path}/pid; exec sleep 300")
    ours = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(slow), str(tmp_path)], stderr=subprocess.DEVNULL
    )
    pid = wait_for(tmp_path / "pid")
    ours.send_signal(end)
    assert ours.wait(30) != 0
    wait_until_gone(pid)
    if end == signal.SIGINT:
        assert not list(tmp_path.glob(".compile-*"))


def wait_for(path: Path) -> int:
    for _ in range(600):
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def wait_until_gone(pid: int) -> None:
    for _ in range(600):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")


def test_flags_are_part_of_the_identity(compiler: Compiler) -> None:
    assert "-ffp-contract=fast" in compiler.document()["flags"]
    assert not any("fast-math" in flag for flag in compiler.document()["flags"])


def test_targets_differ_in_flags() -> None:
    def flags(target: Target) -> tuple[str, ...]:
        return target.flags("gcc")

    names = ("x86-64-v3", "x86-64-v4", "x86-64-v4-bf16", "aarch64")
    assert len({flags(resolve_target(name)) for name in names}) == len(names)
