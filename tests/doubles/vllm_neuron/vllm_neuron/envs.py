"""``vllm_neuron/envs.py``: flags are whole numbers; get_neuron_compile_cache_dir."""

from __future__ import annotations

import os


def flag(name):
    return bool(int(os.environ.get(name) or "0"))


def get_neuron_compile_cache_dir():
    root = os.environ.get("NEURON_LIBTORCH_CACHE_ROOT") or os.environ.get("VLLM_CACHE_ROOT")
    return os.path.join(root or os.path.expanduser("~/.cache/vllm"), "neuron/compile_cache")
