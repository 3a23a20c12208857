"""Every command that takes an artifact takes it by the same names, and refuses in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuron_artifacts.cli._app import build_app
from neuron_artifacts.errors import ExitCode
from neuron_artifacts.remote import open_url, push_artifact
from neuron_artifacts.store import LocalStore
from neuron_artifacts.trust.keys import generate_keys
from tests.store.test_names import MD5, publish_as

BY_STORE = {
    "diff": ("{}", "{}"),
    "verify": ("{}",),
    "repair": ("{}",),
    "sbom": ("{}",),
    "sign": ("{}", "--key", "sign.key"),
    "pin": ("{}",),
    "unpin": ("{}",),
    "push": ("{}", "--to", "remote"),
    "export": ("{}", "out.tar"),
    "pull": ("{}", "--from", "remote"),
}
BY_DIRECTORY = {
    "inspect": ("{}",),
    "validate": ("{}",),
    "env": ("{}",),
    "generate": ("--artifacts", "{}", "--prompt", "x"),
    "serve": ("--artifacts", "{}"),
}
COMMANDS = BY_STORE | BY_DIRECTORY


def run(place: Path, command: str, name: str) -> int:
    words = [word.format(name) for word in COMMANDS[command]]
    words = [f"file://{place}/remote" if word == "remote" else word for word in words]
    with pytest.raises(SystemExit) as ended:
        build_app(command)([command, *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of two artifacts of one md5, a remote store of both, and a key."""
    place = tmp_path_factory.mktemp("names")
    for phase in ("one", "other"):
        artifact = publish_as(place, MD5, phase=phase)
        push_artifact(open_url(f"file://{place}/remote"), artifact)
    generate_keys(place / "sign", {})
    return place


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.delenv("NEURON_ARTIFACTS_STORE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(made / "config"))
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_several(place: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of vLLM's name in the local store; of a key's beginning in a remote one."""
    key = LocalStore(place).directories()[0].name
    name = key[:4] if command == "pull" else MD5
    twin = place / "remote" / "artifacts" / f"{key[:4]}{'0' * 60}.json"
    twin.write_text("{}")
    assert run(place, command, name) == ExitCode.USAGE
    twin.unlink()
    assert f"has 2 artifacts called {name}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["0000", "zz", "abc", "nothing-like-it", "./elsewhere"])
@pytest.mark.parametrize("command", COMMANDS)
def test_none(place: Path, command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, command, name) == ExitCode.MISS
    shown = capsys.readouterr()
    assert name.removeprefix("./") in shown.err + shown.out
    if command in BY_STORE and "/" not in name:
        assert "no artifact" in shown.err


@pytest.mark.parametrize("command", ["diff", "verify", "sbom", "pin", "push", "pull", "inspect"])
def test_one(place: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = LocalStore(place).directories()[0]
    names = [path.name, path.name[:12]]
    if command != "pull":
        names += [str(path), str(path.relative_to(place))]
    for name in names:
        assert run(place, command, name) == ExitCode.OK, capsys.readouterr().err
