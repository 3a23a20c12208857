"""Checkpoint folders, whole and not."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_artifacts.errors import ModelFormatError, ModelNotFoundError
from neuron_artifacts.model.snapshot import MAX_JSON_BYTES, ModelFile, read_folder
from tests.model.checkpoints import CONFIG, lay, sharded, single, tensors
from tests.models import copy_model

FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
INDEX = "model.safetensors.index.json"


def test_a_single_file(tmp_path: Path) -> None:
    snapshot = read_folder(lay(tmp_path / "tiny", single() | {"notes.txt": b"mine"}))
    assert (snapshot.name, snapshot.revision, snapshot.index) == ("tiny", None, None)
    assert snapshot.source == str(tmp_path / "tiny")
    assert snapshot.config == CONFIG
    assert [file.name for file in snapshot.weight_files] == ["model.safetensors"]
    assert [file.name for file in snapshot.asset_files] == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert snapshot.weight_bytes == len(single()["model.safetensors"])
    assert {name: info.shape for name, info in snapshot.all_tensors.items()} == {
        "a": (2, 3),
        "b": (4,),
    }


def test_shards(tmp_path: Path) -> None:
    files = sharded()
    snapshot = read_folder(lay(tmp_path, files), name="org/name", revision="c0ffee")
    assert (snapshot.source, snapshot.revision) == ("org/name", "c0ffee")
    assert [file.name for file in snapshot.weight_files] == [FIRST, SECOND]
    assert {file: set(header) for file, header in snapshot.tensors.items()} == {
        FIRST: {"a"},
        SECOND: {"b"},
    }
    for file in snapshot.weight_files:
        assert snapshot.sha256(file) == hashlib.sha256(files[file.name]).hexdigest()


def test_known_digests_are_taken_over(tmp_path: Path) -> None:
    snapshot = read_folder(lay(tmp_path, single()), known={"model.safetensors": "f" * 64})
    (file,) = snapshot.weight_files
    assert snapshot.sha256(file) == "f" * 64


def test_a_digest_is_taken_once_a_snapshot(tmp_path: Path) -> None:
    snapshot = read_folder(lay(tmp_path, single()))
    (file,) = snapshot.weight_files
    assert file.path
    first = snapshot.sha256(file)
    file.path.write_bytes(tensors(fill=9, a=(2, 3), b=(4,)))
    assert snapshot.sha256(file) == first


def test_a_file_that_is_elsewhere_has_no_digest(tmp_path: Path) -> None:
    snapshot = read_folder(lay(tmp_path, single()))
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        snapshot.sha256(ModelFile("far.safetensors", 1, None))


def test_links_out_of_a_folder_are_followed(tmp_path: Path) -> None:
    lay(tmp_path / "disk", single())
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in single():
        (linked / name).symlink_to(tmp_path / "disk" / name)
    assert read_folder(linked).tensors == read_folder(tmp_path / "disk").tensors
    (tmp_path / "alias").symlink_to(tmp_path / "disk")
    assert read_folder(tmp_path / "alias").name == "disk"


SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "vocab.json", "merges.txt", "chat_template.jinja",
     "additional_chat_templates/a.jinja"],
)  # fmt: skip
@pytest.mark.parametrize("through", ["a link", "links", "a relative link"])
def test_links_to_what_has_another_name_are_not(tmp_path: Path, name: str, through: str) -> None:
    """A repository that was cloned may name any file of whoever compiles it."""
    (tmp_path / "id_ed25519").write_bytes(SECRET)
    root = lay(tmp_path / "model", single())
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).unlink(missing_ok=True)
    target: Path | str = tmp_path / "id_ed25519"
    if through == "a relative link":
        target = os.path.relpath(tmp_path / "id_ed25519", (root / name).parent)
    if through == "links":
        (root / "innocent").symlink_to(target)
        target = root / "innocent"
    (root / name).symlink_to(target)
    with pytest.raises(ModelFormatError, match="link out of the folder"):
        read_folder(root)


def test_an_index_is_not_read_through_such_a_link_either(tmp_path: Path) -> None:
    root = lay(tmp_path / "model", sharded())
    (root / INDEX).rename(tmp_path / "other.json")
    (root / INDEX).symlink_to(tmp_path / "other.json")
    with pytest.raises(ModelFormatError, match="link out of the folder"):
        read_folder(root)


def test_links_within_a_folder_are_followed(tmp_path: Path) -> None:
    root = lay(tmp_path / "model", {**single(), "merges.txt": b"x"})
    (root / "other").write_bytes(b"y")
    (root / "vocab.json").symlink_to("other")
    assert "vocab.json" in {file.name for file in read_folder(root).asset_files}


@pytest.mark.parametrize("shared", [False, True])
def test_the_hubs_cache_is_links_and_no_way_out(tmp_path: Path, shared: bool) -> None:
    """Entries of a cache that others can write are strangers' too."""
    repository = tmp_path / "hub" / "models--o--m"
    root = repository / "snapshots" / ("0" * 40)
    blobs = lay(tmp_path / "hub" / "blobs" if shared else repository / "blobs", single())
    root.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for name in single():
        blob = repository / "blobs" / f"etag-of-{name}"
        if shared:
            blob.symlink_to(blobs / name)
        else:
            (blobs / name).rename(blob)
        (root / name).symlink_to(Path("../../blobs") / blob.name)
    assert read_folder(root).weight_files
    (tmp_path / "id_ed25519").write_bytes(SECRET)
    (repository / "blobs" / "hostile").symlink_to(tmp_path / "id_ed25519")
    (root / "vocab.json").symlink_to("../../blobs/hostile")
    with pytest.raises(ModelFormatError, match="link out of the folder"):
        read_folder(root)


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(data) and None


