"""Export and import: the same bytes back, and nothing from archives that mean harm."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_artifacts.artifact import MANIFEST_NAME, verify_artifact
from neuron_artifacts.errors import (
    CorruptError,
    IncompleteError,
    MissError,
    StoreError,
    UsageError,
)
from neuron_artifacts.remote import export_artifact, import_artifact
from tests.remote.samples import local_store, make_artifact


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    made = make_artifact(tmp_path / "a", shards=2, shard_bytes=1000)
    (made / "artifact.sig.json").write_bytes(b'{"signatures": []}')
    return made


@pytest.mark.parametrize("name", [".", "", "absent/x.tar"])
def test_a_folder_is_no_file_to_export_to(artifact: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="folder"):
        export_artifact(artifact, tmp_path / name)


def test_a_bare_name_is_a_file_in_this_folder(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export_artifact(artifact, Path("x.tar"))
    assert (tmp_path / "x.tar").is_file()


def test_what_goes_out_comes_in(artifact: Path, tmp_path: Path) -> None:
    exported = export_artifact(artifact, tmp_path / "x.tar")
    imported = import_artifact(tmp_path / "x.tar", local_store(tmp_path / "b"))
    assert (exported.key, exported.bytes) == (imported.key, imported.bytes)
    assert verify_artifact(imported.path, "full").status == "ok"
    for path in artifact.rglob("*"):
        if path.is_file():
            assert (imported.path / path.relative_to(artifact)).read_bytes() == path.read_bytes()
    again = import_artifact(tmp_path / "x.tar", local_store(tmp_path / "b"))
    assert again.already_there


def test_the_same_artifact_gives_the_same_bytes(artifact: Path, tmp_path: Path) -> None:
    export_artifact(artifact, tmp_path / "x.tar")
    export_artifact(artifact, tmp_path / "y.tar")
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


def test_tar_unpacks_an_artifact(artifact: Path, tmp_path: Path) -> None:
    export_artifact(artifact, tmp_path / "x.tar")
    (tmp_path / "t").mkdir()
    subprocess.run(["tar", "xf", tmp_path / "x.tar", "-C", tmp_path / "t"], check=True)
    assert verify_artifact(tmp_path / "t" / artifact.name[:16], "full").status == "ok"


def test_a_name_longer_than_a_header_holds(tmp_path: Path) -> None:
    from tests.artifact.artifacts import ELF, make_document, make_manifest

    store, key, name = local_store(tmp_path / "a"), make_document(), f"{'d' * 90}/{'f' * 150}"
    with store.stage(key.key) as staging:
        staging.write("graphs/a.so", ELF, "graph")
        staging.write(name, b"far away", "model")
        assert staging.publish(make_manifest(key, staging.files), store.path(key.key))
    export_artifact(store.path(key.key), tmp_path / "x.tar")
    imported = import_artifact(tmp_path / "x.tar", local_store(tmp_path / "b"))
    assert (imported.path / name).read_bytes() == b"far away"


def test_a_damaged_artifact_is_not_exported(artifact: Path, tmp_path: Path) -> None:
    weights = artifact / "weights/1.safetensors"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptError):
        export_artifact(artifact, tmp_path / "x.tar")
    assert not list(tmp_path.glob("*x.tar*"))
    with pytest.raises(MissError):
        export_artifact(tmp_path / "nothing", tmp_path / "x.tar")


Members = list[tuple[tarfile.TarInfo, bytes]]


def _member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def _rename(members: Members, at: int, name: str) -> Members:
    _, data = members[at]
    return [*members[:at], _member(name, data), *members[at + 1 :]]


def _flip(members: Members) -> Members:
    info, data = members[-1]
    return [*members[:-1], (info, data[:-1] + bytes([data[-1] ^ 1]))]


HOSTILE: dict[str, Callable[[Members], Members]] = {
    "absolute name": lambda m: [*m, _member("/etc/x", b"x")],
    "way up": lambda m: [*m, _member("../x", b"x")],
    "way up within the folder": lambda m: [*m, _member(f"{_folder(m)}../../x", b"x")],
    "another name for a listed file": lambda m: _rename(m, -1, f"{_folder(m)}./{m[-1][0].name}"),
    "symbolic link": lambda m: [
        m[0], _member(m[1][0].name, type=tarfile.SYMTYPE, linkname="/etc/passwd"), *m[2:]
    ],
    "hard link": lambda m: [*m, _member("x", type=tarfile.LNKTYPE, linkname=m[0][0].name)],
    "device": lambda m: [*m, _member("x", type=tarfile.CHRTYPE, devmajor=1, devminor=5)],
    "fifo": lambda m: [*m, _member("x", type=tarfile.FIFOTYPE)],
    "directory": lambda m: [*m, _member("x", type=tarfile.DIRTYPE)],
    "sparse file": lambda m: [m[0], _member(m[1][0].name, type=tarfile.GNUTYPE_SPARSE), *m[2:]],
    "extended header": lambda m: [_member("x", b"20 path=/etc/passwd\n", type=b"x"), *m],
    "twice": lambda m: [*m, m[-1]],
    "the manifest twice": lambda m: [*m, m[0]],
    "unlisted": lambda m: [*m, _member(f"{_folder(m)}run.sh", b"#!")],
    "other bytes": _flip,
    "more bytes": lambda m: [*m[:-1], _member(m[-1][0].name, m[-1][1] + b"x")],
    "a huge size": lambda m: [*m[:-1], _member(m[-1][0].name, b"", size=1 << 60)],
    "a huge name": lambda m: [*m, _member("x", b"", type=tarfile.GNUTYPE_LONGNAME, size=1 << 40)],
    "a huge manifest": lambda m: [_member(m[0][0].name, b"", size=1 << 50)],
    "a huge signature": lambda m: [
        *m, _member(f"{_folder(m)}artifact.provenance.json", b"", size=1 << 50)
    ],
    "no manifest first": lambda m: [*m[1:], m[0]],
    "another key's folder": lambda m: [
        _member(f"{'0' * 16}/{info.name.partition('/')[2]}", data) for info, data in m
    ],
    "not a manifest": lambda m: [_member(m[0][0].name, b"{}"), *m[1:]],
    "one file less": lambda m: m[:-1],
    "nothing": lambda _: [],
}  # fmt: skip


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_archive_leaves_nothing(artifact: Path, tmp_path: Path, how: str) -> None:
    _write(tmp_path / "bad.tar", HOSTILE[how](_members(artifact, tmp_path)))
    here = local_store(tmp_path / "deep/er/b")
    before = {p for p in tmp_path.rglob("*") if "deep" not in p.parts}
    with pytest.raises(CorruptError):
        import_artifact(tmp_path / "bad.tar", here)
    assert {p for p in tmp_path.rglob("*") if "deep" not in p.parts} == before
    left = [p for p in (tmp_path / "deep").rglob("*") if p.is_file()]
    # What this store remembers of files it has hashed is its own, and no part of the archive.
    assert [p for p in left if p.parent.name != "digests"] == []


@pytest.mark.parametrize("compress", ["gz", "bz2", "xz"])
def test_nothing_is_decompressed(artifact: Path, tmp_path: Path, compress: str) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, f"w:{compress}") as archive:  # type: ignore[call-overload]
        archive.add(artifact, artifact.name)
    with pytest.raises(CorruptError, match="no tar file"):
        import_artifact(path, local_store(tmp_path / "b"))


def test_every_truncation_is_noticed(artifact: Path, tmp_path: Path) -> None:
    export_artifact(artifact, tmp_path / "x.tar")
    data = (tmp_path / "x.tar").read_bytes()
    for length in range(0, len(data) - 1024, 389):
        (tmp_path / "cut.tar").write_bytes(data[:length])
        with pytest.raises(IncompleteError):
            import_artifact(tmp_path / "cut.tar", local_store(tmp_path / "b"))
    assert not local_store(tmp_path / "b").directories()


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        import_artifact(tmp_path / "none.tar", local_store(tmp_path))
    with pytest.raises(UsageError, match="cannot be read"):
        import_artifact(tmp_path, local_store(tmp_path))


def test_what_is_not_ours_stays(artifact: Path, tmp_path: Path) -> None:
    export_artifact(artifact, tmp_path / "x.tar")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="something else"):
        import_artifact(tmp_path / "x.tar", local_store(tmp_path / "b"), destination=mine)
    assert (mine / "thesis.txt").read_text() == "years of work"


def _members(artifact: Path, tmp_path: Path) -> Members:
    export_artifact(artifact, tmp_path / "good.tar")
    with tarfile.open(tmp_path / "good.tar") as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    assert members[0][0].name.endswith(MANIFEST_NAME)
    return members


def _folder(members: Members) -> str:
    return members[0][0].name.partition("/")[0] + "/"


def _write(path: Path, members: Members) -> None:
    out = io.BytesIO()
    for info, data in members:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.write(data + bytes(-len(data) % 512))
    path.write_bytes(out.getvalue() + bytes(1024))
