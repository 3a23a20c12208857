from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_artifacts.artifact import tar_stream
from neuron_artifacts.artifact.neff import find_neffs, parse_header, read_neff, read_neff_at
from neuron_artifacts.errors import CorruptError
from tests.artifact.neuron_files import BUILD, make_neff, make_tar, neff_members, write


@pytest.mark.parametrize("package", [1, 2])
@pytest.mark.parametrize("lnc", [1, 2])
def test_reads_what_the_header_says(tmp_path: Path, package: int, lnc: int) -> None:
    data = make_neff(package=package, lnc=lnc, name="token_generation")
    neff = read_neff(write(tmp_path / "a.neff", data), full=True)
    header = neff.header
    assert (header.package_version, header.version, header.build) == (package, "2.0", BUILD)
    assert (header.name, header.uuid) == ("token_generation", bytes(range(16)).hex())
    assert (header.lnc, header.cores, header.feature_bits) == (lnc, 1, 1 << 63)
    assert header.file_size == len(data)
    assert set(neff.members) == set(neff_members(lnc))
    assert neff.core_programs == lnc


def test_a_header_of_before_logical_cores_names_none() -> None:
    assert parse_header(make_neff(lnc=0)).lnc is None


def test_folders_and_leading_dots_are_no_part_of_a_name(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        folder = tarfile.TarInfo("./sg00/")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in ("./kelf-a.json", "./neff.json", "./sg00/" + "x" * 200):
            archive.addfile(tarfile.TarInfo(name))
    neff = make_neff(payload=gzip.compress(out.getvalue()))
    members = read_neff(write(tmp_path / "a", neff), full=True).members
    assert members == ("kelf-a.json", "neff.json", "sg00/" + "x" * 200)


def damaged(at: int) -> bytes:
    data = bytearray(make_neff())
    data[at] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too short"),
        (bytes(1023), "too short"),
        (bytes(2048), "no NEFF"),
        (struct.pack("<QQ", 3, 1024) + bytes(2000), "no NEFF"),
        (struct.pack("<QQ", 2, 512) + bytes(2000), "no NEFF"),
        (make_neff()[:-1], "cut short"),
        (make_neff() + b"\0", "too long"),
        (damaged(1100), "its md5 is not"),
        (damaged(180), "its md5 is not"),
        (make_neff(package=1)[:-1] + b"x", "its sha256 is not"),
        (make_neff(members={"neff.json": b""}), "without kelf-a.json"),
        (make_neff(payload=b""), "has no end"),
        (make_neff(payload=b"\x1f\x8b\x08 no gzip"), "archive is damaged"),
        (make_neff(payload=gzip.compress(make_tar(neff_members()))[:-9]), "ends early"),
        (make_neff(package=1, payload=make_tar(neff_members())[:700]), "ends inside a member"),
        (make_neff(package=1, payload=b"x" * 1024), "archive is damaged"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        read_neff(write(tmp_path / "a.neff", data), full=True)


def test_a_missing_file_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="cannot be read"):
        read_neff(tmp_path / "none.neff")


def zeros(size: int) -> bytes:
    """A small archive with one member of ``size`` zeros."""
    entry = tarfile.TarInfo("zeros")
    entry.size = size
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as packed:
        packed.write(entry.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size >> 20):
            packed.write(bytes(1 << 20))
        packed.write(bytes(1024))
    return out.getvalue()


def huge_name(kind: bytes, size: int) -> bytes:
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = kind, size
    return gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096))


def many_members(count: int) -> bytes:
    block = tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)
    return gzip.compress(block * count + bytes(1024))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (lambda: zeros(300 << 20), "unpacks to more than"),
        (lambda: huge_name(tarfile.GNUTYPE_LONGNAME, 1 << 40), "a name of"),
        (lambda: huge_name(tarfile.XHDTYPE, 1 << 40), "a name of"),
        (lambda: huge_name(tarfile.REGTYPE, 1 << 60), "ends inside a member"),
        (lambda: many_members(tar_stream.MAX_MEMBERS + 1), "more than 100000 members"),
    ],
)
def test_a_bomb_is_refused_in_little_memory(
    tmp_path: Path, payload: Callable[[], bytes], message: str
) -> None:
    path = write(tmp_path / "a.neff", make_neff(payload=payload()))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError, match=message):
            read_neff(path, full=True)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_pax_record_that_resizes_a_member_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("kelf-a.json")
        entry.pax_headers = {"size": "123"}
        archive.addfile(entry)
    path = write(tmp_path / "a.neff", make_neff(payload=gzip.compress(out.getvalue())))
    with pytest.raises(CorruptError, match="two sizes"):
        read_neff(path, full=True)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_flipped_byte_crashes_or_passes_unseen(data: st.DataObject) -> None:
    """Any change to the payload or its hash is seen; one to a name or a build is not hashed."""
    raw = bytearray(make_neff())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        read_neff_at(io.BytesIO(bytes(raw)), 0, len(raw), full=True, exact=True)
    except CorruptError:
        return
    assert at < 1024
    assert not 172 <= at < 188


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=4096), st.sampled_from([1, 2]))
def test_any_payload_is_read_or_refused(payload: bytes, package: int) -> None:
    raw = make_neff(package=package, payload=payload)
    with pytest.raises(CorruptError):
        read_neff_at(io.BytesIO(raw), 0, len(raw), full=True)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_change_inside_the_archive_is_read_or_refused(data: st.DataObject) -> None:
    tar = bytearray(make_tar(neff_members()))
    for _ in range(data.draw(st.integers(1, 4))):
        tar[data.draw(st.integers(0, len(tar) - 1))] = data.draw(st.integers(0, 255))
    raw = make_neff(payload=gzip.compress(bytes(tar), 1))
    with suppress(CorruptError):
        read_neff_at(io.BytesIO(raw), 0, len(raw), full=True)


@pytest.mark.parametrize("before", [0, 1, 7, 1024, (1 << 20) - 1300, (1 << 20) - 20, 1 << 20])
def test_neffs_are_found_wherever_they_begin(before: int) -> None:
    one, two = make_neff(), make_neff(package=1, name="second")
    data = b"\xff" * before + one + b"\0" * 100 + two + b"\xff" * 3
    found = list(find_neffs(io.BytesIO(data), 0, len(data)))
    assert [place for place, _ in found] == [before, before + len(one) + 100]
    assert [header.name for _, header in found] == ["graph", "second"]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<4Q", 2, 1024, 2, 1024) * 400,
        bytes(1 << 21),
        make_neff()[:-1],
        b"x" * 100 + make_neff()[:1100],
    ],
)
def test_numbers_that_look_like_a_header_are_none(data: bytes) -> None:
    assert list(find_neffs(io.BytesIO(data), 0, len(data))) == []


def test_a_region_ends_where_it_ends() -> None:
    data = make_neff() * 2
    size = len(data) // 2
    assert [place for place, _ in find_neffs(io.BytesIO(data), 0, size)] == [0]
    assert [place for place, _ in find_neffs(io.BytesIO(data), 1, 2 * size - 1)] == [size]
    assert list(find_neffs(io.BytesIO(data), 0, size - 1)) == []
