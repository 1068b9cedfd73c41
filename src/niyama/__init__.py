"""Niyama: one fleet of vLLM replicas serves every application's latency promise."""

from niyama import compiled

__version__ = "0.1.0"

__all__ = ["__version__"]

compiled.prefer()
