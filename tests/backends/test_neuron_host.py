from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.artifact import Manifest
from neuron_artifacts.artifact.neuron_directory import read_neuron_directory
from neuron_artifacts.backends.neuron_host import NeuronHost, judge, level_of_fields, make_host
from neuron_artifacts.backends.nxdi.levels import read_table
from neuron_artifacts.errors import RefusedError, SpecError
from neuron_artifacts.toolchain import Device, Toolchain
from tests.artifact.artifacts import make_document, make_manifest
from tests.artifact.neuron_files import make_neff, write, write_nxdi, write_optimum

TRN1 = NeuronHost("trn1", 1, 32)
TRN2 = NeuronHost("trn2", 2, 64)
PACKAGES = {
    "neuronx-cc": "2.24.1", "torch-neuronx": "2.9.0", "neuronx-distributed": "0.18.1",
    "neuronx-distributed-inference": "0.9.17334",
}  # fmt: skip


def manifest(**changes: Any) -> Manifest:
    files = {"graphs": (), "backend": "nxdi", "target": "trn1", **changes}
    return make_manifest(make_document(), (), **files)


def findings(
    directory: Path, host: NeuronHost, known: Manifest | None = None
) -> list[tuple[str, str | None]]:
    found = judge(read_neuron_directory(directory), known, host)
    return [(finding.severity, finding.field) for finding in found]


@pytest.mark.parametrize(
    ("fields", "host", "expected"),
    [
        ({}, TRN1, []),
        ({}, NeuronHost(), []),
        ({}, TRN2, [("incompatible", "logical_nc_config")]),
        ({"logical_nc_config": 2}, TRN2, []),
        ({"logical_nc_config": 2}, TRN1, [("incompatible", "logical_nc_config")]),
        ({"target": "trn1"}, NeuronHost("inf2", 1, 24), []),
        ({"target": "trn2", "logical_nc_config": 2}, TRN1, [("incompatible", "target")]),
        ({"target": "trn2"}, TRN2, [("note", None)]),
        ({"target": "trn2"}, NeuronHost("trn2", 2, 64, is_lnc_fixed=True),
         [("incompatible", "logical_nc_config")]),
        ({"target": "trn2", "tp_degree": 128, "world_size": 128, "local_ranks_size": 128}, TRN2,
         [("note", None)]),
        ({"tp_degree": 64, "world_size": 64, "local_ranks_size": 64}, TRN1,
         [("incompatible", "tp_degree")]),
        ({"tp_degree": 64, "world_size": 64, "local_ranks_size": 32}, TRN1, []),
        ({"tp_degree": 64, "world_size": 64, "local_ranks_size": 32}, NeuronHost("trn1", 1, 2),
         [("incompatible", "local_ranks_size")]),
    ],
)  # fmt: skip
def test_device(
    tmp_path: Path, fields: dict[str, Any], host: NeuronHost, expected: list[Any]
) -> None:
    assert findings(write_nxdi(tmp_path, fields), host) == expected


def test_the_manifest_knows_the_target(tmp_path: Path) -> None:
    directory = write_nxdi(tmp_path)
    assert findings(directory, TRN2, manifest()) == [("incompatible", "target")]
    assert findings(directory, NeuronHost("inf2", 1, 2), manifest()) == []
    unknown = manifest(target="unknown", toolchain={"neuronx-cc": "unknown"})
    assert findings(directory, TRN1, unknown) == []


def test_a_neff_newer_than_any_runtime(tmp_path: Path) -> None:
    directory = write_nxdi(tmp_path, neffs=[make_neff(), make_neff(major=3)])
    assert findings(directory, NeuronHost()) == [("incompatible", "neff_version_major")]


@pytest.mark.parametrize(
    ("toolchain", "packages", "expected"),
    [
        ({"neuronx-cc": "2.24.1"}, PACKAGES, []),
        ({"neuronx-cc": "2.23.9"}, PACKAGES, [("advice", "neuronx-cc")]),
        ({"nki": "1.0"}, PACKAGES, [("advice", "nki")]),
        ({}, {"neuronx-cc": "2.24.1"}, [("incompatible", "toolchain")]),
    ],
)
def test_libraries(
    tmp_path: Path, toolchain: dict[str, str], packages: dict[str, str], expected: list[Any]
) -> None:
    host = NeuronHost(packages=packages, python="/venv/bin/python")
    assert findings(write_nxdi(tmp_path), host, manifest(toolchain=toolchain)) == expected


def test_the_fields_tell_the_sdk_level(tmp_path: Path) -> None:
    fields = {**read_table("neuron-config-2.24")["neuron"]}
    level = level_of_fields(fields)
    assert level is not None
    assert level.name == "2.24"
    assert level_of_fields({**fields, "new": 1}) is None
    table = read_table("neuron-config-2.27")
    moe = level_of_fields({**table["neuron"], **table["moe"]})
    assert moe is not None
    assert moe.name == "2.27"
    directory = write_nxdi(tmp_path)
    content = {"neuron_config": {**fields, "logical_nc_config": 1, "local_ranks_size": 1}}
    import json

    write(directory / "neuron_config.json", json.dumps(content).encode())
    host = NeuronHost(packages=PACKAGES, python="/p")
    assert findings(directory, host) == [("advice", "neuronx-distributed-inference")]


def test_optimum_writes_its_versions_itself(tmp_path: Path) -> None:
    directory = write_optimum(tmp_path)
    packages = {**PACKAGES, "optimum-neuron": "0.4.6"}
    host = NeuronHost("trn1", 1, 32, packages=packages, python="/p")
    assert findings(directory, host) == [("advice", "neuronx-cc")]
    assert findings(directory, TRN2) == [("incompatible", "target")]


def toolchain(platform: str | None, *devices: Device) -> Toolchain:
    return Toolchain(Path("/p"), "3.11", PACKAGES, {}, devices, platform, ("nxdi",))


@pytest.mark.parametrize(
    ("target", "found", "environ", "expected"),
    [
        (None, None, {}, NeuronHost()),
        ("trn1", None, {}, NeuronHost("trn1", 1, 32)),
        ("trn2", None, {}, NeuronHost("trn2", 2, 64)),
        ("trn1.2xlarge", None, {}, NeuronHost("trn1", 1, 2)),
        ("inf2.24xlarge", None, {}, NeuronHost("inf2", 1, 12)),
        ("trn2", None, {"NEURON_LOGICAL_NC_CONFIG": "1"}, NeuronHost("trn2", 1, 128, True)),
        (None, toolchain(None), {}, NeuronHost(packages=PACKAGES, python="/p")),
        (None, toolchain("trn1", Device(0, 2, 1, 1 << 35)), {},
         NeuronHost("trn1", 1, 2, True, PACKAGES, "/p")),
        ("trn2", toolchain("trn1", Device(0, 2, 1, 1 << 35)), {},
         NeuronHost("trn2", 2, 64, False, PACKAGES, "/p")),
    ],
)  # fmt: skip
def test_what_is_judged_against(
    target: str | None, found: Toolchain | None, environ: dict[str, str], expected: NeuronHost
) -> None:
    assert make_host(target, found, environ) == expected


def test_targets_that_make_no_sense() -> None:
    with pytest.raises(SpecError, match="no Neuron device"):
        make_host("gpu", None, {})
    with pytest.raises(RefusedError, match="contradicts"):
        make_host("trn1", None, {"NEURON_PLATFORM_TARGET_OVERRIDE": "trn2"})
