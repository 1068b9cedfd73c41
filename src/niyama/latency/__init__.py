"""How long a step will take and how long an answer will be.

Reading guide: `profiles` (fixed models by name), `fitted` (more of them, composed of measured
parts) for the `deployments`, `online` (learned from the engine's own steps), `lengths` (output
lengths). `search` holds what the step-time models share.
"""

from __future__ import annotations

from niyama.latency.deployments import kv_tokens, server_limits
from niyama.latency.fitted import FittedProfile
from niyama.latency.lengths import OutputLengthEstimator
from niyama.latency.online import OnlineModel
from niyama.latency.profiles import LinearProfile, get_profile, profile_names, register_profile
from niyama.latency.search import ChunkSearch

__all__ = [
    "ChunkSearch",
    "FittedProfile",
    "LinearProfile",
    "OnlineModel",
    "OutputLengthEstimator",
    "get_profile",
    "kv_tokens",
    "profile_names",
    "register_profile",
    "server_limits",
]
