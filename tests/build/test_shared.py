"""A remote store around a build: read through, written back, and never in the way."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.build import Outcome, Share, compile_artifact
from neuron_artifacts.errors import UntrustedError
from neuron_artifacts.events import Event, Note
from neuron_artifacts.remote import open_url
from neuron_artifacts.spec import resolve_spec
from neuron_artifacts.store import LocalStore
from neuron_artifacts.trust.keys import generate_keys, load_private_key
from neuron_artifacts.trust.statement import sign_artifact
from tests.cli.run import run
from tests.models import SMALL, copy_model


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a remote store that has its artifact."""
    place = tmp_path_factory.mktemp("shared")
    model = copy_model(place / "model")
    (model / "tokenizer.json").write_text("{}")  # a model without one is warned of
    build(place, place / "first", place / "remote", push=True)
    return place


def build(
    place: Path,
    store: Path,
    remote: Path,
    *,
    push: bool = False,
    notes: list[str] | None = None,
    **changes: object,
) -> Outcome:
    def observe(event: Event) -> None:
        if isinstance(event, Note) and notes is not None:
            notes.append(event.text)

    options = {"model": str(place / "model"), "store": str(store), **SMALL, **changes}
    spec = resolve_spec(options, environ={})
    share = Share("prod", open_url(f"file://{remote}"), push)
    return compile_artifact(spec, environ={}, observe=observe, share=share)


