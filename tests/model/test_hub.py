"""Models from a hub, over real HTTP against a small one (fake_hub.py)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, utils

from neuron_artifacts.errors import (
    HubError,
    ModelFormatError,
    ModelNotFoundError,
    NeuronArtifactsError,
    ResourceError,
)
from neuron_artifacts.model import hub_client
from neuron_artifacts.model.hub import describe_repository, download_repository
from neuron_artifacts.model.safetensors_header import read_header
from neuron_artifacts.model.snapshot import ModelSnapshot
from tests.model.checkpoints import encode, sharded, single, tensors
from tests.model.fake_hub import FakeHub, Fault

ROOT = Path(__file__).parents[2]
REPO = "org/name"
UNWANTED = {
    "README.md": b"# model",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": tensors(c=(1,)),
    "original/consolidated.00.pth": b"pickle",
    "onnx/model.onnx": b"onnx",
}
TOKEN = "hf_secretsecret"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as served:
        yield served


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_client, "_PAUSES", (0.01, 0.01))
    monkeypatch.setenv("NEURON_ARTIFACTS_CACHE", str(tmp_path / "ours"))
    forget_connections()


def forget_connections() -> None:
    reset: Callable[[], None] = getattr(utils, "reset_sessions", lambda: None)
    reset()  # before huggingface_hub 1.0 a session remembers whether it is offline


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_connections()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def facts(snapshot: ModelSnapshot) -> dict[str, Any]:
    """What must not depend on how the snapshot was obtained."""
    files = (*snapshot.weight_files, *snapshot.asset_files)
    return {
        "name": snapshot.name,
        "revision": snapshot.revision,
        "config": snapshot.config,
        "index": snapshot.index,
        "files": {file.name: (file.size, snapshot.sha256(file)) for file in files},
        "tensors": snapshot.tensors,
    }


@pytest.mark.parametrize("files", [single(), sharded()], ids=["single", "sharded"])
def test_download_reads_what_it_needs_at_one_commit(
    hub: FakeHub, cache: Path, files: dict[str, bytes]
) -> None:
    commit = hub.commit(REPO, files | UNWANTED)
    snapshot = download_repository(REPO, endpoint=hub.url, cache_dir=cache)

    fetched = {request.path.split("/resolve/")[1] for request in hub.asked("GET", "/resolve/")}
    assert fetched - {"main/config.json"} == {f"{commit}/{n}" for n in files} - {
        f"{commit}/config.json"
    }
    assert (snapshot.name, snapshot.revision) == (REPO, commit)
    assert snapshot.root == cache / "models--org--name" / "snapshots" / commit
    assert snapshot.config == json.loads(files["config.json"])
    weights = {name for name in files if name.endswith(".safetensors")}
    assert {file.name for file in snapshot.weight_files} == weights
    for file in (*snapshot.weight_files, *snapshot.asset_files):
        assert file.path
        assert not file.path.is_symlink()
        assert file.path.read_bytes() == files[file.name]
        assert snapshot.sha256(file) == sha256(files[file.name])
    assert all(file.known_sha256 for file in snapshot.weight_files)


def test_a_warm_download_asks_once_and_fetches_nothing(hub: FakeHub, cache: Path) -> None:
    hub.commit(REPO, single())
    first = download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    hub.requests.clear()
    assert facts(download_repository(REPO, endpoint=hub.url, cache_dir=cache)) == facts(first)
    assert [request.method for request in hub.requests] == ["GET"]
    assert hub.asked("GET", "/api/models/org/name")


@pytest.mark.parametrize("files", [single(), sharded()], ids=["single", "sharded"])
def test_describe_leaves_the_weights_and_agrees_with_download(
    hub: FakeHub, cache: Path, files: dict[str, bytes]
) -> None:
    hub.commit(REPO, files | UNWANTED)
    described = describe_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert all(file.path is None for file in described.weight_files)
    assert all(file.path is not None for file in described.asset_files)
    shards = hub.asked("GET", ".safetensors")
    spans = [request.span for request in shards if "index" not in request.path]
    assert len(spans) == len(described.weight_files)
    assert None not in spans

    downloaded = download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert facts(described) == facts(downloaded)
    warm = describe_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert warm.weight_files == downloaded.weight_files
    assert facts(warm) == facts(downloaded)


@pytest.mark.parametrize("no_range", [False, True])
def test_a_long_header_is_read_by_a_second_request(
    hub: FakeHub, cache: Path, tmp_path: Path, no_range: bool
) -> None:
    data = tensors(a=(300, 1000), metadata={"pad": "x" * 200_000})
    hub.commit(REPO, single() | {"model.safetensors": data})
    hub.faults.append(Fault("model.safetensors", no_range=no_range))
    described = describe_repository(REPO, endpoint=hub.url, cache_dir=cache)
    (tmp_path / "whole.safetensors").write_bytes(data)
    assert described.tensors == {"model.safetensors": read_header(tmp_path / "whole.safetensors")}
    length = 8 + int.from_bytes(data[:8], "little")
    spans = [request.span for request in hub.asked("GET", "model.safetensors")]
    assert spans == ["bytes=0-131071", f"bytes=0-{length - 1}"]


def test_no_more_than_the_header_is_read_where_ranges_are_ignored(
    hub: FakeHub, cache: Path
) -> None:
    data = tensors(a=(1 << 23,))
    hub.commit(REPO, single() | {"model.safetensors": data})
    hub.faults.append(Fault("model.safetensors", no_range=True))
    described = describe_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert described.weight_bytes == len(data)
    assert hub.sent < len(data)  # what the sockets hold may be lost


def test_describe_fetches_weights_whose_digest_the_hub_does_not_know(
    hub: FakeHub, cache: Path
) -> None:
    files = single()
    hub.commit(REPO, files, in_git={"model.safetensors"})
    snapshot = describe_repository(REPO, endpoint=hub.url, cache_dir=cache)
    (file,) = snapshot.weight_files
    assert file.path
    assert file.known_sha256 is None
    assert snapshot.sha256(file) == sha256(files["model.safetensors"])


def test_a_branch_that_moves_between_requests_does_not_mix_commits(
    hub: FakeHub, cache: Path
) -> None:
    hub.commit(REPO, single(a=(1,)))
    later: list[str] = []
    hub.faults.append(
        Fault(
            "main/config.json", "HEAD", 1, first=lambda: later.append(hub.commit(REPO, sharded()))
        )
    )
    snapshot = download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert [snapshot.revision] == later
    assert len(snapshot.weight_files) == 2


def test_the_cache_learns_where_a_branch_moved(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPO, single(a=(1,)))
    download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    later = hub.commit(REPO, single(a=(2,)))
    download_repository(REPO, later, endpoint=hub.url, cache_dir=cache)
    download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    go_offline(monkeypatch)
    assert download_repository(REPO, endpoint=hub.url, cache_dir=cache).revision == later


def test_tags_branches_and_commits_are_revisions(hub: FakeHub, cache: Path) -> None:
    first = hub.commit(REPO, single(a=(1,)), branch="v1")
    second = hub.commit(REPO, single(a=(2,)))
    for revision, commit in [("v1", first), (None, second), (first, first), ("main", second)]:
        for read in (describe_repository, download_repository):
            assert read(REPO, revision, endpoint=hub.url, cache_dir=cache).revision == commit


def test_files_on_another_host_are_read_without_the_token(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHub(cdn=True) as hub:
        hub.commit(REPO, single(), private=True, readers={TOKEN})
        described = describe_repository(REPO, endpoint=hub.url, cache_dir=cache)
        downloaded = download_repository(REPO, endpoint=hub.url, cache_dir=cache)
        assert facts(described) == facts(downloaded)
        assert {r.token for r in hub.requests if r.host == "localhost"} == {None}
        assert {r.token for r in hub.requests if r.host != "localhost"} == {TOKEN}


def test_progress_is_told_and_nothing_is_printed(
    hub: FakeHub, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = single(a=(1 << 20,))
    hub.commit(REPO, files)
    told: list[tuple[str, int, int]] = []
    download_repository(
        REPO, endpoint=hub.url, cache_dir=cache, progress=lambda *event: told.append(event)
    )
    size = len(files["model.safetensors"])
    for name in ("model.safetensors", "model.safetensors (sha256)"):
        steps = [(done, total) for file, done, total in told if file == name]
        assert steps == sorted(steps)
        assert steps[-1] == (size, size)
    assert {name for name, _, _ in told} == {"model.safetensors", "model.safetensors (sha256)"}
    assert capfd.readouterr() == ("", "")


# Without a hub


@pytest.mark.parametrize("how", ["offline", "down"])
@pytest.mark.parametrize("read", [describe_repository, download_repository])
def test_a_whole_copy_answers_without_a_hub(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, how: str, read: Any
) -> None:
    hub.commit(REPO, sharded())
    first = download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    if how == "offline":
        go_offline(monkeypatch)
    else:
        hub.faults.append(Fault("", status=503))
    hub.requests.clear()
    again = read(REPO, endpoint=hub.url, cache_dir=cache)
    assert facts(again) == facts(first)
    assert again.weight_files == first.weight_files
    assert bool(hub.requests) == (how == "down")


@pytest.mark.parametrize(
    "lost",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        "model-00002-of-00002.safetensors",
    ],
)
def test_a_partial_copy_does_not_answer(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    hub.commit(REPO, sharded())
    root = download_repository(REPO, endpoint=hub.url, cache_dir=cache).root
    assert root
    (root / lost).unlink()
    go_offline(monkeypatch)
    with pytest.raises(HubError, match=f"the local cache has no {lost} of org/name") as caught:
        download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert "no folder of that name" in str(caught.value)


def test_a_copy_that_another_tool_fetched_needs_a_tokenizer(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.commit(REPO, single())
    first = download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    shutil.rmtree(tmp_path / "ours")
    go_offline(monkeypatch)
    again = download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert [file.known_sha256 for file in again.weight_files] == [
        file.known_sha256 for file in first.weight_files
    ]
    assert first.root
    (first.root / "tokenizer.json").unlink()
    with pytest.raises(HubError, match=r"no tokenizer\.json"):
        download_repository(REPO, endpoint=hub.url, cache_dir=cache)


def test_a_refused_connection_names_the_endpoint(hub: FakeHub, cache: Path) -> None:
    hub.commit(REPO, single())
    hub.stop()
    for read in (describe_repository, download_repository):
        with pytest.raises(
            HubError, match="cannot be reached: the connection is refused"
        ) as caught:
            read(REPO, endpoint=hub.url, cache_dir=cache)
        assert hub.url in str(caught.value)


# What goes wrong


def _private(hub: FakeHub) -> None:
    hub.commit(REPO, single(), private=True, readers={TOKEN})


def _gated(hub: FakeHub) -> None:
    hub.commit(REPO, single(), gated=True)


def _faulty(*faults: Fault) -> Callable[[FakeHub], None]:
    def prepare(hub: FakeHub) -> None:
        hub.commit(REPO, single())
        hub.faults += faults

    return prepare


def _with(**changes: bytes | None) -> Callable[[FakeHub], None]:
    def prepare(hub: FakeHub) -> None:
        changed = single() | {name.replace("__", "."): data for name, data in changes.items()}
        hub.commit(REPO, {name: data for name, data in changed.items() if data is not None})

    return prepare


def _index(weight_map: Any) -> Callable[[FakeHub], None]:
    index = json.dumps({"weight_map": weight_map}).encode()

    def prepare(hub: FakeHub) -> None:
        hub.commit(REPO, single() | {"model.safetensors.index.json": index})

    return prepare


TROUBLES: list[tuple[str, Callable[[FakeHub], None], type[Exception], str, str]] = [
    ("no repository", lambda _: None, ModelNotFoundError, "no repository org/name", "spelling"),
    ("private", _private, ModelNotFoundError, "no repository org/name", "set HF_TOKEN"),
    ("gated", _gated, HubError, "org/name is gated", "/org/name, then set HF_TOKEN"),
    (
        "limited",
        _faulty(Fault("/api/", status=429, headers={"Retry-After": "120"})),
        HubError,
        r"limiting requests \(429\) and asks to wait 120 s",
        "HF_TOKEN",
    ),
    ("down", _faulty(Fault("/api/", status=502)), HubError, "answered 502", "later"),
    ("teapot", _faulty(Fault("/api/", status=418)), HubError, "answered 418", "HF_ENDPOINT"),
    ("forbidden", _faulty(Fault("/api/", status=403)), HubError, "forbids", "permission"),
    (
        "login page",
        _faulty(Fault("/api/", body=b"<html>Sign in</html>")),
        HubError,
        "does not answer about org/name as a hub does",
        "HF_ENDPOINT",
    ),
    ("odd JSON", _faulty(Fault("/api/", body=b"[1]")), HubError, "as a hub does", "HF_ENDPOINT"),
    (
        "no sizes",
        _faulty(
            Fault(
                "/api/", body=b'{"id": "a", "sha": "b", "siblings": [{"rfilename": "config.json"}]}'
            )
        ),
        HubError,
        "as a hub does",
        "HF_ENDPOINT",
    ),
    (
        "no commit header",
        _faulty(Fault("/resolve/", "HEAD", body=b"")),
        HubError,
        "as a hub does",
        "HF_ENDPOINT",
    ),
    ("no config", _with(config__json=None), ModelFormatError, r"no config\.json", "layout"),
    ("config is a list", _with(config__json=b"[]"), ModelFormatError, "not usable JSON", ""),
    ("no weights", _with(model__safetensors=None), ModelFormatError, "no weights", "save"),
    (
        "pickle only",
        _with(model__safetensors=None, pytorch_model__bin=b"p"),
        ModelFormatError,
        r"pytorch_model\.bin, a pickle",
        "safe_serialization",
    ),
    ("index is no JSON", _index(float("nan")), ModelFormatError, "not usable JSON", ""),
    ("index is empty", _index({}), ModelFormatError, "no weight_map", ""),
    ("lost shard", _index({"a": "x.safetensors"}), ModelFormatError, r"lacks x\.safetensors", ""),
    ("climbing", _index({"a": "../x.safetensors"}), ModelFormatError, "refused", ""),
    ("absolute", _index({"a": "/x.safetensors"}), ModelFormatError, "refused", ""),
    (
        "misplaced",
        _index({"z": "model.safetensors"}),
        ModelFormatError,
        "places 'z' in 'model.safetensors'",
        "whole",
    ),
    (
        "weights cut short at the hub",
        _with(model__safetensors=tensors(a=(9,))[:-1]),
        ModelFormatError,
        "cut short",
        "again",
    ),
    ("empty weights", _with(model__safetensors=b""), ModelFormatError, "too short", "again"),
    ("no header", _with(model__safetensors=b"x" * 40), ModelFormatError, "safetensors", "again"),
    (
        "bad offsets",
        _with(
            model__safetensors=encode(
                {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"
            )
        ),
        ModelFormatError,
        "gap or overlap",
        "again",
    ),
]


@pytest.mark.parametrize("read", [describe_repository, download_repository])
@pytest.mark.parametrize(
    ("prepare", "kind", "message", "hint"),
    [case[1:] for case in TROUBLES],
    ids=[case[0] for case in TROUBLES],
)
def test_trouble_is_told_in_one_line(
    hub: FakeHub, cache: Path, prepare: Any, kind: Any, message: str, hint: str, read: Any
) -> None:
    prepare(hub)
    with pytest.raises(kind, match=message) as caught:
        read(REPO, endpoint=hub.url, cache_dir=cache)
    assert_one_line(caught.value, hint)


def assert_one_line(error: NeuronArtifactsError, hint: str) -> None:
    assert type(error).__module__ == "neuron_artifacts.errors"
    assert hint in (error.hint or "")
    for line in (error.message, error.hint or ""):
        assert "\n" not in line
        assert TOKEN not in line


@pytest.mark.parametrize(
    ("repo_id", "revision", "kind", "message"),
    [
        (REPO, "v9", ModelNotFoundError, "org/name has no revision v9"),
        (REPO, "0" * 40, ModelNotFoundError, "has no revision 0000"),
        ("a--b", None, ModelNotFoundError, "neither a folder nor a valid hub id"),
        ("a/b/c", None, ModelNotFoundError, "neither a folder nor a valid hub id"),
        ("x" * 200, None, ModelNotFoundError, "neither a folder nor a valid hub id"),
    ],
)
def test_what_is_not_there(
    hub: FakeHub, cache: Path, repo_id: str, revision: str | None, kind: Any, message: str
) -> None:
    hub.commit(REPO, single())
    with pytest.raises(kind, match=message) as caught:
        download_repository(repo_id, revision, endpoint=hub.url, cache_dir=cache)
    assert_one_line(caught.value, "")


@pytest.mark.parametrize(
    ("token", "prepare", "kind", "message", "hint"),
    [
        ("hf_badbadbad", _private, HubError, "refuses the token", "use a token"),
        ("hf_other", _private, ModelNotFoundError, "no repository", "use a token that may read"),
        ("hf_other", _gated, HubError, "gated", "then use a token"),
        ("hf_s…cret", _private, HubError, "holds characters that cannot be sent", "use a token"),
    ],
)
def test_tokens_that_do_not_help(
    hub: FakeHub,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    prepare: Any,
    kind: Any,
    message: str,
    hint: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    prepare(hub)
    for read in (describe_repository, download_repository):
        with pytest.raises(kind, match=message) as caught:
            read(REPO, endpoint=hub.url, cache_dir=cache)
        assert_one_line(caught.value, hint)
        assert token not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://no-such-host.invalid", r"the name no-such-host\.invalid cannot be resolved"),
        ("no-such-host.invalid", "'no-such-host.invalid' is no URL"),
        ("http://", "is no URL"),
        ("http://user:pass@no-such-host.invalid", r"//no-such-host\.invalid cannot be reached"),
    ],
)
def test_an_endpoint_that_does_not_exist(cache: Path, endpoint: str, reason: str) -> None:
    with pytest.raises(HubError, match=reason) as caught:
        describe_repository(REPO, endpoint=endpoint, cache_dir=cache)
    assert "pass" not in str(caught.value)


def test_a_silent_hub(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.commit(REPO, single())
    hub.faults.append(Fault("/api/", delay=2))
    with pytest.raises(HubError, match="cannot be reached: no answer in time"):
        describe_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert len(hub.requests) == 1


def test_passing_trouble_is_waited_out(hub: FakeHub, cache: Path) -> None:
    hub.commit(REPO, sharded())
    hub.faults += [
        Fault("/api/", status=503, times=1),
        Fault("/api/", status=429, times=1, headers={"Retry-After": "0"}),
        Fault("00001-of-00002", status=500, times=2),
        Fault("00002-of-00002", cut=3, times=1),
    ]
    snapshot = describe_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert set(snapshot.all_tensors) == {"a", "b"}
    assert all(fault.times == 0 for fault in hub.faults)


# Damage


def test_a_dropped_connection_is_resumed_without_a_word(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[logging.LogRecord] = []
    listener = logging.Handler(logging.WARNING)
    monkeypatch.setattr(listener, "emit", said.append)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [listener])
    files = single(a=(1 << 16,))
    hub.commit(REPO, files)
    hub.faults.append(Fault("model.safetensors", cut=100_000, times=1))
    snapshot = download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    (file,) = snapshot.weight_files
    assert file.path
    assert file.path.read_bytes() == files["model.safetensors"]
    assert not said


def test_a_download_cut_short_is_reported_and_leaves_no_blob(hub: FakeHub, cache: Path) -> None:
    files = single(a=(1 << 16,))
    hub.commit(REPO, files)
    hub.faults.append(Fault("model.safetensors", cut=100_000, lie=True))
    with pytest.raises(HubError, match=r"org/name/model\.safetensors arrived cut short"):
        download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    hub.faults.clear()
    assert download_repository(REPO, endpoint=hub.url, cache_dir=cache).weight_files


def test_other_bytes_than_promised_are_reported_and_removed(hub: FakeHub, cache: Path) -> None:
    files = single(a=(1 << 10,))
    hub.commit(REPO, files)
    hub.faults.append(Fault("model.safetensors", flip=3000, times=1))
    with pytest.raises(HubError, match="arrived damaged") as caught:
        download_repository(REPO, endpoint=hub.url, cache_dir=cache)
    assert sha256(files["model.safetensors"]) in str(caught.value)
    (file,) = download_repository(REPO, endpoint=hub.url, cache_dir=cache).weight_files
    assert file.path
    assert file.path.read_bytes() == files["model.safetensors"]


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_cached_file_cut_short_later_is_reported(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, offline: bool
) -> None:
    hub.commit(REPO, single())
    root = download_repository(REPO, endpoint=hub.url, cache_dir=cache).root
    assert root
    os.truncate((root / name).resolve(), 10)
    if offline:
        go_offline(monkeypatch)
    for read in (describe_repository, download_repository):
        with pytest.raises(ModelFormatError, match=r"where the hub says|cut short|too short"):
            read(REPO, endpoint=hub.url, cache_dir=cache)


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    hub.commit(REPO, single())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HubError, match="cache cannot be used") as caught:
        download_repository(REPO, endpoint=hub.url, cache_dir=tmp_path / "file" / "hub")
    assert "HF_HOME" in (caught.value.hint or "")


SCRIPT = """
import json, sys
from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.model import resolve_model
try:
    model = resolve_model("org/name")
    print(json.dumps([model.revision, str(model.root)]))
