"""Virtual environments that have doubles of the Neuron libraries, with their metadata.

Sources of the versions: optimum-neuron v0.4.5, ``pyproject.toml`` (extra ``neuronx``), and, for
transformers-neuronx 0.13, the packages of SDK 2.21.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from tests.toolchain.environments import NXDI, make_environment, site_packages

DOUBLES = Path(__file__).parent

PACKAGES = {
    "optimum_neuron": {
        "optimum-neuron": "0.4.5", "neuronx-cc": "2.21.33363.0+82129205",
        "torch-neuronx": "2.8.0.2.10.16998", "neuronx-distributed": "0.15.22404",
        "torch": "2.8.0", "transformers": "4.57.3",
    },
    "nxdi": NXDI,
    "transformers_neuronx": {
        "transformers-neuronx": "0.13.322", "neuronx-cc": "2.16.372.0",
        "torch-neuronx": "2.5.1.2.4.0", "torch": "2.5.1", "transformers": "4.45.2",
    },
}  # fmt: skip


def make_neuron_environment(folder: Path, double: str) -> Path:
    """An interpreter in which ``double`` can be imported; what it needs beyond comes from ours."""
    python = make_environment(folder, PACKAGES[double])
    paths = [DOUBLES / double, DOUBLES / "native", Path(sysconfig.get_path("purelib"))]
    (site_packages(folder) / "doubles.pth").write_text("".join(f"{path}\n" for path in paths))
    return python