def test_what_one_machine_compiled_every_other_fetches(shared: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    outcome = build(shared, tmp_path, shared / "remote", notes=notes)
    assert notes == ["fetched from prod"]
    assert (outcome.compiled, outcome.fetched_from) == (0, "prod")
    assert outcome.decision.action == "hit"
    assert verify_artifact(outcome.path, "full").status == "ok"


def test_a_remote_store_that_does_not_have_it_costs_a_compile(shared: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    outcome = build(shared, tmp_path / "a", tmp_path / "empty", notes=notes)
    assert (outcome.compiled, outcome.fetched_from) == (3, None)
    assert notes == ["prod does not have it"]
    again = build(shared, tmp_path / "b", tmp_path / "empty", push=True, notes=notes)
    assert again.compiled == 3
    assert build(shared, tmp_path / "c", tmp_path / "empty").fetched_from == "prod"


def test_a_second_configuration_gives_its_graphs_and_fetches_no_weights(
    shared: Path, tmp_path: Path
) -> None:
    """Seen from the remote store: what is new in it, and what nobody asks it for."""
    remote = Path(shutil.copytree(shared / "remote", tmp_path / "remote"))
    before = _blobs(remote)
    second = build(shared, shared / "first", remote, push=True, batch_size=2)
    fresh = _blobs(remote) - before
    manifest = read_manifest(second.path)
    weights = [file for file in manifest.files if file.role == "weights"]
    assert weights
    assert all(file.sha256 in before for file in weights)
    known = {file.sha256 for file in manifest.files}
    assert fresh & known == known - before
    assert len(fresh - known) == 1  # its provenance
    here = tmp_path / "here"
    build(shared, here, remote)
    for file in weights:  # a pull that asked for them would fail now
        (remote / "cas/sha256" / file.sha256).unlink()
    fetched = build(shared, here, remote, batch_size=2)
    assert (fetched.compiled, fetched.fetched_from) == (0, "prod")
    assert verify_artifact(fetched.path, "full").status == "ok"


def _blobs(remote: Path) -> set[str]:
    return {path.name for path in (remote / "cas/sha256").iterdir()}


def test_its_trouble_never_fails_a_build(shared: Path, tmp_path: Path) -> None:
    remote = Path(shutil.copytree(shared / "remote", tmp_path / "remote"))
    for path in remote.rglob("*"):
        if path.is_file() and "cas" in path.parts:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.chmod(0o644)
            path.write_bytes(data)
    notes: list[str] = []
    outcome = build(shared, tmp_path / "store", remote, notes=notes)
    assert outcome.compiled == 3
    assert any("building it here instead" in note for note in notes)
    assert [text for text in outcome.troubles if "building it here instead" in text]
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the store should be")
    outcome = build(shared, tmp_path / "other", blocked, push=True, notes=notes)
    assert outcome.compiled == 3
    assert any("not pushed to prod" in note for note in notes)
    assert ["not pushed to prod" in text for text in outcome.troubles] == [True]


def test_what_the_policy_does_not_trust_never_arrives(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, _ = generate_keys(tmp_path / "release", {})
    (key,) = (path.name for path in LocalStore(shared / "first").directories())
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "keys: {release: release.pub}\nrules: [{stores: [prod], require: [release]}]\n"
    )
    monkeypatch.setenv("NEURON_ARTIFACTS_POLICY", str(policy))
    with pytest.raises(UntrustedError, match="must be signed by release"):
        build(shared, tmp_path / "store", shared / "remote")
    store = LocalStore(tmp_path / "store")
    assert _files_of_artifacts(store) == []
    everywhere = tmp_path / "everywhere.yaml"
    everywhere.write_text(policy.read_text().replace("[prod]", "['*']"))
    pulled = run(
        "pull", key, "--from", f"file://{shared / 'remote'}", cwd=tmp_path,
        NEURON_ARTIFACTS_POLICY=str(everywhere),
    )  # fmt: skip
    assert pulled.code == 6
    assert "must be signed by release" in pulled.err
    assert LocalStore(tmp_path).directories() == []
    (signed,) = LocalStore(
        Path(shutil.copytree(shared / "first", tmp_path / "signed"))
    ).directories()
    sign_artifact(signed, load_private_key(private, {}))
    remote = tmp_path / "remote"
    pushed = run("push", signed, "--to", f"file://{remote}", cwd=tmp_path)
    assert pushed.code == 0, pushed.err
    assert build(shared, tmp_path / "store", remote).fetched_from == "prod"


@pytest.mark.parametrize("asked", ["prod", "the url", None])
def test_a_rule_about_a_name_holds_however_the_store_is_called(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    """Nothing but the manifest is read of what nobody vouches for: no file is even asked for."""
    monkeypatch.setenv("NEURON_ARTIFACTS_CONFIG", str(tmp_path / "remotes.yaml"))
    generate_keys(tmp_path / "release", {})
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "keys: {release: release.pub}\nrules: [{stores: [prod], require: [release]}]\n"
    )
    monkeypatch.setenv("NEURON_ARTIFACTS_POLICY", str(policy))
    url = f"file://{shutil.copytree(shared / 'remote', tmp_path / 'remote')}"
    ((there, manifest),) = LocalStore(shared / "first").manifests()
    for file in manifest.files:
        (tmp_path / "remote/cas/sha256" / file.sha256).unlink()
    assert run("remote", "add", "prod", url).code == 0
    key = there.name
    source = ["--from", url if asked == "the url" else asked] if asked else []
    pulled = run("pull", key, *source, "--store", tmp_path / "here")
    assert pulled.code == 6, pulled.err
    assert "must be signed by release" in pulled.err
    assert key[:16] in pulled.err
    assert _files_of_artifacts(LocalStore(tmp_path / "here")) == []


def _files_of_artifacts(store: LocalStore) -> list[Path]:
    """Everything below a store but its locks, and provenance kept for the next try."""
    return [
        path
        for path in store.root.rglob("*")
        if path.is_file() and path.parent.name not in (".locks", ".incoming")
    ]


def test_the_command(shared: Path, tmp_path: Path) -> None:
    flags = [str(t) for n, v in SMALL.items() for t in (f"--{n.replace('_', '-')}", v)]
    model, url = shared / "model", f"file://{shared / 'remote'}"
    result = run("compile", model, *flags, "--remote", url, "--json", cwd=tmp_path)
    assert (result.code, result.data["fetched_from"], result.data["compiled"]) == (0, url, 0)
    assert run("compile", model, *flags, "--push", cwd=tmp_path).code == 2
    assert run("compile", model, *flags, "--remote", "nowhere", cwd=tmp_path).code == 2
