"""Compile LLMs for AWS Neuron ahead of deployment, and serve exactly what was compiled."""

from neuron_artifacts._version import __version__

__all__ = ["__version__"]
