"""vLLM's API keys, compared as vLLM compares them (vllm/entrypoints/serve/middleware/authenticate.py)."""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
from collections.abc import Iterable
from typing import Any

_AUTHENTICATION = "vllm.entrypoints.serve.middleware.authenticate"
_OLDER_GUARDED = ("/v1",)


class ApiKeys:
    """The keys of a server; with none, everybody may come in."""

    def __init__(self, keys: Iterable[str | None] = ()) -> None:
        """Take the keys; None and empty ones count for nothing, as with vLLM."""
        self._digests = [_digest(key.encode()) for key in keys if key]

    @classmethod
    def of_server(cls, args: Any) -> ApiKeys:
        """Return the keys of vLLM's parsed arguments: `--api-key`, else `VLLM_API_KEY`."""
        return cls(getattr(args, "api_key", None) or [os.environ.get("VLLM_API_KEY")])

    def allow(self, authorization: bytes) -> bool:
        """Whether the value of an `Authorization` header holds one of the keys. A few microseconds."""
        if not self._digests:
            return True
        scheme, _, key = authorization.partition(b" ")
        # vLLM reads header text as latin-1, most clients send UTF-8; digests make the lengths equal, too.
        given = {_digest(key), _digest(key.decode("latin-1").encode())}
        matches = [hmac.compare_digest(one, known) for one in given for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def guards(path: str) -> bool:
    """Whether the running vLLM asks for a key on this path, root path removed."""
    prefixes = getattr(sys.modules.get(_AUTHENTICATION), "GUARDED_PREFIX", _OLDER_GUARDED)
    return path.startswith(prefixes)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
