"""Signatures that are made after the first push: they travel, on every store, and spoil nothing."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neuron_artifacts.artifact import SIGNATURE_NAME, verify_artifact
from neuron_artifacts.build.shared import Share, pull_trusted
from neuron_artifacts.errors import RemoteError, UntrustedError
from neuron_artifacts.events import Event, Note
from neuron_artifacts.remote import Pulled, RemoteStore, collect_remote, open_url, push_artifact
from neuron_artifacts.remote.objects import SIGNATURES, CasStore
from neuron_artifacts.remote.port import MAX_SIGNATURE_BYTES
from neuron_artifacts.trust.keys import generate_keys, load_private_key, load_public_key
from neuron_artifacts.trust.statement import read_signatures, sign_artifact
from tests.remote.conftest import Place
from tests.remote.samples import local_store, make_artifact

OLD = Path(__file__).parents[1] / "data" / "remote" / "before-signatures"


def sign(artifact: Path, keys: Path, name: str) -> None:
    if not (keys / f"{name}.key").exists():
        keys.mkdir(exist_ok=True)
        generate_keys(keys / name, {})
    sign_artifact(artifact, load_private_key(keys / f"{name}.key", {}))


def signers(artifact: Path, keys: Path) -> set[str]:
    found = read_signatures(artifact)
    known = {path.stem: load_public_key(path) for path in keys.glob("*.pub")}
    return {name for name, key in known.items() if found and found.signed_by(key)}


def pull(remote: RemoteStore, key: str, place: Path, events: list[Event] | None = None) -> Pulled:
    observe = [] if events is None else events
    share = Share("team", remote)
    return pull_trusted(share, key, local_store(place), observe=observe.append)


def require(monkeypatch: pytest.MonkeyPatch, keys: Path, *names: str) -> None:
    listed = ", ".join(f"{name}: {name}.pub" for name in names)
    (keys / "policy.yaml").write_text(
        f"keys: {{{listed}}}\nrules: [{{stores: ['*'], require: [{', '.join(names)}]}}]\n"
    )
    monkeypatch.setenv("NEURON_ARTIFACTS_POLICY", str(keys / "policy.yaml"))


def test_it_travels_later(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To who pulls for the first time, and to who has the artifact; counted in bytes."""
    keys, artifact = tmp_path / "keys", make_artifact(tmp_path / "a")
    push_artifact(place.store, artifact)
    pull(place.store, artifact.name, tmp_path / "early")
    sign(artifact, keys, "one")
    require(monkeypatch, keys, "one")
    for local in ("early", "late"):
        with pytest.raises(UntrustedError):
            pull(place.store, artifact.name, tmp_path / local)
    pushed = push_artifact(place.store, artifact)
    assert (pushed.published, pushed.signed, pushed.sent_bytes) == (False, True, 0)
    for local, was_there in (("early", True), ("late", False)):
        pulled = pull(place.store, artifact.name, tmp_path / local)
        assert (pulled.already_there, pulled.signatures) == (was_there, 1)
        assert signers(pulled.path, keys) == {"one"}
        assert verify_artifact(pulled.path, "full").status == "ok"
        assert pull(place.store, artifact.name, tmp_path / local).signatures == 0
    assert not push_artifact(place.store, artifact).signed
    assert place.store.keys() == [artifact.name]


def test_several_signers_add_up(place: Place, tmp_path: Path) -> None:
    """Each from a machine of its own, at once, the first with the artifact itself."""
    keys, artifact = tmp_path / "keys", make_artifact(tmp_path / "a")
    sign(artifact, keys, "first")
    push_artifact(place.store, artifact)
    others = [pull(place.store, artifact.name, tmp_path / f"m{n}").path for n in range(3)]
    for number, other in enumerate(others):
        sign(other, keys, f"other{number}")
    with ThreadPoolExecutor(3) as pool:
        pushed = list(pool.map(lambda path: push_artifact(place.store, path), others))
    assert [one.signed for one in pushed] == [True] * 3
    pulled = pull(place.store, artifact.name, tmp_path / "z")
    assert pulled.signatures == 3
    assert signers(pulled.path, keys) == {"first", "other0", "other1", "other2"}
    assert pull(place.store, artifact.name, tmp_path / "m0").signatures == 2
    again = push_artifact(place.store, pulled.path)
    assert again.signed, "one envelope with all of them is another than each"
    assert pull(place.store, artifact.name, tmp_path / "z").signatures == 0


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{",
        b"[]",
        b'{"signatures": []}',
        b"x" * (MAX_SIGNATURE_BYTES + 1),
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "e30=", "signatures": []}',
    ],
    ids=["empty", "cut", "list", "no payload", "large", "other payload"],
)
def test_what_is_no_signature_of_it_spoils_nothing(
    place: Place, tmp_path: Path, junk: bytes
) -> None:
    keys, artifact = tmp_path / "keys", make_artifact(tmp_path / "a")
    push_artifact(place.store, artifact)
    sign(artifact, keys, "one")
    place.store.add_signature(artifact.name, junk)
    push_artifact(place.store, artifact)
    pulled = pull(place.store, artifact.name, tmp_path / "b")
    assert (pulled.signatures, signers(pulled.path, keys)) == (1, {"one"})


