"""`push` and `pull` of 2 GB against boto3's transfer manager, on the same local S3 server.

The server is Ceph's radosgw where it is installed, with objects in memory, else moto, which is a
mock. Both clients run as fresh processes, in turn, each into a prefix and folder of its own, with
files in the page cache. Ours also hashes every byte, looks what is there, publishes conditionally,
and syncs what it pulled; boto3's transfers files, several at once by its own defaults.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import median, row
from tests.remote import servers
from tests.remote.radosgw import has_radosgw, radosgw
from tests.remote.samples import make_artifact

SHARDS, SHARD_BYTES = 16, 128 << 20
ROUNDS = 3

PEER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import boto3
what, folder, endpoint, bucket, prefix = sys.argv[1:]
client = boto3.client("s3", endpoint_url=endpoint)
folder = Path(folder)
if what == "push":
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")
else:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page["Contents"]:
            target = folder / entry["Key"].removeprefix(f"{prefix}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, entry["Key"], str(target))
"""
"""One file after another; the transfer manager moves the parts of each in ten threads."""


@dataclass(frozen=True)
class Run:
    """Wall seconds of a process, and the processor seconds that it took itself."""

    seconds: float
    cpu_seconds: float


def run(work: Path) -> Iterator[str]:
    """Lines of a Markdown table."""
    base = work / "remote"
    shutil.rmtree(base, ignore_errors=True)
    artifact = make_artifact(base / "a", shards=SHARDS, shard_bytes=SHARD_BYTES)
    size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
    runs: dict[str, list[Run]] = defaultdict(list)
    with _server(base, 3 * ROUNDS * size) as (name, endpoint):
        for number in range(ROUNDS):
            for key, one in _round(base, artifact, endpoint, number).items():
                runs[key].append(one)
    yield row(f"{size / 1e9:.1f} GB in {SHARDS} files, {name}", "ours", "boto3", "ratio")
    yield row("---", "---", "---", "---")
    for what in ("push", "pull"):
        yield from _rows(what, size, runs[f"ours {what}"], runs[f"peer {what}"])


def _round(base: Path, artifact: Path, endpoint: str, number: int) -> dict[str, Run]:
    """Both push, both pull; what was pushed is removed, as the server keeps it in memory."""
    prefix, here = f"round{number}", base / "here"
    url = f"s3://{servers.BUCKET}/{prefix}/ours?endpoint={endpoint}"
    tool = [sys.executable, "-m", "neuron_artifacts"]
    peer = [sys.executable, "-c", PEER]
    there = [endpoint, servers.BUCKET, f"{prefix}/peer"]
    runs = {
        "ours push": _timed([*tool, "push", str(artifact), "--to", url]),
        "ours pull": _timed(
            [*tool, "pull", artifact.name, "--from", url, "--store", str(here / "ours")]
        ),
    }
    _empty(endpoint)
    runs["peer push"] = _timed([*peer, "push", str(artifact), *there])
    runs["peer pull"] = _timed([*peer, "pull", str(here / "peer"), *there])
    _empty(endpoint)
    shutil.rmtree(here)
    return runs


def _timed(command: Sequence[str]) -> Run:
    environ = {**os.environ, **servers.AWS}
    before, began = _children_cpu(), time.monotonic()
    subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)
    return Run(time.monotonic() - began, _children_cpu() - before)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _server(base: Path, memory: int) -> Iterator[tuple[str, str]]:
    if has_radosgw():
        with radosgw(base / "radosgw", memory=memory) as endpoint:
            yield "radosgw", endpoint
    else:
        with servers.moto() as endpoint:
            yield "moto", endpoint


def _empty(endpoint: str) -> None:
    """Remove every object."""
    script = (
        "import boto3, sys; "
        "boto3.resource('s3', endpoint_url=sys.argv[1]).Bucket(sys.argv[2]).objects.all().delete()"
    )
    command = [sys.executable, "-c", script, endpoint, servers.BUCKET]
    subprocess.run(command, check=True, env={**os.environ, **servers.AWS})


def _rows(what: str, size: int, ours: Sequence[Run], theirs: Sequence[Run]) -> Iterator[str]:
    mine, other = (size / 1e6 / median([run.seconds for run in runs]) for runs in (ours, theirs))
    yield row(f"{what}: MB/s", f"{mine:.0f}", f"{other:.0f}", f"{mine / other:.2f} times as fast")
    mine, other = (median([run.cpu_seconds for run in runs]) for runs in (ours, theirs))
    yield row(f"{what}: CPU s", f"{mine:.1f}", f"{other:.1f}", f"{mine / other:.2f} of it")
