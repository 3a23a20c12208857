"""Devices as neuron-ls and the system list them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuron_artifacts.toolchain.machine import Device, Machine, parse_devices, read_machine
from neuron_artifacts.toolchain.platforms import GIB
from tests.doubles import neuron_ls

DMI = "sys/devices/virtual/dmi/id/product_name"
SYSFS = "sys/devices/virtual/neuron_device/neuron0/info/architecture/instance_type"


@pytest.fixture
def tools(tmp_path: Path) -> str:
    return str(neuron_ls.install(tmp_path / "tools").parent)


def write(root: Path, place: str, text: str = "") -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(text)


def test_a_machine_without_neuron(tmp_path: Path) -> None:
    write(tmp_path, DMI, "trn1.2xlarge\n")  # without a driver there is no device to use
    assert read_machine({"PATH": ""}, root=tmp_path) == Machine()


@pytest.mark.parametrize(
    ("kind", "instance", "cores", "lnc", "platform"),
    [
        ("trn2:16", "trn2.48xlarge", 64, 2, "trn2"),
        ("trn2:16", "trn2u.48xlarge", 64, 2, "trn2"),
        ("trn1:16", "trn1n.32xlarge", 32, 1, "trn1"),
        ("inf2:12", "inf2.48xlarge", 24, 1, "inf2"),
        ("inf2:1", "KVM", 2, 1, "trn1"),
        ("trn2:1", "", 4, 2, "trn2"),
        ("trn3:4", "trn3pds.48xlarge", 16, 2, "trn3"),
        ("trn3:4", "", 16, 2, "trn3"),
    ],
)
def test_devices_and_their_family(
    tmp_path: Path, tools: str, kind: str, instance: str, cores: int, lnc: int, platform: str
) -> None:
    write(tmp_path, DMI, f"{instance}\n")
    machine = read_machine({"PATH": tools, "DOUBLE_NEURON_LS": kind}, root=tmp_path)
    assert machine.problem is None
    assert machine.platform == platform
    assert machine.instance == (instance if "." in instance else None)
    assert len(machine.devices) == int(kind.partition(":")[2])
    assert sum(device.cores for device in machine.devices) == cores
    assert {device.logical_nc_config for device in machine.devices} == {lnc}


def test_the_driver_names_the_family_where_the_firmware_does_not(tmp_path: Path) -> None:
    write(tmp_path, "dev/neuron0")
    write(tmp_path, SYSFS, "Inf2\n")
    machine = read_machine({"PATH": ""}, root=tmp_path)
    assert (machine.platform, machine.instance, machine.devices) == ("inf2", "inf2", ())


def test_the_tool_is_found_where_its_package_puts_it(tmp_path: Path) -> None:
    neuron_ls.install(tmp_path / "opt/aws/neuron/bin")
    machine = read_machine({"PATH": "", "DOUBLE_NEURON_LS": "trn1"}, root=tmp_path)
    assert machine.devices == (Device(0, 2, 1, 32 * GIB),)


def test_who_uses_a_device(tmp_path: Path, tools: str) -> None:
    environ = {"PATH": tools, "DOUBLE_NEURON_LS": "trn2:2", "DOUBLE_NEURON_LS_PID": "113985"}
    machine = read_machine(environ, root=tmp_path)
    assert [device.pids for device in machine.devices] == [(113985,), (113985,)]


@pytest.mark.parametrize(
    ("knob", "said"),
    [("fail", "code 1"), ("garbage", "Expecting value"), ("list-of-numbers", "a device lacks")],
)
def test_a_tool_that_does_not_work_is_named(
    tmp_path: Path, tools: str, knob: str, said: str
) -> None:
    machine = read_machine({"PATH": tools, "DOUBLE_NEURON_LS": knob}, root=tmp_path)
    assert machine.devices == ()
    assert machine.problem is not None
    assert said in machine.problem
    assert "neuron-ls" in machine.problem


def test_a_device_of_an_unknown_family(tmp_path: Path) -> None:
    write(tmp_path, "dev/neuron0")
    machine = read_machine({"PATH": ""}, root=tmp_path)
    assert machine.platform is None
    assert "family" in str(machine.problem)


@pytest.mark.parametrize(
    "text", ["", "{}", "[[]]", '[{"neuron_device": 0}]', '[{"neuron_device": 0, "nc_count": "x"}]']
)
def test_other_output_is_no_list_of_devices(text: str) -> None:
    with pytest.raises(ValueError):
        parse_devices(text)


def test_fields_that_are_not_needed_may_change() -> None:
    entry = {"neuron_device": 3, "nc_count": 2, "memory_size": 32 * GIB, "new": {"x": 1}}
    assert parse_devices(json.dumps([entry])) == (Device(3, 2, 1, 32 * GIB),)


def test_the_runtime_is_known_by_its_library(tmp_path: Path) -> None:
    for name in ("libnrt.so", "libnrt.so.1", "libnrt.so.2.31.24.0"):
        write(tmp_path, f"opt/aws/neuron/lib/{name}")
    assert read_machine({"PATH": ""}, root=tmp_path).runtime == "2.31.24.0"
