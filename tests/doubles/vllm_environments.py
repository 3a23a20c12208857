"""Virtual environments with doubles of vLLM, for each generation that serves differently.

Versions: the manifest of the Neuron SDK (``n2-manifest.json``) and, for native ones, public
records of installed environments of SDK 2.32; a fork calls itself vLLM 0.7.2 with a suffix.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from tests.doubles.environments import DOUBLES
from tests.toolchain.environments import NXDI, make_environment, site_packages

NATIVE = {
    "neuronx-cc": "2.27.5334.0", "nki": "0.6.0", "torch": "2.11.0", "transformers": "4.57.6",
    "libtorch-neuronx-lite": "2.11.0.1.0.1284", "vllm": "0.24.0", "vllm-neuron": "0.24.0.1.1.0",
}  # fmt: skip
PACKAGES = {
    "fork": {**NXDI, "vllm": "0.7.2.dev38+neuron218"},
    "main": {**NXDI, "vllm": "0.9.2"},
    "plugin": {**NXDI, "vllm": "0.16.0", "vllm-neuron": "0.5.0"},
    "native": NATIVE,
    "native-newer": {**NATIVE, "nki": "0.7.0"},
    "nxdi": NXDI,
    "newer": {**NXDI, "neuronx-cc": "2.25.1.0", "vllm": "0.16.0", "vllm-neuron": "0.5.0"},
}


def make_vllm_environment(folder: Path, generation: str) -> Path:
    """An interpreter whose vLLM is of ``generation``, a key of :data:`PACKAGES`."""
    python = make_environment(folder, PACKAGES[generation])
    library = "vllm_neuron" if generation.startswith("native") else "nxdi"
    paths = [DOUBLES / name for name in ("vllm", library, "native")]
    paths.append(Path(sysconfig.get_path("purelib")))
    (site_packages(folder) / "doubles.pth").write_text("".join(f"{path}\n" for path in paths))
    return python
