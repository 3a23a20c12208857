"""Real virtual environments whose packages are metadata alone."""

from __future__ import annotations

import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

PLACEHOLDER_TEXT = "WRONG PACKAGE. Please install the package from Neuron Repository"
"""How the description begins in what PyPI has under AWS's names: neuronx-cc 1.0.post1,
torch-neuronx 1.0, neuronx-distributed 0.1, neuronx-distributed-inference 0.1.0,
transformers-neuronx 0.1, libneuronxla 1.0, vllm-neuron 0.1.0, libtorch-neuronx-lite 0.0.1."""

NXDI = {
    "neuronx-cc": "2.24.5133.0", "torch-neuronx": "2.9.0.2.13.24727", "libneuronxla": "2.2.16408.0",
    "neuronx-distributed": "0.18.27753", "neuronx-distributed-inference": "0.9.17334",
    "torch": "2.9.1", "transformers": "4.57.6",
}  # fmt: skip
"""SDK 2.29."""


def make_environment(
    folder: Path,
    packages: Mapping[str, str] | None = None,
    *,
    placeholders: Mapping[str, str] | None = None,
    startup: str = "",
) -> Path:
    """Make a virtual environment in ``folder``; ``startup`` runs whenever it starts."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    for name, version in (packages or {}).items():
        add_package(folder, name, version)
    for name, version in (placeholders or {}).items():
        add_package(folder, name, version, description=PLACEHOLDER_TEXT)
    if startup:
        (site_packages(folder) / "sitecustomize.py").write_text(startup)
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    names = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", scheme="posix_prefix", vars=names))


def add_package(folder: Path, name: str, version: str, *, description: str = "A library.") -> Path:
    info = site_packages(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n{description}\n"
    )
    return info


def bare_environ(**variables: str) -> dict[str, str]:
    """An environment in which nothing is found but what is named."""
    return {"PATH": "", "HOME": "/", **variables}


VERSION = ".".join(map(str, sys.version_info[:2]))
