"""How many cores this process may really use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(
    cgroup: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Cores of the affinity mask, or of a control group (version 1 or 2) with a smaller quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for quota in _quotas(cgroup, own):
        count = min(count, max(1, math.floor(quota)))
    return count


def _quotas(cgroup: Path, own: Path) -> Iterator[float]:
    """Quotas of our group and of every group above it, in cores."""
    for line in _read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        root = cgroup if not controllers else cgroup / "cpu"
        if not colon or (controllers and "cpu" not in controllers.split(",")):
            continue
        folder = root / path.lstrip("/")
        while folder == root or root in folder.parents:
            yield from _quota(folder)
            folder = folder.parent


def _quota(folder: Path) -> Iterator[float]:
    words = _read(folder / "cpu.max").split()
    words = words or [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
        yield int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