def _remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def _cut(name: str, to: int | float) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        size = (root / name).stat().st_size
        os.truncate(root / name, size + to if to < 0 else int(size * to))

    return change


def _point(weight_map: object) -> Callable[[Path], None]:
    return _write(INDEX, json.dumps({"weight_map": weight_map}).encode())


def _dangle(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).unlink()
        (root / name).symlink_to(root / "gone")

    return change


def _folder(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).unlink()
        (root / name).mkdir()

    return change


def _oversize(name: str) -> Callable[[Path], None]:
    return lambda root: os.truncate(root / name, MAX_JSON_BYTES + 1)


BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("no config", _remove("config.json"), r"has no config\.json"),
    ("config is a dangling link", _dangle("config.json"), r"has no config\.json"),
    ("config is a folder", _folder("config.json"), "cannot be read: Is a directory"),
    ("config is empty", _cut("config.json", 0), "not usable JSON"),
    ("config is half", _cut("config.json", 0.5), "not usable JSON"),
    ("config lacks a byte", _cut("config.json", -1), "not usable JSON"),
    ("config is a list", _write("config.json", b"[1]"), "not a JSON object"),
    ("config is a number", _write("config.json", b"1"), "not a JSON object"),
    ("config has NaN", _write("config.json", b'{"a": NaN}'), "NaN is not JSON"),
    ("config has -Infinity", _write("config.json", b'{"a": -Infinity}'), "is not JSON"),
    ("config overflows", _write("config.json", b'{"a": 1e999}'), "1e999 is too large"),
    ("config repeats a name", _write("config.json", b'{"a": 1, "a": 2}'), "a name appears twice"),
    ("config is UTF-16", _write("config.json", '{"a": 1}'.encode("utf-16")), "not usable JSON"),
    ("config is deep", _write("config.json", b'{"a":' + b"[" * 200_000), "not usable JSON"),
    ("config has a huge number", _write("config.json", b'{"a": 1%b}' % (b"0" * 9999)), "JSON"),
    ("config is enormous", _oversize("config.json"), "larger than 64 MiB"),
    ("index is half", _cut(INDEX, 0.5), "not usable JSON"),
    ("index is a list", _write(INDEX, b"[]"), "not a JSON object"),
    ("index has no map", _write(INDEX, b"{}"), "no weight_map"),
    ("index is empty", _point({}), "no weight_map"),
    ("map is a list", _point([FIRST]), "no weight_map"),
    ("map to numbers", _point({"a": 1}), "is refused: '1'"),
    ("map to nothing", _point({"a": ""}), "is refused: ''"),
    ("map to null", _point({"a": None}), "is refused: 'None'"),
    ("map upwards", _point({"a": f"../{FIRST}"}), "is refused"),
    ("map upwards inside", _point({"a": f"x/../{FIRST}"}), "is refused"),
    ("map to an absolute name", _point({"a": f"/tmp/{FIRST}"}), "is refused"),
    ("map with backslashes", _point({"a": f"..\\{FIRST}"}), "is refused"),
    ("map to a drive", _point({"a": f"C:{FIRST}"}), "is refused"),
    ("map with a NUL", _point({"a": f"x\0{FIRST}"}), "is refused"),
    ("map with a line break", _point({"a": f"x\n{FIRST}"}), "is refused"),
    ("map to a pickle", _point({"a": "pytorch_model.bin"}), "is refused"),
    ("map to a missing file", _point({"a": "x.safetensors"}), r"lacks x\.safetensors"),
    ("map to the wrong file", _point({"a": SECOND, "b": FIRST}), "places 'a' in .* does not hold"),
    ("map of an unknown tensor", _point({"a": FIRST, "c": SECOND}), "places 'c' in"),
    ("a shard is missing", _remove(SECOND), f"lacks {SECOND}"),
    ("a shard is a dangling link", _dangle(SECOND), f"lacks {SECOND}"),
    ("a shard is a folder", _folder(SECOND), "cannot be read: Is a directory"),
    ("a shard is empty", _cut(SECOND, 0), "is 0 bytes long"),
    ("a shard is half", _cut(SECOND, 0.5), "cut short"),
    ("a shard lacks a byte", _cut(SECOND, -1), "cut short"),
    ("a tensor is in both", _write(SECOND, tensors(a=(1,), b=(4,))), "holds 'a' twice"),
    ("no weights", lambda root: [_remove(n)(root) for n in (INDEX, FIRST, SECOND)] and None,
     r"no weights: neither model\.safetensors nor"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_a_broken_folder(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    change(lay(tmp_path, sharded()))
    with pytest.raises(ModelFormatError, match=message) as caught:
        read_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    files = {name: data for name, data in single().items() if name != "model.safetensors"}
    lay(tmp_path, files | {"pytorch_model.bin": b"cos\nsystem\n"})
    with pytest.raises(ModelFormatError, match=r"pytorch_model\.bin, a pickle") as caught:
        read_folder(tmp_path)
    assert "safe_serialization" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["missing", "file"])
def test_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(ModelNotFoundError, match="is not a folder"):
        read_folder(tmp_path / name)


def test_named_chat_templates_belong_to_the_model(tmp_path: Path) -> None:
    copy_model(tmp_path / "m")
    folder = tmp_path / "m" / "additional_chat_templates"
    folder.mkdir()
    (folder / "tool_use.jinja").write_text("{{ messages }}")
    (folder / "notes.txt").write_text("not a template")
    names = [file.name for file in read_folder(tmp_path / "m").asset_files]
    assert "additional_chat_templates/tool_use.jinja" in names
    assert not any("notes" in name for name in names)
