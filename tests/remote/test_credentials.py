"""Credentials: found where each store keeps them, and shown nowhere."""

from __future__ import annotations

import base64
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.errors import NeuronArtifactsError, RemoteError
from neuron_artifacts.remote import open_url, pull_artifact, push_artifact
from neuron_artifacts.remote.aws import profile_options
from neuron_artifacts.remote.docker_config import find_credentials
from neuron_artifacts.remote.port import redact
from tests.cli.run import run
from tests.neuron_cache.cache_hub import CacheHub
from tests.remote import servers
from tests.remote.conftest import REPO, TOKEN
from tests.remote.samples import local_store, make_artifact
from tests.remote.small_registry import SmallRegistry

PASSWORD = "open-sesame-42"


def _basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write_config(folder: Path, **content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.fixture
def guarded(tmp_path: Path) -> Any:
    with SmallRegistry(password=PASSWORD) as registry:
        write_config(tmp_path / "home/.docker", auths={registry.host: _basic("user", PASSWORD)})
        yield registry


def test_a_token_is_fetched_with_the_password_of_docker_login(
    guarded: SmallRegistry, tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "a")
    push_artifact(open_url(f"oci://{guarded.host}/r"), artifact)
    pulled = pull_artifact(
        open_url(f"oci://{guarded.host}/r"), artifact.name, local_store(tmp_path / "b")
    )
    assert verify_artifact(pulled.path, "full").status == "ok"
    asked = [(path, sent) for _, path, sent in guarded.requests]
    assert all(path.startswith("/token") for path, sent in asked if sent.startswith("Basic"))
    assert any("pull%2Cpush" in path for path, _ in asked if path.startswith("/token"))


def test_a_wrong_password_is_said_with_the_way_out(guarded: SmallRegistry, tmp_path: Path) -> None:
    write_config(tmp_path / "home/.docker", auths={guarded.host: _basic("user", "wrong")})
    with pytest.raises(RemoteError, match="refuses access") as caught:
        push_artifact(open_url(f"oci://{guarded.host}/r"), make_artifact(tmp_path / "a"))
    assert "docker login" in str(caught.value.hint)


HELPER = """#!/bin/sh
read server
if [ "$1 $server" = "get reg.example" ]; then
  echo '{"ServerURL": "reg.example", "Username": "robot", "Secret": "from-helper"}'
elif [ "$server" = "token.example" ]; then
  echo '{"Username": "<token>", "Secret": "refresh"}'
elif [ "$server" = "mad.example" ]; then
  echo 'no json'
else
  echo 'credentials not found in native keychain'; exit 1
fi
"""


@pytest.fixture
def helper(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "bin/docker-credential-test"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    os.environ["PATH"], before = path, os.environ["PATH"]
    yield {"HOME": str(tmp_path / "home"), "PATH": path}  # type: ignore[misc]
    os.environ["PATH"] = before


@pytest.mark.parametrize(
    ("registry", "config", "expected"),
    [
        ("reg.example", {"credHelpers": {"reg.example": "test"}}, ("robot", "from-helper", False)),
        ("reg.example", {"credsStore": "test"}, ("robot", "from-helper", False)),
        ("token.example", {"credsStore": "test"}, ("<token>", "refresh", True)),
        ("none.example", {"credsStore": "test"}, None),
        (
            "none.example",
            {"credsStore": "test", "auths": {"none.example": _basic("a", "b:c")}},
            ("a", "b:c", False),
        ),
        ("x.example", {"auths": {"https://x.example": _basic("a", "b")}}, ("a", "b", False)),
        ("docker.io", {"auths": {"https://index.docker.io/v1/": _basic("a", "b")}},
         ("a", "b", False)),
        ("x.example", {"auths": {"x.example": {"identitytoken": "t"}}}, ("<token>", "t", True)),
        ("x.example", {"auths": {"x.example": {"auth": "no base64!"}}}, None),
        ("x.example", {"auths": {"y.example": _basic("a", "b")}}, None),
        ("x.example", {"auths": [1]}, None),
    ],
)  # fmt: skip
def test_what_docker_keeps_for_a_registry(
    helper: dict[str, str], registry: str, config: Any, expected: Any
) -> None:
    write_config(Path(helper["HOME"]) / ".docker", **config)
    found = find_credentials(registry, helper)
    assert (found and (found.user, found.secret, found.is_refresh_token)) == expected
    assert "from-helper" not in repr(found)


@pytest.mark.parametrize("name", ["mad.example", "absent"])
def test_a_helper_that_does_not_work_is_said(helper: dict[str, str], name: str) -> None:
    wanted = "test" if name == "mad.example" else "absent-helper"
    write_config(Path(helper["HOME"]) / ".docker", credHelpers={name: wanted})
    with pytest.raises(RemoteError, match=f"docker-credential-{wanted}"):
        find_credentials(name, helper)


AWS_FILES = {
    "credentials": "[default]\naws_access_key_id=AK\naws_secret_access_key=SK\n"
    "[work]\naws_access_key_id=WK\naws_secret_access_key=WS\naws_session_token=WT\n",
    "config": "[default]\nregion=eu-west-1\n[profile work]\nregion=us-west-2\n"
    "endpoint_url=http://e\n[profile sso]\nsso_start_url=https://x\n",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"region": "eu-west-1", "access_key_id": "AK", "secret_access_key": "SK"}),
        (
            {"AWS_PROFILE": "work"},
            {
                "region": "us-west-2", "endpoint": "http://e", "access_key_id": "WK",
                "secret_access_key": "WS", "session_token": "WT",
            },
        ),
        (
            {"AWS_PROFILE": "work", "AWS_REGION": "here", "AWS_ENDPOINT_URL": "http://here"},
            {"access_key_id": "WK", "secret_access_key": "WS", "session_token": "WT"},
        ),
        ({"AWS_ACCESS_KEY_ID": "from the environment"}, {}),
        ({"AWS_PROFILE": "unknown"}, {}),
    ],
)  # fmt: skip
def test_profiles_of_aws(tmp_path: Path, environ: dict[str, str], expected: Any) -> None:
    (tmp_path / ".aws").mkdir()
    for name, text in AWS_FILES.items():
        (tmp_path / ".aws" / name).write_text(text)
    assert profile_options({"HOME": str(tmp_path), **environ}) == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://b.s3/x?X-Amz-Signature=abc failed", "GET https://b.s3/x?*** failed"),
        ("https://user:pw@host/x", "https://***host/x"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("token hf_abcDEF123 refused", "token *** refused"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_what_is_blotted_out(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.usefixtures("s3_environ")
def test_no_secret_shows_anywhere(
    guarded: SmallRegistry, hub: CacheHub, s3_endpoint: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Logs, errors with their causes, manifests, the list of stores: of every kind of store."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("NEURON_ARTIFACTS_CONFIG", str(tmp_path / "conf/remotes.yaml"))
    artifact = make_artifact(tmp_path / "a")
    urls = [
        f"oci://{guarded.host}/r", f"hf://{REPO}", f"s3://{servers.BUCKET}/z?endpoint={s3_endpoint}"
    ]  # fmt: skip
    shown: list[str] = []
    for number, url in enumerate(urls):
        environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        for arguments in (
            ("remote", "add", f"r{number}", url), ("push", artifact, "--to", f"r{number}"),
            ("pull", artifact.name, "--from", f"r{number}", "--store", tmp_path / f"s{number}"),
        ):  # fmt: skip
            result = run(*arguments, **environ)
            assert result.code == 0, result.err
            shown += [result.out, result.err]
    guarded.faults += [("/v2/", 403, {})] * 5 + [("/v2/", 500, {})] * 9
    for url in [*urls, f"s3://none-{servers.BUCKET}/z?endpoint={s3_endpoint}", "hf://org/none"]:
        for key in ("0" * 64, artifact.name):
            try:
                pull_artifact(open_url(url), key, local_store(tmp_path / "e"))
            except NeuronArtifactsError as error:
                shown += _told(error)
    shown.append(caplog.text)
    shown += [p.read_text(errors="replace") for p in (tmp_path / "conf").rglob("*") if p.is_file()]
    shown += [data.decode(errors="replace") for data in guarded.blobs.values()]
    shown += [data.decode(errors="replace") for data in guarded.manifests.values()]
    for secret in (
        PASSWORD,
        TOKEN,
        servers.AWS["AWS_SECRET_ACCESS_KEY"],
        "tok-xxx",
        "secret-state",
    ):
        assert not [text for text in shown if secret in text], secret
        encoded = base64.b64encode(f"user:{secret}".encode()).decode()
        assert not [text for text in shown if encoded in text], secret


def _told(error: BaseException | None) -> list[str]:
    told = []
    while error:
        told += [str(error), repr(error), str(getattr(error, "hint", ""))]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told
