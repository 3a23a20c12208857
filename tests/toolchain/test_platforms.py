"""Which device a request means, and what the device and its machines offer."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuron_artifacts.errors import NeuronArtifactsError, RefusedError, SpecError
from neuron_artifacts.toolchain import Device, Toolchain
from neuron_artifacts.toolchain.platforms import (
    GIB,
    INSTANCES,
    LNC_VARIABLE,
    TARGET_VARIABLE,
    hbm_per_core,
    instances_of,
    resolve_platform,
)


def host(platform: str | None, lnc: int | None = None) -> Toolchain:
    devices = (Device(0, 4, lnc, 96 * GIB),) if lnc else ()
    return Toolchain(Path("/venv/bin/python"), "3.11", {}, {}, devices, platform, ("nxdi",))


TRN1, TRN2, NOTHING = host("trn1"), host("trn2"), host(None)


@pytest.mark.parametrize(
    ("asked", "toolchain", "environ", "target", "lnc"),
    [
        ("native", TRN1, {}, "trn1", 1),
        ("native", host("inf2"), {}, "inf2", 1),
        ("native", TRN2, {}, "trn2", 2),
        ("native", host("trn3"), {}, "trn3", 2),
        ("native", NOTHING, {TARGET_VARIABLE: "trn2"}, "trn2", 2),
        ("native", None, {TARGET_VARIABLE: "inf2"}, "inf2", 1),
        ("native", TRN1, {TARGET_VARIABLE: "trn2"}, "trn2", 2),
        ("native", TRN2, {LNC_VARIABLE: "1"}, "trn2", 1),
        ("native", TRN2, {LNC_VARIABLE: "-1"}, "trn2", 2),
        ("native", TRN2, {LNC_VARIABLE: ""}, "trn2", 2),
        ("native", host("trn2", 1), {}, "trn2", 1),
        ("native", host("trn2", 1), {LNC_VARIABLE: "2"}, "trn2", 2),
        ("trn2", NOTHING, {}, "trn2", 2),
        ("trn2", None, {}, "trn2", 2),
        ("trn1n", NOTHING, {}, "trn1n", 1),
        ("inf2", TRN1, {}, "inf2", 1),
        ("trn1", host("inf2"), {}, "trn1", 1),
        ("trn2", TRN2, {TARGET_VARIABLE: "trn2"}, "trn2", 2),
        ("trn2", TRN1, {TARGET_VARIABLE: "trn2"}, "trn2", 2),
        ("trn2", host("trn1", 1), {TARGET_VARIABLE: "trn2"}, "trn2", 2),
    ],
)
def test_resolved(
    asked: str, toolchain: Toolchain | None, environ: dict[str, str], target: str, lnc: int
) -> None:
    platform = resolve_platform(asked, toolchain, environ)
    assert (platform.target, platform.logical_nc_config) == (target, lnc)
    assert platform.environ == {TARGET_VARIABLE: target, LNC_VARIABLE: str(lnc)}


@pytest.mark.parametrize(
    ("asked", "toolchain", "environ", "kind", "said"),
    [
        ("native", NOTHING, {}, RefusedError, "no Neuron device"),
        ("native", None, {TARGET_VARIABLE: ""}, RefusedError, "no Neuron device"),
        ("trn1", TRN2, {}, RefusedError, "contradicts this host's device, which is trn2"),
        ("trn2", TRN1, {}, RefusedError, "contradicts this host's device, which is trn1"),
        ("trn1", NOTHING, {TARGET_VARIABLE: "trn2"}, RefusedError, f"{TARGET_VARIABLE}=trn2"),
        ("x86-64-v3", NOTHING, {}, SpecError, "'x86-64-v3' is no Neuron device"),
        ("native", TRN1, {TARGET_VARIABLE: "inf1"}, SpecError, "'inf1'"),
        ("trn1", NOTHING, {LNC_VARIABLE: "2"}, SpecError, "trn1 has no logical core"),
        ("trn2", NOTHING, {LNC_VARIABLE: "4"}, SpecError, "configuration 4"),
        ("trn2", NOTHING, {LNC_VARIABLE: "two"}, SpecError, "not a whole number"),
    ],
)
def test_refused_with_the_reason(
    asked: str,
    toolchain: Toolchain | None,
    environ: dict[str, str],
    kind: type[NeuronArtifactsError],
    said: str,
) -> None:
    with pytest.raises(kind) as caught:
        resolve_platform(asked, toolchain, environ)
    assert said in caught.value.message
    assert caught.value.hint
    if "no Neuron device" in said and kind is RefusedError:
        assert "--target" in caught.value.hint


def test_the_configuration_of_the_request_meets_the_variable() -> None:
    assert resolve_platform("trn2", None, {}, logical_nc_config=1).logical_nc_config == 1
    same = resolve_platform("trn2", None, {LNC_VARIABLE: "1"}, logical_nc_config=1)
    assert same.environ[LNC_VARIABLE] == "1"
    with pytest.raises(RefusedError, match="contradicts NEURON_LOGICAL_NC_CONFIG=2"):
        resolve_platform("trn2", None, {LNC_VARIABLE: "2"}, logical_nc_config=1)


@pytest.mark.parametrize(
    ("target", "lnc", "gib"),
    [("inf2", 1, 16), ("trn1", 1, 16), ("trn2", 2, 24), ("trn2", 1, 12), ("trn3", 2, 36)],
)
def test_memory_of_a_core(target: str, lnc: int, gib: int) -> None:
    assert hbm_per_core(target, lnc) == gib * GIB
    assert resolve_platform(target, None, {LNC_VARIABLE: str(lnc)}).hbm_per_core == gib * GIB


@pytest.mark.parametrize(
    ("name", "cores", "device_gib", "host_gib"),
    [
        ("inf2.xlarge", 2, 32, 16),
        ("inf2.8xlarge", 2, 32, 128),
        ("inf2.24xlarge", 12, 192, 384),
        ("inf2.48xlarge", 24, 384, 768),
        ("trn1.2xlarge", 2, 32, 32),
        ("trn1.32xlarge", 32, 512, 512),
        ("trn1n.32xlarge", 32, 512, 512),
        ("trn2.48xlarge", 64, 1536, 2048),
        ("trn2u.48xlarge", 64, 1536, 2048),
        ("trn2-ultraserver", 256, 6144, 8192),
        ("trn3-ultraserver-gen1", 256, 9216, 8192),
        ("trn3-ultraserver-gen2", 576, 20736, 27648),
    ],
)
def test_instances_as_documented(name: str, cores: int, device_gib: int, host_gib: int) -> None:
    """All hosts together, at the default LNC: the ``*-arch.rst`` pages of aws-neuron-sdk."""
    instance = INSTANCES[name]
    lnc = resolve_platform(instance.target, None, {}).logical_nc_config
    logical = instance.logical_cores(lnc) * instance.hosts
    assert logical == cores
    assert logical * hbm_per_core(instance.target, lnc) == device_gib * GIB
    assert instance.host_memory * instance.hosts == host_gib * GIB


def test_machines_of_a_target_from_the_smallest() -> None:
    names = [instance.name for instance in instances_of("trn1")]
    assert names[0] == "inf2.xlarge"
    assert set(names[-2:]) == {"trn1.32xlarge", "trn1n.32xlarge"}
    assert {instance.target for instance in instances_of("trn2")} == {"trn2"}
