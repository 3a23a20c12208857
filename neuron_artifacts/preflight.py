"""What would fail later, with the numbers, before anything is compiled."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from neuron_artifacts.backends.base import ResolvedSpec
from neuron_artifacts.errors import ResourceError, StoreError

GRAPH_BYTES = 1 << 20
MARGIN = 64 << 20
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class Resources:
    """What this machine has, in bytes."""

    memory: int
    disk: int


def measure(destination: Path) -> Resources:
    """Memory of the machine or its control group, and free disk where the artifact will lie."""
    return Resources(total_memory(), free_disk(destination))


def total_memory() -> int:
    """Physical memory, or the control group's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def free_disk(destination: Path) -> int:
    """Free bytes on the file system that ``destination`` will be created on."""
    for folder in (destination, *destination.parents):
        if folder.exists():
            return shutil.disk_usage(folder).free
    return 0


def check_resources(
    resolved: ResolvedSpec, resources: Resources, *, copied_bytes: int, graphs_to_compile: int,
    jobs: int,
) -> None:  # fmt: skip
    """Refuse what this machine cannot build or could never serve.

    ``copied_bytes`` are weight bytes that cannot be shared with a file that exists already.

    Raises
    ------
    ResourceError
        Too little disk or memory; the message holds both figures.
    """
    disk = copied_bytes + GRAPH_BYTES * len(resolved.graphs) + MARGIN
    if disk > resources.disk:
        raise ResourceError(
            f"the artifact needs {show_bytes(disk)} of disk and {show_bytes(resources.disk)} "
            "are free",
            hint="free space, or choose another file system with --store or --output",
        )
    serving = resolved.estimate.weights + resolved.estimate.cache
    if serving > resources.memory:
        config = resolved.neuron_config
        raise ResourceError(
            f"serving it takes {show_bytes(resolved.estimate.weights)} of weights and "
            f"{show_bytes(resolved.estimate.cache)} of cache (batch_size {config.batch_size} x "
            f"seq_len {config.seq_len}), and this machine has {show_bytes(resources.memory)}",
            hint="lower --batch-size or --seq-len; --skip-preflight builds it for a larger machine",
        )
    building = min(jobs, graphs_to_compile) * resolved.estimate.compile_job
    if building > resources.memory:
        raise ResourceError(
            f"{jobs} compiler jobs take about {show_bytes(building)} of memory, and this machine "
            f"has {show_bytes(resources.memory)}",
            hint="lower --jobs",
        )


def check_writable(directory: Path) -> None:
    """Refuse a read-only place before an hour is spent on what cannot be stored.

    Raises
    ------
    StoreError
        The directory, or the nearest one that exists above it, cannot be written.
    """
    for folder in (directory, *directory.parents):
        if folder.exists():
            if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and not _read_only(folder):
                return
            raise StoreError(
                f"{folder} cannot be written",
                hint="choose a writable place with --store DIR or --output DIR",
            )


def _read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def show_bytes(count: float) -> str:
    """A size for people: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
