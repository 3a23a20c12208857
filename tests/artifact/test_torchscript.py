from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_artifacts.artifact import torchscript
from neuron_artifacts.artifact.torchscript import read_torchscript
from neuron_artifacts.errors import CorruptError
from tests.artifact.neuron_files import make_model_pt, make_neff, write

REAL = Path(__file__).parent.parent / "data" / "torchscript" / "two-graphs.pt"


def test_neffs_of_a_file_that_torch_wrote() -> None:
    script = read_torchscript(REAL, full=True)
    assert [found.neff.header.name for found in script.neffs] == ["graph0", "graph1"]
    assert all(found.neff.core_programs == 1 for found in script.neffs)
    assert all("/data/" in found.member for found in script.neffs)
    for found in script.neffs:
        size = found.neff.header.file_size
        data = REAL.read_bytes()[found.offset : found.offset + size]
        # What gzip writes differs between releases of Python; what it holds does not.
        expected = make_neff(name=found.neff.header.name)
        assert gzip.decompress(data[1024:]) == gzip.decompress(expected[1024:])


@pytest.mark.parametrize("at", range(0, len(REAL.read_bytes()), 37))
def test_a_flipped_bit_in_any_member_of_it_is_seen(tmp_path: Path, at: int) -> None:
    """Padding, times and attributes are the only bytes that neither checksum nor name covers."""
    data = bytearray(REAL.read_bytes())
    data[at] ^= 0x10
    path = write(tmp_path / "model.pt", bytes(data))
    covered = any(
        entry.header_offset + 30 <= at < entry.header_offset + 30 + len(entry.filename)
        or _data_at(entry) <= at < _data_at(entry) + entry.compress_size
        for entry in zipfile.ZipFile(REAL).infolist()
    )
    if covered:
        with pytest.raises(CorruptError):
            read_torchscript(path, full=True)
    else:
        with suppress(CorruptError):
            read_torchscript(path, full=True)


def _data_at(entry: zipfile.ZipInfo) -> int:
    data = REAL.read_bytes()
    name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
    return int(entry.header_offset + 30 + name + extra)


@pytest.mark.parametrize("cut", [0, 1, 21, 22, 100, 1000, -1, -22, -100])
def test_a_cut_file_is_corrupt(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "model.pt", make_model_pt([make_neff()])[:cut])
    with pytest.raises(CorruptError):
        read_torchscript(path)


def test_quick_sees_headers_and_full_sees_every_byte(tmp_path: Path) -> None:
    neff = bytearray(make_neff())
    neff[1100] ^= 1
    path = write(tmp_path / "model.pt", make_model_pt([bytes(neff), make_neff(name="b")]))
    assert [f.neff.header.name for f in read_torchscript(path).neffs] == ["graph", "b"]
    with pytest.raises(CorruptError, match=r"NEFF in 'model/data\.pkl' that is a damaged NEFF"):
        read_torchscript(path, full=True)


def test_without_a_neff_it_is_an_archive_all_the_same(tmp_path: Path) -> None:
    script = read_torchscript(write(tmp_path / "model.pt", make_model_pt()), full=True)
    assert (script.members, script.neffs) == (5, ())


def zip_of(
    members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED, twice: bool = False
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"m/{name}", data)
        if twice:
            archive.filelist[-1].filename = archive.filelist[0].filename
    return out.getvalue()


NEEDED = {"data.pkl": b".", "constants.pkl": b".", "version": b"3\n"}


def patched(data: bytes, mark: bytes, at: int, value: bytes) -> bytes:
    """Every record that begins with ``mark``, some bytes changed."""
    out, place = bytearray(data), -1
    while (place := data.find(mark, place + 1)) >= 0:
        out[place + at : place + at + len(value)] = value
    return bytes(out)


def overlapping() -> bytes:
    """Two entries of the table that share one member: how a small file unpacks to a large one."""
    data = zip_of({**NEEDED, "a": b"x" * 100, "b": b"y" * 100})
    table = data.rindex(b"m/b") - 46
    first = struct.unpack_from("<I", data, data.rindex(b"m/a") - 46 + 42)[0]
    return data[: table + 42] + struct.pack("<I", first) + data[table + 46 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\3\4" + bytes(100), "no zip archive"),
        (zip_of({}), "has no data.pkl"),
        (zip_of({"data.pkl": b"", "version": b""}), "has no constants.pkl"),
        (zip_of(NEEDED, twice=True), "two members of one name"),
        (patched(zip_of(NEEDED), b"PK\1\2", 8, b"\1"), "encrypted"),
        (patched(zip_of(NEEDED), b"PK\1\2", 10, b"\x0c"), "a method that is not known"),
        (patched(zip_of(NEEDED), b"PK\1\2", 24, b"\xff\xff\xff"), "two sizes"),
        (patched(zip_of(NEEDED), b"PK\1\2", 20, b"\xff\xff\xff\0\xff\xff\xff\0"), "overlap|cut"),
        (patched(zip_of(NEEDED), b"PK\3\4", 0, b"XXXX"), "no member where"),
        (overlapping(), "overlap"),
    ],
)
def test_odd_archives_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "model.pt", data)
    with pytest.raises(CorruptError, match=message):
        read_torchscript(path)


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    size = torchscript.MAX_INFLATED_BYTES + 1
    data = zip_of({**NEEDED, "code/a.py": bytes(size)}, method=zipfile.ZIP_DEFLATED)
    assert len(data) < size // 500
    path = write(tmp_path / "model.pt", data)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError, match="would unpack"):
            read_torchscript(path, full=True)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_member_that_lies_about_its_size_is_damaged(tmp_path: Path) -> None:
    honest = zip_of({**NEEDED, "code/a.py": bytes(1 << 20)}, method=zipfile.ZIP_DEFLATED)
    small = struct.pack("<I", 1 << 20)
    lying = honest.replace(small, struct.pack("<I", 1000))
    with pytest.raises(CorruptError, match="damaged member"):
        read_torchscript(write(tmp_path / "model.pt", lying), full=True)


def test_an_absurd_table_of_contents_is_not_read(tmp_path: Path) -> None:
    size = torchscript.MAX_DIRECTORY_BYTES + 1000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0)
    path = write(tmp_path / "model.pt", bytes(size) + end)
    with pytest.raises(CorruptError, match="table of contents"):
        read_torchscript(path)


def test_there_may_not_be_countless_neffs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchscript, "MAX_NEFFS", 3)
    path = write(tmp_path / "model.pt", make_model_pt([make_neff()] * 4))
    with pytest.raises(CorruptError, match="more than 3"):
        read_torchscript(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(make_model_pt([make_neff()]))
    for _ in range(data.draw(st.integers(1, 6))):
        # The last kilobyte is where the table of contents lies: damage it more often.
        low = data.draw(st.sampled_from([0, len(raw) - 700]))
        raw[data.draw(st.integers(low, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    path.write_bytes(bytes(raw))
    with suppress(CorruptError):
        read_torchscript(path, full=True)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.pt"
    path.write_bytes(raw)
    with pytest.raises(CorruptError):
        read_torchscript(path, full=True)
