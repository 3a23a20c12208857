"""Stands in for ``neuron-ls``: prints what ``neuron-ls -j`` prints on a machine of one's choice.

Follows ``tools/neuron-sys-tools/neuron-ls.rst`` of aws-neuron-sdk (81ce03ae), its example of
``-j`` and the definitions of the fields; before Trainium2 there was no logical core configuration.

``DOUBLE_NEURON_LS`` is the machine (``trn2:16``: sixteen Trainium2; ``trn1``, ``inf2``, ``trn3``)
or a failure: ``fail``, ``garbage``, ``list-of-numbers``. ``DOUBLE_NEURON_LS_PID`` is a process that
uses every device, ``DOUBLE_NEURON_LS_LNC`` another logical core configuration than the default.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

CHIPS = {"inf2": (2, 32, 1), "trn1": (2, 32, 1), "trn2": (8, 96, 2), "trn3": (8, 144, 2)}


def install(folder: Path) -> Path:
    """Put the double into ``folder`` under the name of the tool."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "neuron-ls"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {Path(__file__)} "$@"\n')
    program.chmod(0o755)
    return program


def devices(kind: str, count: int, lnc: int, pid: str) -> list[dict[str, object]]:
    cores, gib, _ = CHIPS[kind]
    logical = cores // lnc
    return [
        {
            "neuron_device": index,
            "bdf": f"{index:02x}:00.0",
            "cpu_affinity": "48-95,144-191",
            "numa_node": "1",
            "connected_to": [],
            "nc_count": logical,
            **({"logical_neuroncore_config": lnc} if cores == 8 else {}),
            "memory_size": gib << 30,
            **({"neuroncore_ids": list(range(index * logical, (index + 1) * logical))}
               if cores == 8 else {}),
            "neuron_processes": [
                {"pid": int(pid), "command": "serve", "neuron_runtime_version": "2.0.0"}
            ] if pid else [],
        }
        for index in range(count)
    ]  # fmt: skip


def main() -> int:
    asked = os.environ.get("DOUBLE_NEURON_LS", "fail")
    if sys.argv[1:] != ["-j"]:
        print("usage: neuron-ls -j", file=sys.stderr)
        return 2
    if asked == "fail":
        print("no neuron device found", file=sys.stderr)
        return 1
    if asked == "garbage":
        print("+--------+--------+")
        return 0
    if asked == "list-of-numbers":
        print("[1, 2]")
        return 0
    kind, _, count = asked.partition(":")
    lnc = int(os.environ.get("DOUBLE_NEURON_LS_LNC", CHIPS[kind][2]))
    pid = os.environ.get("DOUBLE_NEURON_LS_PID", "")
    print(json.dumps(devices(kind, int(count or 1), lnc, pid), indent=4))
    return 0


if __name__ == "__main__":
    sys.exit(main())
