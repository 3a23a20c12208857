"""The list of remote stores: where it lies, what it refuses, what it never holds."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from neuron_artifacts.errors import RemoteError, UsageError
from neuron_artifacts.remote import (
    add_remote,
    open_remote,
    read_remotes,
    remove_remote,
)
from neuron_artifacts.remote.config import check_url, config_path, write_remotes
from tests.cli.run import run
from tests.remote.samples import make_artifact


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "conf" / "remotes.yaml"
    monkeypatch.setenv("NEURON_ARTIFACTS_CONFIG", str(path))
    return path


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"NEURON_ARTIFACTS_CONFIG": "/c/r.yaml", "XDG_CONFIG_HOME": "/x"}, "/c/r.yaml"),
        ({"XDG_CONFIG_HOME": "/x"}, "/x/neuron-artifacts/remotes.yaml"),
    ],
)
def test_where_the_list_lies(environ: dict[str, str], expected: str) -> None:
    assert str(config_path(environ)) == expected


def test_remotes_are_added_listed_and_removed(config: Path, tmp_path: Path) -> None:
    add_remote("team", f"file://{tmp_path}/r")
    add_remote("team", f"file://{tmp_path}/r/")  # the same once more
    add_remote("other", f"file://{tmp_path}/o")
    assert read_remotes() == {"team": f"file://{tmp_path}/r", "other": f"file://{tmp_path}/o"}
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert open_remote("team").url == f"file://{tmp_path}/r"
    with pytest.raises(UsageError, match="not said"):
        open_remote()
    assert remove_remote("other") == f"file://{tmp_path}/o"
    assert open_remote().url == f"file://{tmp_path}/r"
    with pytest.raises(UsageError, match="no remote store is called other"):
        remove_remote("other")
    with pytest.raises(UsageError, match="already"):
        add_remote("team", f"file://{tmp_path}/elsewhere")


@pytest.mark.parametrize(
    "url",
    [
        "bucket/prefix", "ftp://x/y", "file://relative/path", "s3://", "oci://",
        "s3://key:secret@bucket/x", "oci://user@host/repo", "https://token@host",
        "s3://b/x?endpoint=http://key:secret@host", "s3://b/x?endpoint=http://key:secret%40host",
        "s3://b/x?endpoint=http://host/?X-Amz-Signature=secret", "oci://[host/r", "oci://h:port/r",
        "hf://org/a\nb", "s3://b/\x1b[31m",
        "s3://bucket?secret_access_key=x", "s3://bucket?endpoint=http://e&token=t",
        "hf://org/repo?token=hf_x", "file:///a?x=1", "s3://bucket#x",
    ],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_url(url)
    assert "secret" not in str(caught.value).replace("secret_access_key", "")
    assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hunter2@bucket/x", "s3://bucket/x?secret_access_key=hunter2",
        "oci://user:hunter2@registry.example/r", "https://user:hunter2@host/x",
    ],
)  # fmt: skip
def test_a_secret_in_a_url_is_not_repeated(url: str, config: Path, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=1)
    for command in (
        ("remote", "add", "team", url), ("push", artifact, "--to", url),
        ("pull", artifact.name, "--from", url), ("remote", "gc", url),
    ):  # fmt: skip
        result = run(*command, NEURON_ARTIFACTS_DEBUG="1")
        assert result.code == 2, command
        assert "hunter2" not in result.out + result.err
    assert not config.exists()


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 65])
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        add_remote(name, f"file://{tmp_path}")


@pytest.mark.parametrize("text", ["[1, 2]", "remotes: 3", "remotes: {a: b}", "{{", "\0"])
def test_a_damaged_list_is_said(config: Path, text: str) -> None:
    config.parent.mkdir()
    config.write_text(text)
    with pytest.raises(UsageError, match=r"remotes\.yaml"):
        read_remotes()


def test_a_failing_probe_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RemoteError):
        add_remote("team", f"file://{tmp_path}/file")
    assert read_remotes() == {}


def test_writing_replaces_the_list_whole(config: Path) -> None:
    write_remotes({"a": "file:///a"})
    write_remotes({"b": "file:///b"})
    assert read_remotes() == {"b": "file:///b"}
    assert [path.name for path in config.parent.iterdir()] == ["remotes.yaml"]
