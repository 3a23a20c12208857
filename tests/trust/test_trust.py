"""Signatures: made, found, missing, foreign, damaged; and the policy that asks for them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.artifact import SIGNATURE_NAME
from neuron_artifacts.errors import CorruptError, StoreError, UntrustedError, UsageError
from neuron_artifacts.trust.judgement import judge_artifact
from neuron_artifacts.trust.keys import generate_keys, load_private_key, load_public_key
from neuron_artifacts.trust.policy import load_policy, require_trust
from neuron_artifacts.trust.statement import read_signatures, sign_artifact
from tests.artifact.artifacts import publish
from tests.limits import no_descriptors
from tests.trust.authorities import authority

Keys = Callable[[str], tuple[Path, Path]]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return lambda name: generate_keys(tmp_path / name, {})


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return publish(tmp_path)


def test_a_signature_names_its_key_and_others_do_not_pass(artifact: Path, keys: Keys) -> None:
    (private, public), (_, stranger) = keys("release"), keys("stranger")
    sign_artifact(artifact, load_private_key(private, {}))
    expected = load_public_key(public, "release")
    assert require_trust(artifact, (load_public_key(stranger), expected)) is expected
    with pytest.raises(UntrustedError, match=r"must be signed by stranger\.pub .*signed by sha256"):
        require_trust(artifact, (load_public_key(stranger),))


def test_an_unsigned_artifact_names_who_was_expected(artifact: Path, keys: Keys) -> None:
    key = load_public_key(keys("release")[1], "release")
    with pytest.raises(UntrustedError, match=r"signed by release \(sha256:.*signed by nobody"):
        require_trust(artifact, (key,))
    assert require_trust(artifact, ()) is None


def test_signatures_that_cannot_be_read_are_not_called_damaged(artifact: Path, keys: Keys) -> None:
    private, public = keys("release")
    sign_artifact(artifact, load_private_key(private, {}))
    asked = (load_public_key(public),)
    with no_descriptors(), pytest.raises(StoreError, match="cannot be read"):
        require_trust(artifact, asked)
    with no_descriptors():
        assert judge_artifact(artifact, [asked]).status == "unreadable"
    assert judge_artifact(artifact, [asked]).status == "ok"


def test_several_keys_sign_and_one_signs_again(artifact: Path, keys: Keys) -> None:
    pairs = [keys("a"), keys("b"), keys("a2")]
    for private, _ in [*pairs, pairs[0]]:
        sign_artifact(artifact, load_private_key(private, {}))
    found = read_signatures(artifact)
    assert found
    assert len(found.key_ids) == 3
    assert all(found.signed_by(load_public_key(public)) for _, public in pairs)


def test_a_signature_of_another_artifact_is_corruption(
    artifact: Path, keys: Keys, tmp_path: Path
) -> None:
    other = publish(tmp_path, number=2)
    sign_artifact(other, load_private_key(keys("k")[0], {}))
    shutil.copy(other / SIGNATURE_NAME, artifact / SIGNATURE_NAME)
    with pytest.raises(CorruptError, match=r"about another artifact\.json"):
        read_signatures(artifact)


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body.pop("payload"),
        lambda body: body.update(payload="!!"),
        lambda body: body.update(payloadType="text/plain"),
        lambda body: body.update(signatures="x"),
        lambda body: body.update(signatures=[3]),
        lambda body: body.update(signatures=[{"sig": 4}]),
        lambda body: body.update(payload=base64.b64encode(b"[]").decode()),
        lambda body: body.update(payload=base64.b64encode(b'{"_type": "x"}').decode()),
    ],
)
def test_a_damaged_envelope_is_corruption(
    damage: Callable[[Any], Any], artifact: Path, keys: Keys
) -> None:
    path = sign_artifact(artifact, load_private_key(keys("k")[0], {}))
    body = json.loads(path.read_text())
    damage(body)
    path.unlink()
    path.write_text(json.dumps(body))
    with pytest.raises(CorruptError, match="damaged"):
        read_signatures(artifact)


def test_a_flipped_bit_in_the_signature_is_no_signature(artifact: Path, keys: Keys) -> None:
    private, public = keys("k")
    path = sign_artifact(artifact, load_private_key(private, {}))
    body = json.loads(path.read_text())
    value = bytearray(base64.b64decode(body["signatures"][0]["sig"]))
    value[-1] ^= 1
    body["signatures"][0]["sig"] = base64.b64encode(value).decode()
    path.unlink()
    path.write_text(json.dumps(body))
    with pytest.raises(UntrustedError):
        require_trust(artifact, (load_public_key(public),))


def test_openssl_verifies_what_was_signed(artifact: Path, keys: Keys, tmp_path: Path) -> None:
    """The envelope is DSSE: the bytes signed are rebuilt here from its specification."""
    private, public = keys("k")
    body = json.loads(sign_artifact(artifact, load_private_key(private, {})).read_text())
    payload = base64.b64decode(body["payload"])
    kind = body["payloadType"].encode()
    parts = [b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload]
    (tmp_path / "data").write_bytes(b" ".join(parts))
    (tmp_path / "sig").write_bytes(base64.b64decode(body["signatures"][0]["sig"]))
    command = ["openssl", "dgst", "-sha256", "-verify", public, "-signature", tmp_path / "sig"]
    done = subprocess.run([*command, tmp_path / "data"], capture_output=True, check=False)
    assert done.stdout == b"Verified OK\n", done.stderr


def test_keys_of_openssl_are_read(artifact: Path, tmp_path: Path) -> None:
    private, public = tmp_path / "ed.key", tmp_path / "ed.pub"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    sign_artifact(artifact, load_private_key(private, {}))
    assert require_trust(artifact, (load_public_key(public),))


def test_a_password_locks_the_private_key(tmp_path: Path) -> None:
    environ = {"NEURON_ARTIFACTS_KEY_PASSWORD": "secret"}
    private, _ = generate_keys(tmp_path / "k", environ)
    assert private.stat().st_mode & 0o077 == 0
    assert b"ENCRYPTED" in private.read_bytes()
    load_private_key(private, environ)
    with pytest.raises(UsageError, match="needs a password"):
        load_private_key(private, {})
    with pytest.raises(UsageError, match="password is wrong"):
        load_private_key(private, {"COSIGN_PASSWORD": "other"})
    with pytest.raises(UsageError, match="exists"):
        generate_keys(tmp_path / "k", environ)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\neyJ\n-----END"],
)
def test_what_is_no_key_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        load_private_key(path, {})
    with pytest.raises(UsageError):
        load_public_key(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_public_key(tmp_path / "nowhere")


def write_policy(folder: Path, text: str) -> dict[str, str]:
    (folder / "policy.yaml").write_text(text)
    return {"NEURON_ARTIFACTS_POLICY": str(folder / "policy.yaml")}


def test_the_first_rule_that_matches_decides(keys: Keys, tmp_path: Path) -> None:
    keys("release")
    environ = write_policy(
        tmp_path,
        "keys: {release: release.pub}\nrules:\n"
        "- {stores: ['/scratch/*'], require: []}\n- {stores: ['*'], require: [release]}\n",
    )
    policy = load_policy(environ)
    assert policy.required("/scratch/x/key") == ()
    assert [key.name for key in policy.required("/srv/x")] == ["release"]
    assert [key.name for key in policy.required("prod", "/scratch/x")] == []


@pytest.mark.parametrize(
    ("place", "asked"),
    [
        ("srv/shared/a", True),
        ("scratch/link/a", True),  # a link into what is guarded
        ("scratch/../srv/shared/a", True),
        ("srv/alias/a", True),  # guarded by a name that is a link to elsewhere
        ("elsewhere/a", False),
        ("scratch/a", False),
    ],
)
def test_no_link_leads_around_a_rule(place: str, asked: bool, tmp_path: Path, keys: Keys) -> None:
    keys("release")
    for folder in ("srv/shared", "scratch", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scratch" / "link").symlink_to(tmp_path / "srv" / "shared")
    (tmp_path / "srv" / "alias").symlink_to(tmp_path / "elsewhere")
    environ = write_policy(
        tmp_path,
        "keys: {release: release.pub}\n"
        f"rules: [{{stores: ['{tmp_path}/scratch/*'], require: []}},\n"
        f"        {{stores: ['{tmp_path}/srv/*'], require: [release]}}]\n",
    )
    assert bool(load_policy(environ).required_at(tmp_path / place)) is asked


def test_without_a_policy_nothing_is_required(tmp_path: Path) -> None:
    assert load_policy({"XDG_CONFIG_HOME": str(tmp_path)}).required("x") == ()


@pytest.mark.parametrize(
    "text",
    [
        "[]", "keys: 3", "rules: {a: 1}", "more: 1", "rules: [{stores: ['*']}]", "\t",
        "rules: [{stores: ['*'], require: [nobody]}]", "rules: [{stores: '*', require: []}]",
        "keys: {a: missing.pub}",
    ],
)  # fmt: skip
def test_a_broken_policy_is_an_error_and_trusts_nobody(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_policy(write_policy(tmp_path, text))


def test_a_policy_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_policy({"NEURON_ARTIFACTS_POLICY": str(tmp_path / "none")})


@pytest.mark.parametrize("open_to_all", ["policy.yaml", "release.pub", "ca.pem", None])
def test_what_anybody_may_write_says_nothing(
    keys: Keys, tmp_path: Path, open_to_all: str | None
) -> None:
    keys("release")
    authority().write(tmp_path / "ca")
    environ = write_policy(
        tmp_path,
        "keys: {release: release.pub}\n"
        "identities: {ci: {subject: a@b.example, trusted_root: ca.pem}}\n"
        "rules: [{stores: ['*'], require: [release, ci]}]\n",
    )
    if open_to_all is None:
        assert len(load_policy(environ).required("x")) == 2
        return
    (tmp_path / open_to_all).chmod(0o666)
    with pytest.raises(UsageError, match=f"anybody may write .*{open_to_all}") as caught:
        load_policy(environ)
    assert "chmod o-w" in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["dangling", "loop", "folder"])
def test_a_policy_that_is_there_and_cannot_be_read_trusts_nobody(tmp_path: Path, kind: str) -> None:
    """In its usual place, where none at all would mean that nobody is asked."""
    path = tmp_path / "neuron-artifacts" / "policy.yaml"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("policy.yaml" if kind == "loop" else "nowhere.yaml")
    with pytest.raises(UsageError, match=r"cannot be read|not valid"):
        load_policy({"XDG_CONFIG_HOME": str(tmp_path)})


def test_a_home_that_is_none_has_no_policy() -> None:
    assert load_policy({"XDG_CONFIG_HOME": "/dev/null"}).required("x") == ()