except NeuronArtifactsError as error:
    print(type(error).__name__, error)
"""


def run_script(tmp_path: Path, *before: str, **environ: str) -> str:
    command = [*before, sys.executable, "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=60,
        env={
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **environ,
        },
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.strip()


def test_the_variables_of_huggingface_hub_are_honoured(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.commit(REPO, single(), private=True, readers={TOKEN})
    home, elsewhere = str(tmp_path / "home"), str(tmp_path / "elsewhere")
    shared = {"HF_ENDPOINT": hub.url, "HF_HOME": home, "HF_TOKEN": TOKEN}

    def expected(cache: str) -> list[str]:
        return [commit, f"{cache}/models--org--name/snapshots/{commit}"]

    assert json.loads(run_script(tmp_path, **shared)) == expected(f"{home}/hub")
    moved = run_script(tmp_path, **shared, HF_HUB_CACHE=elsewhere)
    assert json.loads(moved) == expected(elsewhere)
    hub.requests.clear()
    again = run_script(tmp_path, **shared, HF_HUB_OFFLINE="1")
    assert json.loads(again) == expected(f"{home}/hub")
    assert not hub.requests
    del shared["HF_TOKEN"]
    assert run_script(tmp_path, **shared).startswith("ModelNotFoundError")


def can_mount() -> bool:
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        bool(shutil.which("unshare")) and not subprocess.run(probe, capture_output=True).returncode
    )


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "ResourceError org/name needs"),
        ("tokenizer.json", "ResourceError the disk became full while org/name was downloaded"),
    ],
)
def test_a_full_disk(hub: FakeHub, tmp_path: Path, name: str, message: str) -> None:
    hub.commit(REPO, single() | {name: tensors(a=(1 << 20,))})
    small = tmp_path / "small"
    small.mkdir()
    mount = 'mount -t tmpfs -o size=256k tmpfs "$0" && exec "$@"'
    said = run_script(
        tmp_path, "unshare", "-Urm", "sh", "-c", mount, str(small),
        HF_ENDPOINT=hub.url, HF_HOME=str(small),
    )  # fmt: skip
    assert said.startswith(message)


def test_more_than_the_disk_holds_is_refused_before(hub: FakeHub, cache: Path) -> None:
    commit = hub.commit(REPO, single())
    free = shutil.disk_usage(cache.parent).free
    listed = {
        "id": REPO, "sha": commit,
        "siblings": [
            {"rfilename": name, "size": len(data)} for name, data in single().items()
        ] + [{"rfilename": "model.safetensors", "size": 2 * free}],
    }  # fmt: skip
    hub.faults.append(Fault("/api/", body=json.dumps(listed).encode()))
    with pytest.raises(ResourceError, match=r"needs .* GB more in .* GB are free"):
        download_repository(REPO, endpoint=hub.url, cache_dir=cache)
