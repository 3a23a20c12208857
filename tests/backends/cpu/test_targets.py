"""Targets: named, resolved for this CPU, and never run where they would fault."""

from __future__ import annotations

from itertools import pairwise

import pytest

from neuron_artifacts.backends.cpu import targets
from neuron_artifacts.backends.cpu.targets import (
    TARGET_NAMES,
    missing_features,
    read_cpu,
    resolve_target,
)
from neuron_artifacts.errors import IncompatibleError, SpecError

V3 = resolve_target("x86-64-v3").required
V4 = resolve_target("x86-64-v4").required
ARM = resolve_target("aarch64").required


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", V3, "x86-64-v3"),
        ("x86_64", V3 | {"avx512f"}, "x86-64-v3"),
        ("x86_64", V4, "x86-64-v4"),
        ("x86_64", V4 | {"avx512_bf16", "amx_tile"}, "x86-64-v4-bf16"),
        ("aarch64", ARM | {"sve"}, "aarch64"),
    ],
)
def test_native_is_the_best_target_the_cpu_supports(
    machine: str, flags: frozenset[str], expected: str
) -> None:
    assert resolve_target("native", lambda: (machine, flags)).name == expected


@pytest.mark.parametrize(
    ("machine", "flags"), [("x86_64", V3 - {"fma"}), ("riscv64", frozenset()), ("aarch64", V4)]
)
def test_native_on_a_cpu_without_a_target_says_what_is_needed(
    machine: str, flags: frozenset[str]
) -> None:
    with pytest.raises(IncompatibleError, match=machine) as caught:
        resolve_target("native", lambda: (machine, flags))
    assert "AVX2" in (caught.value.hint or "")


def test_missing_features_are_named() -> None:
    target = resolve_target("x86-64-v4")
    assert missing_features(target, lambda: ("x86_64", V4)) == ()
    assert missing_features(target, lambda: ("x86_64", V3)) == tuple(sorted(V4 - V3))
    assert missing_features(target, lambda: ("aarch64", ARM)) == ("x86_64",)


def test_one_reader_serves_every_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "read_cpu", lambda: ("x86_64", V3))
    assert resolve_target("native").name == "x86-64-v3"
    assert missing_features(resolve_target("x86-64-v4"))


def test_this_cpu_is_read() -> None:
    machine, flags = read_cpu()
    assert machine in ("x86_64", "aarch64")
    assert flags
    assert missing_features(resolve_target("native")) == ()


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match="sparc") as caught:
        resolve_target("sparc")
    assert all(name in (caught.value.hint or "") for name in TARGET_NAMES)


def test_a_neuron_device_as_target_leads_to_a_neuron_backend() -> None:
    with pytest.raises(SpecError, match="'trn2' is unknown to the cpu backend") as caught:
        resolve_target("trn2")
    assert "--backend nxdi" in (caught.value.hint or "")


def test_targets_that_need_more_come_later() -> None:
    """``native`` takes the last that fits."""
    required = [resolve_target(n).required for n in TARGET_NAMES if n.startswith("x86")]
    assert all(a < b for a, b in pairwise(required))
