"""What the closed parts do in the doubles: a compiler, a device with a cache, and their faults.

``NEURON_DOUBLE`` names faults and facts, separated by commas:

============== =============================================================================
oom, hbm, …    the compiler fails with the text that :data:`FAILURES` has
kill           the process is killed while it compiles
slow=MARK      the compiler takes for ever; its process has MARK among its arguments
cores=N        the device has N cores; without it there is no device
instance=NAME  the device is in an instance of that type, ``trn1`` by itself
lost_shard=R   the shard of rank R is not written
old            NxD Inference as it was up to SDK 2.26, in what its double says of that
unsplit        NxD Inference 0.1, which shards within ``compile`` only (application_base.py:139)
wrapped        optimum-neuron as it was up to 0.4.3, in what its models give
quantize       the checkpoint cannot be quantised
============== =============================================================================
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch

FAILURES = {
    "oom": "[F137] neuronx-cc was forcibly killed - This most commonly occurs due to "
    "insufficient system memory.",
    "hbm": "[XCG815]  Estimated peak HBM usage (22.839451) exceeds 16GB. "
    "Neff won't be able to load on chip",
    "instructions": "Too many instructions after unroll for function sg0000 !",
    "operator": "[NCC_EUOC002] An unsupported operator was used.",
    "internal": "[F134] neuronx-cc terminated abnormally",
}
SLEEP = "import time; time.sleep(600)"


def knob(name):
    """The value of a knob: ``None`` where it is not set, and an empty text where it has none."""
    for item in os.environ.get("NEURON_DOUBLE", "").split(","):
        key, _, value = item.partition("=")
        if key == name:
            return value
    return None


def compile_graph(name):
    """Bytes of a graph; every compile leaves a line in ``NEURON_DOUBLE_LOG``."""
    if os.environ.get("NEURON_DOUBLE_LOG"):
        with Path(os.environ["NEURON_DOUBLE_LOG"]).open("a") as log:
            log.write(f"{name}\n")
    print(f"neuronx-cc compile {name}", flush=True)
    if knob("kill") is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    if knob("slow"):
        subprocess.run([sys.executable, "-c", SLEEP, knob("slow")], check=True)
    for failure, text in FAILURES.items():
        if knob(failure) is not None:
            raise RuntimeError(f"Failed compilation with ['neuronx-cc', 'compile']: {text}")
    return f"NEFF of {name}".encode()


def make_neff(program):
    """A NEFF as ``neuron-runtime/explore/work-with-neff-files.rst`` of aws-neuron-sdk has it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in (
            ("neff.json", b"{}"),
            ("kelf-a.json", b"{}"),
            ("sg00/def.json", program),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    payload = gzip.compress(out.getvalue(), mtime=0)
    header = struct.pack("<QQQQQ128xI", 2, 1024, len(payload), 2, 0, 1)
    header += hashlib.md5(payload).digest() + b"0" * 16
    return header.ljust(1024, b"\0") + payload


def save_torchscript(path, neffs):
    """The archive that ``torch.jit.save`` writes: stored members, graphs among the constants."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{name}", b"\x80\x02.")
        archive.writestr("model/version", b"3\n")
        for index, neff in enumerate(neffs):
            archive.writestr(f"model/constants/{index}", b"state" + neff)


def load_torchscript(path):
    """What ``torch.jit.load`` raises, and a device that is not there."""
    if not os.path.isfile(path):
        raise ValueError(f"The provided filename {path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        damaged = path
    if damaged:
        raise RuntimeError("PytorchStreamReader failed reading zip archive")
    if not available_cores():
        raise RuntimeError("Unknown type name '__torch__.torch.classes.neuron.SPMDModel'")


def available_cores():
    return int(knob("cores") or 0)


def instance_type():
    if not available_cores():
        raise RuntimeError("No Neuron device detected.")
    return knob("instance") or "trn1"


class Device:
    """Key/value caches: the next token depends on every token that a slot's cache holds."""

    def __init__(self, slots, length, vocab_size):
        self._cache = np.zeros((slots, length), np.int64)
        self._vocab_size = vocab_size

    def step(self, slot, tokens, positions):
        """Write a row's keys and values, and give its logits."""
        for token, position in zip(tokens, positions, strict=True):
            self._cache[slot, position] = token
        last = max(positions)
        weights = np.arange(1, last + 2)
        following = int((self._cache[slot, : last + 1] * weights).sum() + last) % self._vocab_size
        return np.eye(self._vocab_size, dtype=np.float32)[following] * 5

    def answer(self, rows, on_device_sampling):
        logits = np.stack(rows)
        if on_device_sampling:
            return torch.Tensor(logits.argmax(axis=1), torch.int64)
        return torch.Tensor(logits, torch.float32)
