"""Archives and remote manifests of strangers: nothing outside, nothing that is not whole."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_artifacts.artifact import SIDECARS, verify_artifact
from neuron_artifacts.errors import CorruptError, IncompatibleError, RefusedError, UsageError
from neuron_artifacts.remote import export_artifact, import_artifact
from neuron_artifacts.remote.manifest import RemoteManifest, Sidecar, parse_remote_manifest
from tests.fuzz.inputs import JSON, NASTY_TEXT, changed, damaged, fuzz, refusing
from tests.remote.samples import local_store, make_artifact

Member = tuple[str, bytes, int, bytes]
"""Name, type, size that the header states, and bytes that follow."""

TYPES = st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
                         tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.XHDTYPE,
                         tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
                         tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"V", b"\x00"])  # fmt: skip
SIZES = st.sampled_from([0, 1, 511, 512, 513, 1 << 20, 1 << 33, 1 << 62]) | st.integers(0, 4096)


class Archive:
    """A sound archive, taken apart; each example is imported into a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artifact = make_artifact(folder / "a", shards=2, shard_bytes=600)
        export_artifact(self.artifact, folder / "good.tar")
        self.data = (folder / "good.tar").read_bytes()
        with tarfile.open(folder / "good.tar") as archive:
            self.members: list[Member] = [
                (m.name, m.type, m.size, archive.extractfile(m).read())  # type: ignore[union-attr]
                for m in archive
            ]

    def check(self, data: bytes) -> None:
        """Import it: refused, or whole; and nothing appears beside the store."""
        here = self.folder / "store"
        shutil.rmtree(here, ignore_errors=True)
        bad = self.folder / "bad.tar"
        bad.write_bytes(data)
        before = self._outside(here)
        store = local_store(here)
        with refusing(CorruptError, IncompatibleError, RefusedError, UsageError):
            import_artifact(bad, store)
        assert self._outside(here) == before
        for path in store.directories():
            verdict = verify_artifact(path, "full")
            assert verdict.status == "ok"
            assert verdict.manifest
            listed = {*SIDECARS, *(file.path for file in verdict.manifest.files)}
            found = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
            assert found <= listed
            assert not any(p.is_symlink() for p in path.rglob("*"))

    def _outside(self, here: Path) -> set[Path]:
        return {path for path in self.folder.rglob("*") if here not in (path, *path.parents)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return Archive(tmp_path_factory.mktemp("archive"))


@fuzz
@given(data=st.data())
def test_damaged_archives(archive: Archive, data: st.DataObject) -> None:
    archive.check(data.draw(damaged(archive.data)))


@fuzz
@given(data=st.binary(max_size=2000) | st.binary(max_size=600).map(lambda b: b.ljust(1536, b"\0")))
def test_any_bytes(archive: Archive, data: bytes) -> None:
    archive.check(data)


@fuzz
@given(data=st.data())
def test_members_that_do_not_belong(archive: Archive, data: st.DataObject) -> None:
    members = list(archive.members)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(members) - 1))
        members[at : at + 1] = data.draw(_changes(members[at], archive))
        if not members:
            break
    archive.check(_tar(members))


@fuzz
@given(data=st.data())
def test_manifests_in_archives(archive: Archive, data: st.DataObject) -> None:
    name, kind, _, content = archive.members[0]
    changed_content = json.dumps(data.draw(changed(json.loads(content)))).encode()
    first = (name, kind, len(changed_content), changed_content)
    archive.check(_tar([first, *archive.members[1:]]))


@fuzz
@given(data=st.data())
def test_remote_manifests(archive: Archive, data: st.DataObject) -> None:
    sound = RemoteManifest(archive.members[0][3], (Sidecar("artifact.sig.json", 3, "0" * 64),))
    body = json.loads(sound.dump())
    body["references"] = {"1" * 64: {"repo": "o/m", "revision": "0" * 40, "path": "a/b"}}
    written = json.dumps(data.draw(changed(body) | JSON)).encode()
    raw = data.draw(st.just(written) | damaged(written))
    with refusing(CorruptError, IncompatibleError):
        found = parse_remote_manifest(raw, archive.artifact.name, "there")
        assert found.artifact.key == archive.artifact.name
        assert all(sidecar.path in SIDECARS for sidecar in found.sidecars)
        assert not any(".." in reference.path for reference in found.references.values())


@st.composite
def _changes(draw: st.DrawFn, member: Member, archive: Archive) -> list[Member]:
    name, kind, size, content = member
    folder = archive.members[0][0].partition("/")[0]
    names = NASTY_TEXT | NASTY_TEXT.map(lambda text: f"{folder}/{text}") | st.text(max_size=300)
    how = draw(st.sampled_from(["drop", "double", "rename", "retype", "resize", "insert", "other"]))
    others: dict[str, list[Member]] = {
        "drop": [],
        "double": [member, member],
        "rename": [(draw(names), kind, size, content)],
        "retype": [(name, draw(TYPES), size, content)],
        "resize": [(name, kind, draw(SIZES), content)],
        "insert": [(draw(names), draw(TYPES), draw(SIZES), draw(st.binary(max_size=64))), member],
        "other": [(name, kind, size, draw(damaged(content)))],
    }
    return others[how]


def _tar(members: list[Member]) -> bytes:
    out = io.BytesIO()
    for name, kind, size, content in members:
        info: Any = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, size, "/etc/passwd"
        out.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogatepass"))
        out.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    return out.getvalue() + bytes(2 * tarfile.BLOCKSIZE)
