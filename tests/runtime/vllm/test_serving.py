"""``serve --engine vllm`` and ``env``: real processes over a double of vLLM.

The artifacts are compiled by a double of NxD Inference, and the double of vLLM loads them with
the rules, texts and exceptions of each generation's own loader.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from neuron_artifacts._files import hash_file
from neuron_artifacts.artifact import MANIFEST_NAME, FileEntry, read_manifest, verify_artifact
from neuron_artifacts.errors import ServeError
from neuron_artifacts.runtime.vllm.serve import _reserve_port
from tests.cli.run import run
from tests.doubles.vllm_environments import make_vllm_environment
from tests.models import ADDER
from tests.runtime.vllm.servers import DEVICE, Place, running
from tests.worker.workers import processes, wait_until

GENERATIONS = {
    "fork": "aws-fork-2.24", "main": "vllm-main", "plugin": "vllm-neuron-0.5",
}  # fmt: skip
SAMPLING = {"on_device_sampling_config": {"dynamic": True, "global_topk": 64}}


@pytest.fixture(scope="module", params=GENERATIONS)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp(request.param)
    return _compile(request.param, folder)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return _compile("plugin", tmp_path_factory.mktemp("plugin"))


def _compile(generation: str, folder: Path) -> Place:
    python = make_vllm_environment(folder / "python", generation)
    artifact = folder / "artifact"
    compiled = run(
        "compile", ADDER, "--backend", "nxdi", "--target", "trn1", "--python", python,
        "--tp-degree", 2, "--batch-size", 2, "--seq-len", 256, "--output", artifact,
        "--override-neuron-config", json.dumps(SAMPLING),
    )  # fmt: skip
    assert compiled.code == 0, compiled.err
    return Place(generation, python, artifact)


@pytest.fixture
def place(compiled: Place, tmp_path: Path) -> Place:
    return _own_copy(compiled, tmp_path)


@pytest.fixture
def plugged(plugin: Place, tmp_path: Path) -> Place:
    return _own_copy(plugin, tmp_path)


def _own_copy(place: Place, folder: Path) -> Place:
    shutil.copytree(place.artifact, folder / "artifact")
    return replace(place, artifact=folder / "artifact")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite(artifact: Path, name: str, data: bytes) -> None:
    """Change a file and vouch for the change, so that only vLLM can stumble over it."""
    manifest = read_manifest(artifact)
    path = artifact / name
    path.unlink()
    path.write_bytes(data)
    entries = tuple(
        FileEntry(name, len(data), hash_file(path), file.role) if file.path == name else file
        for file in manifest.files
    )
    (artifact / MANIFEST_NAME).unlink()
    (artifact / MANIFEST_NAME).write_bytes(replace(manifest, files=entries).dump())
    assert verify_artifact(artifact, "full").status == "ok"


def add(artifact: Path, name: str) -> None:
    """Vouch for one more file."""
    manifest = read_manifest(artifact)
    path = artifact / name
    entry = FileEntry(name, path.stat().st_size, hash_file(path), "weights")
    (artifact / MANIFEST_NAME).unlink()
    (artifact / MANIFEST_NAME).write_bytes(replace(manifest, files=(*manifest.files, entry)).dump())


def want_more_shards(artifact: Path) -> None:
    """A configuration that names a shard which is not there: the loader would compile."""
    config = json.loads((artifact / "neuron_config.json").read_text())
    config["neuron_config"]["local_ranks_size"] = 3
    rewrite(artifact, "neuron_config.json", json.dumps(config).encode())


def test_it_serves_and_compiles_nothing(place: Place) -> None:
    before = contents(place.artifact)
    with running(place, "--served-model-name", "adder-1") as server:
        assert server.told["loader"] == GENERATIONS[place.generation]
        assert server.told["compiled"] == 0
        assert server.told["key"] == read_manifest(place.artifact).key
        assert httpx.get(f"{server.told['url']}/health", timeout=60).status_code == 200
        models = httpx.get(f"{server.told['url']}/v1/models", timeout=60).json()
        assert [model["id"] for model in models["data"]] == ["adder-1"]
        answer = server.complete()
        assert answer.status_code == 200, server.said
        assert answer.json()["choices"][0]["text"] == "4 characters, top 64"
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert contents(place.artifact) == before


def test_a_recompile_is_ended_and_reaches_nothing(place: Place) -> None:
    want_more_shards(place.artifact)
    before = contents(place.artifact)
    refused = place.serve()
    assert refused.code == 4, refused.err
    assert "began to compile" in refused.data["error"]["message"]
    assert "Recompiling..." in refused.data["error"]["message"]
    assert contents(place.artifact) == before


def test_a_recompile_that_is_not_logged_is_seen_too(plugged: Place, tmp_path: Path) -> None:
    mark = f"mark-{tmp_path.name}"
    want_more_shards(plugged.artifact)
    before = contents(plugged.artifact)
    refused = plugged.serve(knobs=f"{DEVICE},vllm_quiet,slow={mark}")
    assert refused.code == 4, refused.err
    assert "it wrote" in refused.data["error"]["message"]
    assert contents(plugged.artifact) == before
    assert not processes(mark), "the compiler has ended"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("model.pt", b"no archive", "PytorchStreamReader"), (None, b"", "SPMDModel")],
)
def test_what_the_loader_does_not_recompile_for_is_an_error(
    name: str | None, data: bytes, words: str, plugged: Place
) -> None:
    if name:
        rewrite(plugged.artifact, name, data)
    failed = plugged.serve(knobs=DEVICE if name else "")
    assert failed.code == 1, failed.err
    assert "before it was ready" in failed.data["error"]["message"]
    assert words in failed.data["error"]["message"]


def test_an_artifact_that_was_changed_while_it_was_served_is_told(
    plugged: Place, tmp_path: Path
) -> None:
    """Not through the view, but by its own name."""
    changed = plugged.artifact / "model.pt"
    changed.chmod(0o644)
    with running(plugged, knobs=f"{DEVICE},vllm_touch={changed}") as server:
        server.process.terminate()
        assert server.process.wait(60) == 5
    assert any(f"{changed} was changed" in line for line in server.said)


def test_a_damaged_artifact_never_reaches_vllm(plugged: Place) -> None:
    (plugged.artifact / "model.pt").unlink()
    (plugged.artifact / "model.pt").write_bytes(b"no archive")
    assert plugged.serve().code == 5


def test_a_crash_at_start_has_its_reason(plugged: Place) -> None:
    failed = plugged.serve(knobs=f"{DEVICE},vllm_crash")
    assert failed.code == 1
    assert "Engine core initialization failed" in failed.data["error"]["message"]
    assert "Traceback" in failed.err, "what vLLM prints is passed on"


def test_a_crash_later_is_an_error_too(plugged: Place) -> None:
    failed = plugged.serve(knobs=f"{DEVICE},vllm_die")
    assert failed.code == 1
    assert "vLLM ended with exit code 1: MemoryError" in failed.err


def test_never_ready(plugged: Place, tmp_path: Path) -> None:
    mark = f"mark-{tmp_path.name}"
    failed = plugged.serve("--ready-timeout", "3", knobs=f"vllm_hang,vllm_child={mark}")
    assert failed.code == 1
    assert "not ready after 3 seconds" in failed.data["error"]["message"]
    assert wait_until(lambda: not processes(mark))


def test_a_taken_port_is_told_at_once(plugged: Place) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        failed = plugged.serve("--port", str(other.getsockname()[1]))
    assert failed.code == 1
    assert "--port" in failed.data["error"]["hint"]
    assert "INFO" not in failed.err, "vLLM was not started"


def test_stopping_ends_all_that_the_server_started(plugged: Place, tmp_path: Path) -> None:
    mark = f"mark-{tmp_path.name}"
    with running(plugged, knobs=f"{DEVICE},vllm_child={mark}") as server:
        assert processes(mark)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
    assert wait_until(lambda: not processes(mark))


@pytest.mark.parametrize("again", [False, True])
def test_a_server_that_will_not_stop_is_killed(again: bool, plugged: Place) -> None:
    timeout = "600" if again else "0.2"
    with running(plugged, "--shutdown-timeout", timeout, knobs=f"{DEVICE},vllm_deaf") as server:
        server.process.terminate()
        if again:
            # the first must have been handled, or the two would be one
            wait_until(lambda: "SIGTERM" not in _pending(server.process.pid))
            server.process.terminate()
        assert server.process.wait(60) == 130


def _pending(pid: int) -> str:
    line = next(
        text
        for text in Path(f"/proc/{pid}/status").read_text().splitlines()
        if text.startswith("ShdPnd")
    )
    return "SIGTERM" if int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1 else ""


def test_a_server_does_not_outlive_us(plugged: Place, tmp_path: Path) -> None:
    mark = f"--served-model-name={tmp_path.name}"
    with running(plugged, f"--vllm-arg={mark}") as server:
        assert processes(mark)
        server.process.kill()
        server.process.wait()
        assert wait_until(lambda: not processes(mark))


def test_the_api_key_is_no_argument(plugged: Place) -> None:
    with running(plugged, NEURON_ARTIFACTS_API_KEY="secret-42") as server:
        assert server.complete().status_code == 401
        assert server.complete(Authorization="Bearer secret-42").status_code == 200
        shown = [
            arguments
            for entry in Path("/proc").glob("[0-9]*")
            if "secret-42" in (arguments := _arguments(entry))
        ]
    assert shown == []


def _arguments(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_variables_that_would_change_the_artifact_are_taken_away(plugged: Place) -> None:
    variable = {"NXD_LAYOUT_TRANSFORMATION_OPTIONS": "NXD_LAYOUT_ON_CPU_AND_SERIALIZE"}
    with running(plugged, **variable) as server:
        own = [
            entry.name
            for entry in Path("/proc").glob("[0-9]*")
            if "vllm.entrypoints.openai.api_server" in _arguments(entry)
            and str(server.process.pid) in (entry / "stat").read_text().rpartition(")")[2].split()
        ]
        (pid,) = own
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"NXD_LAYOUT_TRANSFORMATION_OPTIONS" not in environ
    assert b"NEURON_COMPILED_ARTIFACTS=" in environ


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--engine", "vllm", "--threads", "2"), "--threads is an option of our own"),
        (("--engine", "vllm", "--uds", "/s"), "--uds is an option of our own"),
        (("--engine", "vllm", "--max-waiting", "2"), "--max-waiting is an option of our own"),
        (("--rank", "0"), "--rank is an option of vLLM"),
        (("--vllm-arg=--x",), "--vllm-arg is an option of vLLM"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    flags: tuple[str, ...], words: str, plugged: Place
) -> None:
    refused = run("serve", "--artifacts", plugged.artifact, *flags)
    assert refused.code == 2
    assert words in refused.err


def test_what_is_compiled_for_the_cpu_has_no_vllm(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    compiled = run("compile", ADDER, "--seq-len", 128, "--backend", "cpu", "--output", artifact)
    assert compiled.code == 0, compiled.err
    for command in (("serve", "--engine", "vllm", "--artifacts"), ("env",)):
        refused = run(*command, artifact)
        assert refused.code == 4
        assert "--engine bundled" in refused.err


def test_an_interpreter_without_vllm(plugged: Place, tmp_path: Path) -> None:
    python = make_vllm_environment(tmp_path / "bare", "nxdi")
    refused = run("serve", "--engine", "vllm", "--artifacts", plugged.artifact,
                  "--python", python)  # fmt: skip
    assert refused.code == 1
    assert "has no vLLM" in refused.err


def test_libraries_other_than_it_was_compiled_with_are_told(plugged: Place, tmp_path: Path) -> None:
    newer = replace(plugged, python=make_vllm_environment(tmp_path / "newer", "newer"))
    with running(newer) as server:
        server.process.terminate()
        server.process.wait(60)
    assert any("compiled with neuronx-cc" in line for line in server.said)


def test_env_gives_shell_lines_that_serve(place: Place) -> None:
    loader = GENERATIONS[place.generation]
    shown = run("env", place.artifact, "--vllm-loader", loader, "--python", place.python)
    assert shown.code == 0, shown.err
    probe = "import os, sys, json; print(json.dumps([dict(os.environ), sys.argv]))"
    lines = shown.out.splitlines()
    words = lines.pop().replace("-m vllm.entrypoints.openai.api_server", f"-c '{probe}'")
    script = "\n".join(
        ["export NXD_LAYOUT_TRANSFORMATION_OPTIONS=NXD_LAYOUT_ON_CPU_AND_SERIALIZE", *lines, words]
    )
    environ, arguments = json.loads(
        subprocess.run(["sh", "-ec", script], check=True, capture_output=True, text=True).stdout
    )
    assert environ["NEURON_COMPILED_ARTIFACTS"] == str(place.artifact)
    assert "NXD_LAYOUT_TRANSFORMATION_OPTIONS" not in environ
    data = run("env", place.artifact, "--vllm-loader", loader, "--json").data
    assert arguments[1:] == data["command"][3:]
    assert data["loader"] == loader
    assert place.generation != "plugin" or json.loads(arguments[-1]) == {
        "override_neuron_config": SAMPLING
    }


def test_of_several_nodes_only_the_first_serves(plugged: Place, tmp_path: Path) -> None:
    artifact = tmp_path / "node"
    spread = {"world_size": 4, "local_ranks_size": 2, "start_rank_id": 0}
    compiled = run(
        "compile", ADDER, "--backend", "nxdi", "--target", "trn1", "--python", plugged.python,
        "--tp-degree", 4, "--seq-len", 256, "--vllm-loader", "aws-fork-2.24",
        "--override-neuron-config", json.dumps(spread), "--output", artifact, "--skip-preflight",
    )  # fmt: skip
    assert compiled.code == 0, compiled.err
    shown = run("env", artifact, "--json", MASTER_ADDR="10.0.0.1")
    assert shown.data["environment"]["NEURON_RANK_ID"] == "0"
    assert shown.data["environment"]["WORLD_SIZE"] == "2"
    lacking = run("env", artifact, "--rank", 1, "--master-addr", "10.0.0.1")
    assert lacking.code == 4
    assert "lacks rank 2" in lacking.err
    unknown = run("env", artifact)
    assert (unknown.code, "--master-addr" in unknown.err) == (2, True)
    for rank in range(2, 4):
        shard = artifact / f"weights/tp{rank}_sharded_checkpoint.safetensors"
        shutil.copyfile(artifact / "weights/tp0_sharded_checkpoint.safetensors", shard)
        add(artifact, shard.relative_to(artifact).as_posix())
    refused = run(
        "serve", "--engine", "vllm", "--artifacts", artifact, "--python", plugged.python,
        "--vllm-loader", "aws-fork-2.24", "--rank", 1, "--master-addr", "10.0.0.1",
    )  # fmt: skip
    assert refused.code == 2
    assert "only the first serves" in refused.err


def test_env_quotes_what_a_shell_would_read(plugged: Place, tmp_path: Path) -> None:
    odd = tmp_path / "it's $HOME; touch x"
    shutil.copytree(plugged.artifact, odd)
    shown = run("env", odd, cwd=tmp_path)
    script = shown.out.replace("python -m", "printf '%s\\n' -m").replace("unset ", "unset -v ")
    printed = subprocess.run(
        ["sh", "-ec", f'{script}\necho "$NEURON_COMPILED_ARTIFACTS"'], cwd=tmp_path, check=True,
        capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert printed[-1] == str(odd)
    assert printed[printed.index("--model") + 1] == str(odd)
    assert not (tmp_path / "x").exists()


def test_a_port_is_kept_for_vllm_until_it_listens() -> None:
    with ExitStack() as stack:
        port = _reserve_port("127.0.0.1", 0, stack)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port)).close()
        with socket.create_server(("127.0.0.1", port)) as vllm:  # binds as vLLM does
            socket.create_connection(("127.0.0.1", port)).close()
            vllm.accept()[0].close()
            with pytest.raises(ServeError, match="in use"):
                _reserve_port("127.0.0.1", port, stack)
