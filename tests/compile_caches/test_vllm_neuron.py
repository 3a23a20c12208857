"""vllm-neuron's compile cache on disk: where it is, what state a graph is in, laying graphs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_artifacts.compile_caches.vllm_neuron import (
    lay_entries,
    locate_cache,
    read_entries,
    read_entry,
)
from neuron_artifacts.errors import CorruptError, StoreError
from tests.compile_caches.vllm_entries import key_of, put_entry

NFS = "server:/home /home nfs4 rw 0 0\n/dev/sda / ext4 rw 0 0\ntmpfs /home/local tmpfs rw 0 0\n"


@pytest.mark.parametrize(
    ("environ", "mounts", "path", "origin"),
    [
        ({"HOME": "/root"}, "", "/root/.cache/vllm/neuron/compile_cache", "default"),
        ({"HOME": "/root"}, NFS, "/root/.cache/vllm/neuron/compile_cache", "default"),
        (
            {"HOME": "/home/ann", "USER": "ann"}, NFS,
            "/tmp/vllm_neuron_wdir_ann/neuron/compile_cache", "default",
        ),
        (
            {"HOME": "/home/local/b"}, NFS,
            "/home/local/b/.cache/vllm/neuron/compile_cache", "default",
        ),
        ({"HOME": "/home/ann", "VLLM_CACHE_ROOT": "/home/c"}, NFS,
         "/home/c/neuron/compile_cache", "VLLM_CACHE_ROOT"),
        ({"VLLM_CACHE_ROOT": "/a", "NEURON_LIBTORCH_CACHE_ROOT": "/b"}, "",
         "/b/neuron/compile_cache", "NEURON_LIBTORCH_CACHE_ROOT"),
    ],
)  # fmt: skip
def test_cache_location(
    environ: dict[str, str], mounts: str, path: str, origin: str, tmp_path: Path
) -> None:
    table = tmp_path / "mounts"
    table.write_text(mounts)
    location = locate_cache(environ, mounts=table)
    assert (str(location.path), location.origin) == (path, origin)


def forget(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name.format(key=path.name)).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda path: (path / name.format(key=path.name)).write_text(text)


@pytest.mark.parametrize(
    ("change", "state", "problem"),
    [
        (lambda path: None, "complete", None),
        (forget(".compilation_complete"), "incomplete", ".compilation_complete"),
        (forget("graph.hlo"), "incomplete", "graph.hlo"),
        (forget(".artifact_metadata_v0.json"), "incomplete", ".artifact_metadata_v0.json"),
        (forget("graph_{key}.neff"), "failed", "log-neuron-cc.txt"),
        (write("graph_{key}.neff", "short"), "corrupt", "the NEFF has 5 bytes"),
        (write(".artifact_metadata_v0.json", "{"), "corrupt", "cannot be read"),
        (write(".compilation_complete", "completed:1.0\n"), "complete", None),
    ],
)
def test_state_of_an_entry(
    change: Callable[[Path], object], state: str, problem: str | None, tmp_path: Path
) -> None:
    path = put_entry(tmp_path, "decode 1")
    change(path)
    entry = read_entry(path)
    assert entry.state == state
    assert (problem is None) == (entry.problem is None)
    assert problem is None or problem in str(entry.problem)
    assert entry.target == "trn2"


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"cache_key": "0" * 32}, "is for key 0000"),
        ({"version": 1}, "version 1"),
        ({"checksum": "x"}, "unknown field 'checksum'"),
        ({"output_count": "many"}, "wrong output_count"),
        ({"output_count": True}, "wrong output_count"),
        ({"has_rng_seed_parameter": 1}, "wrong has_rng_seed_parameter"),
        ({"created_timestamp": None}, "wrong created_timestamp"),
    ],
)
def test_metadata_the_loader_refuses(
    metadata: dict[str, object], problem: str, tmp_path: Path
) -> None:
    entry = read_entry(put_entry(tmp_path, "decode 1", **metadata))
    assert entry.state == "corrupt"
    assert problem in str(entry.problem)


def test_an_entry_is_locked_while_its_compiler_lives(tmp_path: Path) -> None:
    path = put_entry(tmp_path, "prefill 128")
    forget("graph_{key}.neff")(path)
    holder = path.with_name(f".{path.name}.compilation_metadata")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        holder.write_text(f"pid:{process.pid}\nprocess_name:python\ncmdline:['python']\n")
        assert read_entry(path).state == "locked"
        assert str(process.pid) in str(read_entry(path).problem)
        process.communicate(b"\n")
    assert read_entry(path).state == "failed"


def test_reading_lists_graphs_only(tmp_path: Path) -> None:
    put_entry(tmp_path, "a")
    put_entry(tmp_path, "b")
    (tmp_path / "nki").mkdir()
    (tmp_path / f"{key_of('c')}.tmp.host.1").mkdir()
    (tmp_path / key_of("d")).symlink_to(tmp_path / key_of("a"))
    assert [entry.key for entry in read_entries(tmp_path)] == sorted([key_of("a"), key_of("b")])
    assert read_entries(tmp_path / "absent") == ()


def test_laying_copies_whole_entries_and_keeps_complete_ones(tmp_path: Path) -> None:
    source, folder = tmp_path / "artifact", tmp_path / "root" / "neuron" / "compile_cache"
    first, second = put_entry(source, "a"), put_entry(source, "b")
    (second / ".cache_accessed").write_text("1")
    kept = put_entry(folder, "a")
    (kept / "command.txt").write_text("compiled here")
    assert lay_entries(source, folder) == 1
    assert (folder / first.name / "command.txt").read_text() == "compiled here"
    assert [entry.state for entry in read_entries(folder)] == ["complete", "complete"]
    laid = folder / second.name
    assert not (laid / ".cache_accessed").exists()
    assert (laid / "graph.hlo").stat().st_ino != (second / "graph.hlo").stat().st_ino
    assert lay_entries(source, folder) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted([first.name, second.name])


def test_laying_replaces_what_the_loader_would_not_take(tmp_path: Path) -> None:
    source, folder = tmp_path / "artifact", tmp_path / "cache"
    key = put_entry(source, "a").name
    forget(".compilation_complete")(put_entry(folder, "a"))
    assert lay_entries(source, folder) == 1
    assert read_entry(folder / key).state == "complete"
    assert [path.name for path in folder.iterdir()] == [key]


def test_laying_refuses_half_a_graph_and_a_graph_in_work(tmp_path: Path) -> None:
    source, folder = tmp_path / "artifact", tmp_path / "cache"
    path = put_entry(source, "a")
    there = put_entry(folder, "a")
    forget("graph.hlo")(there)
    there.with_name(f".{path.name}.compilation_metadata").write_text(f"pid:{os.getpid()}\n")
    with pytest.raises(StoreError, match="compiles it"):
        lay_entries(source, folder)
    forget("graph.hlo")(path)
    with pytest.raises(CorruptError, match="incomplete"):
        lay_entries(source, folder)
    assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == [path.name]


def test_many_may_lay_at_once(tmp_path: Path) -> None:
    source, folder = tmp_path / "artifact", tmp_path / "cache"
    for name in "abcdef":
        put_entry(source, name)
    barrier, laid, errors = threading.Barrier(4), [], []

    def lay() -> None:
        barrier.wait()
        try:
            laid.append(lay_entries(source, folder))
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=lay) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(laid), errors) == (6, [])
    assert {entry.state for entry in read_entries(folder)} == {"complete"}
    assert len(list(folder.iterdir())) == 6
