"""The processors graphs are compiled for: named, so that an artifact says where it may run."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuron_artifacts.errors import IncompatibleError, SpecError


@dataclass(frozen=True)
class Target:
    """An instruction set and the kernel shape that suits it.

    ``required`` holds CPU flags in the spelling of ``/proc/cpuinfo``. ``lanes`` is the number of
    float32 in a vector, ``tile_rows`` the weight rows of a matrix tile (with two vectors of
    tokens beside each, it fills the register file), ``row_block`` the activation rows that one
    pass over a weight row serves in decode.
    """

    name: str
    machine: str
    march: tuple[str, ...]
    zig_cpu: str
    required: frozenset[str]
    lanes: int
    tile_rows: int
    row_block: int
    bf16_dot: bool = False

    def flags(self, compiler: str) -> tuple[str, ...]:
        """Instruction-set flags for a compiler of kind ``gcc``, ``clang`` or ``zig``."""
        wide = ("-mprefer-vector-width=512",) if self.lanes == 16 else ()
        if compiler == "zig":
            # An old glibc in the triple: the object then runs on any newer system.
            return (f"--target={self.machine}-linux-gnu.2.17", f"-mcpu={self.zig_cpu}", *wide)
        return (*self.march, *wide)


def _features(names: str) -> frozenset[str]:
    return frozenset(names.split())


_V3 = _features(
    "abm avx avx2 bmi1 bmi2 cx16 f16c fma lahf_lm movbe popcnt sse4_1 sse4_2 ssse3 xsave"
)
_V4 = _V3 | _features("avx512bw avx512cd avx512dq avx512f avx512vl")

_TARGETS = {
    target.name: target
    for target in (
        Target("x86-64-v3", "x86_64", ("-march=x86-64-v3",), "x86_64_v3", _V3, 8, 6, 2),
        Target("x86-64-v4", "x86_64", ("-march=x86-64-v4",), "x86_64_v4", _V4, 16, 12, 4),
        Target(
            "x86-64-v4-bf16", "x86_64", ("-march=x86-64-v4", "-mavx512bf16"),
            "x86_64_v4+avx512bf16", _V4 | {"avx512_bf16"}, 16, 12, 4, bf16_dot=True,
        ),
        # Neoverse N1 (Graviton2) and everything after it.
        Target(
            "aarch64", "aarch64", ("-march=armv8.2-a",), "generic+v8_2a",
            _features("asimd asimdrdm atomics crc32 fp"), 4, 8, 4,
        ),
    )
}  # fmt: skip

TARGET_NAMES = tuple(_TARGETS)
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

CpuReader = Callable[[], tuple[str, frozenset[str]]]


def read_cpu() -> tuple[str, frozenset[str]]:
    """Machine name and flags of this CPU; no flags where the system does not list them."""
    machine = platform.machine().lower()
    flags: frozenset[str] = frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            flags = frozenset(value.split())
            break
    return _MACHINES.get(machine, machine), flags


def resolve_target(name: str, read: CpuReader | None = None) -> Target:
    """The target called ``name``; ``native`` is the best one this CPU supports.

    Raises
    ------
    SpecError
        There is no such target.
    IncompatibleError
        ``native`` is asked for on a CPU that none of the targets suits.
    """
    if name != "native":
        if name not in _TARGETS:
            hint = f"choose native, {', '.join(TARGET_NAMES)}"
            if name.startswith(("inf", "trn")):
                hint = f"for a Neuron device add --backend nxdi; for the cpu backend {hint}"
            raise SpecError(f"target {name!r} is unknown to the cpu backend", hint=hint)
        return _TARGETS[name]
    for target in reversed(_TARGETS.values()):
        if not missing_features(target, read):
            return target
    machine, _ = (read or read_cpu)()
    raise IncompatibleError(
        f"this CPU ({machine}) runs none of the targets {', '.join(TARGET_NAMES)}",
        hint="x86-64-v3 needs AVX2 and FMA (2013 and later); aarch64 needs Armv8.2",
    )


def missing_features(target: Target, read: CpuReader | None = None) -> tuple[str, ...]:
    """CPU flags that ``target`` needs and this machine lacks, sorted; empty where it runs."""
    machine, flags = (read or read_cpu)()
    if machine != target.machine:
        return (target.machine,)
    return tuple(sorted(target.required - flags))
