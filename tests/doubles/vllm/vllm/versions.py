"""Which generation the installed packages make (versions as in ``setup.py`` of each)."""

from __future__ import annotations

from importlib import metadata


def generation():
    try:
        plugin = [int(part) for part in metadata.version("vllm-neuron").split(".")[:2]]
    except metadata.PackageNotFoundError:
        return "fork" if metadata.version("vllm").startswith("0.7.") else "main"
    return "native" if plugin >= [0, 21] else "plugin"
