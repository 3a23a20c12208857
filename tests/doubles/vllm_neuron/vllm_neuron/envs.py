"""``vllm_neuron/envs.py``: flags are whole numbers; get_neuron_compile_cache_dir.

With ``lite`` among ``NEURON_DOUBLE`` the cache is libtorch-neuronx-lite's (SDK 2.32), which knows
its own variable alone.
"""

from __future__ import annotations

import os


def flag(name):
    return bool(int(os.environ.get(name) or "0"))


def get_neuron_compile_cache_dir():
    root = os.environ.get("NEURON_LIBTORCH_CACHE_ROOT")
    if not root and "lite" in os.environ.get("NEURON_DOUBLE", "").split(","):
        root = os.path.expanduser("~/.cache/neuron_libtorch")
    root = root or os.environ.get("VLLM_CACHE_ROOT") or os.path.expanduser("~/.cache/vllm")
    return os.path.join(root, "neuron/compile_cache")
