"""A Ceph cluster of four processes in one folder, with its S3 gateway: a real store, not a mock.

Debian and Ubuntu have it (``apt-get install radosgw ceph-mon ceph-osd ceph-mgr ceph-common``);
nothing of it needs root, systemd or disks. Steps: "Manual Deployment" of
https://docs.ceph.com/en/pacific/install/manual-deployment/, without authentication inside the
cluster, with objects in memory.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.remote.servers import AWS, BUCKET, free_port, wait_for

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "radosgw-admin", "monmaptool")

_CONF = """\
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms bind msgr2 = false
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
mon data = {folder}/mon
osd data = {folder}/osd
mgr data = {folder}/mgr
keyring = {folder}/keyring
osd objectstore = memstore
memstore device bytes = {memory}
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail warn = 0
mon data avail crit = 0
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw enable usage log = false
rgw gc obj min wait = 1
rgw gc processor period = 2
"""


def has_radosgw() -> bool:
    return all(shutil.which(program) for program in PROGRAMS)


@contextmanager
def radosgw(folder: Path, *, memory: int = 2 << 30) -> Iterator[str]:
    """Give the gateway's endpoint, with the bucket and the keys of :mod:`.servers` in it.

    ``memory`` is how many bytes of objects the cluster can hold.
    """
    fsid, port, mon_port = str(uuid.uuid4()), free_port(), free_port()
    for name in ("mon", "osd", "mgr", "rgw"):
        (folder / name).mkdir(parents=True)
    conf = folder / "ceph.conf"
    conf.write_text(
        _CONF.format(fsid=fsid, port=port, mon_port=mon_port, folder=folder, memory=memory)
    )
    log = (folder / "output").open("w")

    def run(*command: str) -> None:
        subprocess.run([*command], check=True, stdout=log, stderr=log, timeout=120)

    def start(*command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*command, "-f", "-c", conf], stdout=log, stderr=log)
        running.callback(process.wait)
        running.callback(process.kill)
        return process

    with ExitStack() as running:
        running.callback(log.close)
        monmap = str(folder / "monmap")
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a",
            f"[v1:127.0.0.1:{mon_port}]", monmap)  # fmt: skip
        run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "-c", str(conf))
        start("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        run("ceph", "-c", str(conf), "--connect-timeout", "30", "osd", "new", osd)
        run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd, "-c", str(conf))
        start("ceph-osd", "-i", "0")
        start("ceph-mgr", "-i", "x")
        gateway = start("radosgw", "-n", "client.rgw")
        endpoint = f"http://127.0.0.1:{port}"
        wait_for(endpoint, 240.0, gateway)
        run("radosgw-admin", "-c", str(conf), "user", "create", "--uid", "test",
            "--display-name", "test", "--access-key", AWS["AWS_ACCESS_KEY_ID"],
            "--secret-key", AWS["AWS_SECRET_ACCESS_KEY"])  # fmt: skip
        _make_bucket(endpoint)
        yield endpoint


def _make_bucket(endpoint: str) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name=AWS["AWS_REGION"],
        aws_access_key_id=AWS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    for left in reversed(range(10)):
        try:
            client.create_bucket(Bucket=BUCKET)
            return
        except (BotoCoreError, ClientError):
            if not left:
                raise
            time.sleep(1)
