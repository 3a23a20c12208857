"""Signing from the command line, and what asks for signatures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from neuron_artifacts.artifact import PROVENANCE_NAME
from tests.cli.run import Result, run
from tests.trust.authorities import authority, signer, uri

ADDER = Path(__file__).parents[2] / "examples" / "adder"
WORKFLOW, LOGIN = "https://example.com/build.yml@refs/heads/main", "https://login.example.com"
FLAGS = ["--seq-len", "64", "--context-encoding-buckets", "64"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trust")
    assert run("compile", ADDER, *FLAGS, cwd=place).code == 0
    assert run("keygen", "release", cwd=place).code == 0
    policy = "keys: {release: release.pub}\nrules: [{stores: ['*'], require: [release]}]\n"
    (place / "policy.yaml").write_text(policy)
    return place


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "p")
    return tmp_path / "p"


def artifact_of(place: Path) -> Path:
    root = place / "neuron-compiled-artifacts"
    return next(path for path in root.iterdir() if path.name[0] != ".")


def generate(place: Path, **environ: str) -> Result:
    return run(
        "generate", "--artifacts", artifact_of(place), "--prompt", "1+1=", "--max-tokens", "2",
        cwd=place, **environ,
    )  # fmt: skip


def test_nothing_unsigned_is_loaded_where_a_signature_is_required(place: Path) -> None:
    policy = {"NEURON_ARTIFACTS_POLICY": str(place / "policy.yaml")}
    refused = generate(place, **policy)
    assert refused.code == 6
    assert "must be signed by release" in refused.err
    assert generate(place).code == 0
    key = artifact_of(place).name[:12]
    assert run("verify", "--all", cwd=place, **policy).code == 6
    assert run("sign", key, "--key", "release.key", cwd=place).code == 0
    assert generate(place, **policy).code == 0
    assert run("verify", "--all", cwd=place, **policy).code == 0
    assert run("verify", key, "--key", "release.pub", cwd=place).code == 0
    run("keygen", "other", cwd=place)
    other = run("verify", key, "--key", "other.pub", "--json", cwd=place)
    assert other.code == 6
    assert "must be signed by other.pub" in other.data["artifacts"][0]["problems"][0]


def test_who_signs_is_asked_for_by_name(place: Path) -> None:
    root = authority()
    root.write(place / "root")
    signer(root, uri(WORKFLOW), issuer=LOGIN).write(place / "ci")
    (place / "policy.yaml").write_text(
        f"identities:\n  ci: {{subject: '{WORKFLOW}', issuer: '{LOGIN}', trusted_root: root.pem}}\n"
        "rules: [{stores: ['*'], require: [ci]}]\n"
    )
    policy = {"NEURON_ARTIFACTS_POLICY": str(place / "policy.yaml")}
    key = artifact_of(place).name[:12]
    refused = generate(place, **policy)
    assert refused.code == 6
    assert f"must be signed by ci ({WORKFLOW}, logged in by {LOGIN})" in refused.err
    signing = ("sign", key, "--key", "ci.key", "--certificate", "ci.pem")
    assert run(*signing, cwd=place).code == 0
    assert generate(place, **policy).code == 0
    asked = ("verify", key, "--identity", WORKFLOW, "--trusted-root", "root.pem")
    assert run(*asked, "--issuer", LOGIN, cwd=place).code == 0
    anywhere = run(*asked, cwd=place)
    assert anywhere.code == 6
    assert "logged in by 'https://login.example.com'" in anywhere.out
    assert run("verify", key, "--identity", WORKFLOW, cwd=place).code == 2
    assert run("verify", key, "--issuer", LOGIN, cwd=place).code == 2
    authority().write(place / "root")
    stranger = generate(place, **policy)
    assert stranger.code == 6
    assert "which is not valid" in stranger.err


def test_nothing_is_taken_from_what_is_not_trusted(place: Path) -> None:
    """Its graphs would be signed with what they were linked into, or served from a laxer place."""
    shared = f"{place}/neuron-compiled-artifacts/*"
    (place / "policy.yaml").write_text(
        f"keys: {{release: release.pub}}\nrules: [{{stores: ['{shared}'], require: [release]}}]\n"
    )
    policy = {"NEURON_ARTIFACTS_POLICY": str(place / "policy.yaml")}

    def compiled(output: str) -> int:
        result = run("compile", ADDER, *FLAGS, "--output", output, "--json", cwd=place, **policy)
        assert result.code == 0, result.err
        return sum(graph["action"] == "compile" for graph in result.data["graphs"])

    assert compiled("a") == 2
    assert run("sign", artifact_of(place), "--key", "release.key", cwd=place).code == 0
    assert compiled("b") == 0
    (place / "policy.yaml").write_text("keys: {release: nowhere.pub}\n")
    broken = run("compile", ADDER, *FLAGS, "--output", "c", cwd=place, **policy)
    assert (broken.code, (place / "c").exists()) == (2, False)


def test_nothing_untrusted_is_imported(place: Path, tmp_path: Path) -> None:
    policy = {"NEURON_ARTIFACTS_POLICY": str(place / "policy.yaml")}
    key = artifact_of(place).name
    assert run("export", key, "a.tar", cwd=place).code == 0
    assert run("sign", key, "--key", "release.key", cwd=place).code == 0
    assert run("export", key, "signed.tar", cwd=place).code == 0
    (other := tmp_path / "other").mkdir()
    refused = run("import", place / "a.tar", cwd=other, **policy)
    assert refused.code == 6
    assert f"{place / 'a.tar'} must be signed by release" in refused.err
    assert not list((other / "neuron-compiled-artifacts").glob("[0-9a-f]*"))
    assert run("import", place / "signed.tar", cwd=other, **policy).code == 0
    assert artifact_of(other).name == key
    assert run("verify", key, cwd=other, **policy).code == 0


def test_a_damaged_artifact_is_not_signed(place: Path) -> None:
    weights = next((artifact_of(place) / "weights").iterdir())
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    result = run("sign", artifact_of(place), "--key", "release.key", cwd=place)
    assert result.code == 5
    assert not (artifact_of(place) / "artifact.sig.json").exists()


def test_provenance_tells_inputs_and_tools_and_no_place(place: Path) -> None:
    path = artifact_of(place) / PROVENANCE_NAME
    body = json.loads(path.read_text())
    definition = body["predicate"]["buildDefinition"]
    names = {row["name"] for row in definition["resolvedDependencies"]}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert definition["internalParameters"]["toolchain"]["neuron-artifacts"]
    assert definition["internalParameters"]["command"] == [
        "neuron-artifacts",
        "compile",
        "adder",
        *FLAGS,
    ]
    assert str(place.parent) not in path.read_text()
    assert str(ADDER) not in path.read_text()
    whole = run("verify", "--all", "--json", cwd=place)
    assert whole.code == 0
    assert whole.data["artifacts"][0]["builder"] == "urn:neuron-artifacts:local"
    definition["resolvedDependencies"][1]["digest"]["sha256"] = "0" * 64
    path.unlink()
    path.write_text(json.dumps(body))
    result = run("verify", "--all", "--json", cwd=place)
    assert result.code == 5
    assert "provenance says" in result.data["artifacts"][0]["problems"][0]


def test_key_and_policy_are_both_asked(place: Path) -> None:
    """--key adds to what the policy requires, and does not replace it."""
    policy = {"NEURON_ARTIFACTS_POLICY": str(place / "policy.yaml")}
    run("keygen", "mine", cwd=place)
    key = artifact_of(place).name[:12]
    run("sign", key, "--key", "mine.key", cwd=place)
    assert run("verify", key, "--key", "mine.pub", cwd=place).code == 0
    refused = run("verify", key, "--key", "mine.pub", cwd=place, **policy)
    assert refused.code == 6
    assert "must be signed by release" in refused.out
    run("sign", key, "--key", "release.key", cwd=place)
    both = run("verify", key, "--key", "mine.pub", cwd=place, **policy)
    assert both.code == 0
    assert "signed by mine.pub" in both.out
    assert "and release" in both.out
