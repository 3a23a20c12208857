from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import MANIFEST_NAME, read_manifest, verify, verify_artifact
from neuron_artifacts.errors import (
    CorruptError,
    ExitCode,
    IncompatibleError,
    IncompleteError,
    MissError,
    StoreError,
)
from tests.artifact.artifacts import publish
from tests.limits import no_descriptors


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return publish(tmp_path)


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_whole_artifact_is_ok(artifact: Path) -> None:
    for depth in ("quick", "full"):
        verdict = verify_artifact(artifact, depth)  # type: ignore[arg-type]
        assert (verdict.status, verdict.exit_code, verdict.problems) == ("ok", ExitCode.OK, ())


@pytest.mark.parametrize("name", ["graphs/a.so", "weights/model.safetensors", "config.json"])
@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (lambda path: path.unlink(), "incomplete"),
        (lambda path: overwrite(path, b""), "corrupt"),
        (lambda path: overwrite(path, path.read_bytes()[: path.stat().st_size // 2]), "corrupt"),
        (lambda path: overwrite(path, path.read_bytes()[:-1]), "corrupt"),
        (lambda path: overwrite(path, path.read_bytes() + b"\0"), "corrupt"),
    ],
)
def test_quick_sees_missing_and_resized_files(
    artifact: Path, name: str, damage: Callable[[Path], None], status: str
) -> None:
    damage(artifact / name)
    verdict = verify_artifact(artifact, "quick")
    assert verdict.status == status
    assert verdict.exit_code == ExitCode.CORRUPT
    assert verdict.problems[0].startswith(name)
    assert verdict.bad_files == {name}


@pytest.mark.parametrize("name", ["graphs/a.so", "weights/model.safetensors", "config.json"])
def test_full_sees_every_flipped_bit(artifact: Path, name: str) -> None:
    original = (artifact / name).read_bytes()
    for at in range(len(original)):
        damaged = bytearray(original)
        damaged[at] ^= 1 << (at % 8)
        overwrite(artifact / name, bytes(damaged))
        assert verify_artifact(artifact, "full").status == "corrupt", at


def test_a_remembered_digest_does_not_hide_a_change(artifact: Path, tmp_path: Path) -> None:
    digests = DigestCache(tmp_path / "digests")
    assert verify_artifact(artifact, "full", digests=digests).status == "ok"
    data = bytearray((artifact / "graphs/a.so").read_bytes())
    data[-1] ^= 1
    overwrite(artifact / "graphs/a.so", bytes(data))
    assert verify_artifact(artifact, "full", digests=digests).status == "corrupt"


@pytest.mark.parametrize(
    ("make", "status", "error"),
    [
        (lambda path: shutil.rmtree(path), "missing", MissError),
        (lambda path: (shutil.rmtree(path), path.mkdir()), "missing", MissError),
        (lambda path: (path / MANIFEST_NAME).unlink(), "incomplete", IncompleteError),
        (lambda path: overwrite(path / MANIFEST_NAME, b"{"), "corrupt", CorruptError),
    ],
)
def test_without_a_manifest(
    artifact: Path, make: Callable[[Path], None], status: str, error: type[Exception]
) -> None:
    make(artifact)
    verdict = verify_artifact(artifact, "full")
    assert verdict.status == status
    assert type(verdict.error()) is error


def test_what_vllm_compiled_is_pointed_to_adopt(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    hint = verify_artifact(tmp_path).hint
    assert hint
    assert "adopt" in hint


def test_links_are_refused(artifact: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    shutil.move(artifact / "graphs", target)
    (artifact / "graphs").symlink_to(target)
    verdict = verify_artifact(artifact, "full")
    assert verdict.status == "corrupt"
    assert "symbolic link" in verdict.problems[0]


def test_extra_files_are_named_but_harmless(artifact: Path) -> None:
    (artifact / "notes.txt").write_text("mine")
    verdict = verify_artifact(artifact, "quick")
    assert (verdict.status, verdict.extra_files) == ("ok", ("notes.txt",))


@pytest.mark.parametrize(
    "name",
    ["chat_template.jinja", "generation_config.json", "additional_chat_templates/a.jinja"],
)
def test_what_is_read_wherever_it_lies_must_be_listed(artifact: Path, name: str) -> None:
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_text("{}")
    verdict = verify_artifact(artifact, "quick")
    assert (verdict.status, verdict.extra_files) == ("corrupt", (name,))
    assert verdict.problems == (f"{name} would be read, and the manifest does not list it",)


def test_a_link_to_a_folder_of_templates_must_be_listed(artifact: Path, tmp_path: Path) -> None:
    (artifact / "additional_chat_templates").symlink_to(tmp_path)
    (artifact / "elsewhere").symlink_to(tmp_path)
    verdict = verify_artifact(artifact)
    assert verdict.status == "corrupt"
    assert verdict.extra_files == ("additional_chat_templates", "elsewhere")


@pytest.mark.parametrize("name", ["artifact.provenance.json", "artifact.sig.json"])
@pytest.mark.parametrize("what", ["a link", "a folder", "a pipe"])
def test_what_lies_beside_the_manifest_is_plain_files(
    artifact: Path, tmp_path: Path, name: str, what: str
) -> None:
    """They are pushed and exported: a stranger's must not be somebody's credentials."""
    (tmp_path / "credentials").write_text("secret")
    if what == "a link":
        (artifact / name).symlink_to(tmp_path / "credentials")
    elif what == "a folder":
        (artifact / name).mkdir()
    else:
        os.mkfifo(artifact / name)
    verdict = verify_artifact(artifact)
    assert (verdict.status, verdict.problems) == ("corrupt", (f"{name} is no plain file",))


def test_off_reads_the_manifest_alone(artifact: Path) -> None:
    shutil.rmtree(artifact / "graphs")
    assert verify_artifact(artifact, "quick").status == "incomplete"
    verdict = verify_artifact(artifact, "off", check_host=lambda _manifest: ["no avx512"])
    assert verdict.status == "incompatible"
    assert verify_artifact(artifact, "off").status == "ok"
    (artifact / "artifact.json").unlink()
    assert verify_artifact(artifact, "off").status == "incomplete"


def test_what_the_host_lacks_makes_it_incompatible(artifact: Path) -> None:
    verdict = verify_artifact(artifact, check_host=lambda _manifest: ["no avx512"])
    assert (verdict.status, verdict.exit_code) == ("incompatible", ExitCode.INCOMPATIBLE)
    assert isinstance(verdict.error(), IncompatibleError)


def test_damage_is_graver_than_absence(artifact: Path) -> None:
    (artifact / "config.json").unlink()
    overwrite(artifact / "graphs/a.so", b"short")
    verdict = verify_artifact(artifact)
    assert verdict.status == "corrupt"
    assert [problem.split()[0] for problem in verdict.problems] == ["graphs/a.so", "config.json"]


def test_what_cannot_be_opened_is_not_called_damaged(artifact: Path) -> None:
    with no_descriptors():
        verdict = verify_artifact(artifact, "full")
    assert (verdict.status, verdict.exit_code) == ("unreadable", ExitCode.ERROR)
    assert "cannot be read: Too many open files" in verdict.problems[0]
    assert type(verdict.error()) is StoreError
    with no_descriptors(), pytest.raises(StoreError):
        read_manifest(artifact)


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.EIO, "unreadable"), (errno.EACCES, "unreadable"), (errno.ESTALE, "unreadable"),
     (errno.EISDIR, "corrupt"), (errno.ELOOP, "corrupt"), (errno.ENOENT, "incomplete")],
)  # fmt: skip
def test_what_fails_while_it_is_read(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: str
) -> None:
    def fail(path: Path, _on_bytes: object) -> str:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(verify, "hash_file", fail)
    verdict = verify_artifact(artifact, "full")
    assert verdict.status == status
    assert verdict.bad_files == {"graphs/a.so", "weights/model.safetensors", "config.json"}


def test_damage_is_graver_than_what_cannot_be_read(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, _on_bytes: object) -> str:
        if path.name == "a.so":
            return "0" * 64
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(verify, "hash_file", fail)
    (artifact / "config.json").unlink()
    verdict = verify_artifact(artifact, "full")
    assert verdict.status == "corrupt"
    assert [problem.split()[0] for problem in verdict.problems] == [
        "graphs/a.so", "config.json", "weights/model.safetensors",
    ]  # fmt: skip


def test_a_manifest_that_cannot_be_had_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        MissError, match=re.escape(f"{tmp_path / 'absent'}: there is no")
    ) as missing:
        read_manifest(tmp_path / "absent")
    assert "`neuron-artifacts list`" in (missing.value.hint or "")
    (tmp_path / "config.json").touch()
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(IncompleteError, match=re.escape(f"{tmp_path}: it has no")) as model:
        read_manifest(tmp_path)
    assert f"neuron-artifacts compile {tmp_path}" in (model.value.hint or "")
    assert verify_artifact(tmp_path).hint == model.value.hint
