"""Niyama: one fleet of vLLM replicas serves every application's latency promise."""

__version__ = "0.1.0"

__all__ = ["__version__"]
