"""Which optimum-neuron counts by default, from what lies on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuron_artifacts.neuron_cache.installed import Installed, find_installed, find_target


def put_environment(root: Path, *packages: str) -> Path:
    """A virtual environment with these distributions, and their code where they have some."""
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").symlink_to("/usr/bin/env")
    site = root / "lib" / "python3.10" / "site-packages"
    site.mkdir(parents=True)
    for name in packages:
        (site / name).mkdir()
    return root


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        (("optimum_neuron-0.4.5.dist-info",), Installed("0.4.5", None)),
        (("optimum_neuron-0.4.5.dist-info", "neuronx_cc-1.0.dist-info"), Installed("0.4.5", None)),
        (
            ("optimum_neuron-0.4.4.dist-info", "neuronx_cc-2.21.33363.0+82129205.dist-info",
             "neuronxcc"),
            Installed("0.4.4", "2.21.33363.0+82129205"),
        ),
        (("optimum-2.0.0.dist-info", "optimum_neuron"), None),
        ((), None),
    ],
)  # fmt: skip
def test_what_an_environment_has(
    tmp_path: Path, packages: tuple[str, ...], expected: Installed | None
) -> None:
    environment = put_environment(tmp_path / "venv", *packages)
    for environ, python in (
        ({"VIRTUAL_ENV": str(environment)}, None),
        ({"PATH": f"{environment}/bin"}, None),
        ({}, str(environment / "bin" / "python")),
    ):
        assert find_installed(environ, python=python, root=tmp_path / "none") == expected


def test_the_first_that_has_it_counts(tmp_path: Path) -> None:
    put_environment(tmp_path / "bare")
    put_environment(tmp_path / "active", "optimum_neuron-0.4.3.dist-info")
    put_environment(tmp_path / "opt" / "aws_neuronx_venv_inf", "optimum_neuron-0.4.1.dist-info")
    environ = {"VIRTUAL_ENV": str(tmp_path / "bare"), "PATH": f"{tmp_path}/active/bin"}
    assert find_installed(environ, root=tmp_path) == Installed("0.4.3", None)
    assert find_installed({}, root=tmp_path) == Installed("0.4.1", None)


def test_the_device_of_this_host_is_the_target(tmp_path: Path) -> None:
    assert find_target({}, root=tmp_path) is None
    assert find_target({"NEURON_PLATFORM_TARGET_OVERRIDE": "trn2"}, root=tmp_path) == "trn2"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "neuron0").touch()
    name = tmp_path / "sys" / "devices" / "virtual" / "dmi" / "id" / "product_name"
    name.parent.mkdir(parents=True)
    name.write_text("inf2.48xlarge\n")
    assert find_target({}, root=tmp_path) == "inf2"
    assert find_target({"NEURON_PLATFORM_TARGET_OVERRIDE": "trn1"}, root=tmp_path) == "trn1"