def test_any_number_of_them_is_bounded(tmp_path: Path) -> None:
    store = open_url(f"file://{tmp_path}/remote")
    keys, artifact = tmp_path / "keys", make_artifact(tmp_path / "a")
    push_artifact(store, artifact)
    sign(artifact, keys, "one")
    envelope = (artifact / SIGNATURE_NAME).read_bytes()
    for number in range(120):
        store.add_signature(artifact.name, envelope + b" " * (number + 1) * 1000)
    assert len(store.signatures(artifact.name)) == 100
    pulled = pull(store, artifact.name, tmp_path / "b")
    assert signers(pulled.path, keys) == {"one"}
    assert len((pulled.path / SIGNATURE_NAME).read_bytes()) < 2 * len(envelope)


def test_of_another_build_it_is_not_added(place: Place, tmp_path: Path) -> None:
    keys, artifact = tmp_path / "keys", make_artifact(tmp_path / "a")
    other = make_artifact(tmp_path / "b", model={"name": "other", "revision": None})
    assert artifact.name == other.name
    push_artifact(place.store, artifact)
    sign(other, keys, "one")
    events: list[Event] = []
    assert not push_artifact(place.store, other, observe=events.append).signed
    assert ["another build" in e.text for e in events if isinstance(e, Note)] == [True]
    assert place.store.signatures(artifact.name) == []
    sign(artifact, keys, "two")
    push_artifact(place.store, artifact)
    assert pull(place.store, other.name, tmp_path / "b").signatures == 0
    assert signers(other, keys) == {"one"}


class _Failing:
    """A store whose signatures cannot be listed, as one that permits no listing."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def signatures(self, key: str) -> list[bytes]:
        raise RemoteError("no listing here")


def test_a_store_that_lists_nothing_still_gives_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_url(f"file://{tmp_path}/remote")
    keys, artifact = tmp_path / "keys", make_artifact(tmp_path / "a")
    push_artifact(store, artifact)
    failing = _Failing(store)
    for was_there in (False, True):
        events: list[Event] = []
        pulled = pull(failing, artifact.name, tmp_path / "b", events)  # type: ignore[arg-type]
        assert pulled.already_there is was_there
        troubles = [e.text for e in events if isinstance(e, Note) and e.is_trouble]
        assert ["no listing here" in text for text in troubles] == [True]
    sign(artifact, keys, "one")
    push_artifact(store, artifact)
    require(monkeypatch, keys, "one")
    for local in ("b", "c"):
        with pytest.raises(UntrustedError):
            pull(failing, artifact.name, tmp_path / local)  # type: ignore[arg-type]
    assert pull(store, artifact.name, tmp_path / "c").signatures == 1


@pytest.mark.parametrize("place", ["file", "s3"], indirect=True)
def test_collecting_leaves_those_of_artifacts_and_takes_the_others(
    place: Place, tmp_path: Path
) -> None:
    store = place.store
    assert isinstance(store, CasStore)
    keys, artifact = tmp_path / "keys", make_artifact(tmp_path / "a")
    push_artifact(store, artifact)
    sign(artifact, keys, "one")
    push_artifact(store, artifact)
    store.add_signature("0" * 64, b"left")
    assert collect_remote(store).removed == 0  # too young
    assert collect_remote(store, grace=-3600.0).removed == 1
    assert store.signatures("0" * 64) == []
    assert len(store.signatures(artifact.name)) == 1
    store.objects.delete(f"artifacts/{artifact.name}.json")
    collect_remote(store, grace=-3600.0)
    assert list(store.objects.list(SIGNATURES)) == []


def test_a_store_of_before_is_read_and_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden layout: a store whose artifact was signed with key `old` before it was pushed."""
    remote = Path(shutil.copytree(OLD / "store", tmp_path / "remote"))
    store, keys = open_url(f"file://{remote}"), tmp_path / "keys"
    keys.mkdir()
    shutil.copyfile(OLD / "old.pub", keys / "old.pub")
    before = _files(remote)
    (key,) = store.keys()
    require(monkeypatch, keys, "old")
    pulled = pull(store, key, tmp_path / "a")
    assert (pulled.signatures, signers(pulled.path, keys)) == (0, {"old"})
    assert verify_artifact(pulled.path, "full").status == "ok"
    assert not push_artifact(store, pulled.path).signed
    assert _files(remote) == before
    sign(pulled.path, keys, "new")
    assert push_artifact(store, pulled.path).signed
    after = _files(remote)
    assert {name: after[name] for name in before} == before, "what an older release reads, stays"
    assert [name.split("/")[0] for name in after.keys() - before.keys()] == ["signatures"]
    assert signers(pull(store, key, tmp_path / "b").path, keys) == {"old", "new"}


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
