"""What a verb refuses before its work: before vLLM starts and fails at length, before a long run."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from niyama.cli import UsageError
from niyama.cli.vllm_options import VllmOptions
from niyama.engines.vllm.compat import NEWEST, UnsupportedVllmError, parse_version
from niyama.scheduling.registry import POLICIES, has_fixed_chunk
from niyama.wording import listed, one_line, shown

OLDEST_SERVER = (0, 28)
"""The first vLLM with endpoint plugins (vllm/plugins/endpoint_plugins/interface.py)."""

_VLLM_SERVE_ONLY = (
    "--api-server-count",
    "--headless",
    "--data-parallel-hybrid-lb",
    "--data-parallel-multi-port-external-lb",
)
"""Read by vllm/entrypoints/cli/serve.py only, which starts API servers by them."""

_INSTALL = 'pip install "niyama[cuda]" for GPUs, pip install "niyama[cpu]" for the CPU'
_MODEL_FILES = ("config.json", "params.json")  # Hugging Face's and Mistral's formats
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def check_vllm(version: str | None, *, allow_untested: bool) -> None:
    """Refuse a missing vLLM, and one that the server is not known to work with.

    Raises:
        UsageError: how to install it, or the supported versions.
    """
    if version is None:
        raise UsageError(f"vLLM is not installed; install it with {_INSTALL}")
    try:
        known = OLDEST_SERVER <= parse_version(version) <= NEWEST
    except UnsupportedVllmError:
        known = False
    if not known and not allow_untested:
        supported = " to ".join(".".join(map(str, bound)) for bound in (OLDEST_SERVER, NEWEST))
        raise UsageError(
            f"vLLM {version} is not supported; allowed: {supported} (--allow-untested-vllm tries it anyway)"
        )


def check_options(options: VllmOptions, environ: Mapping[str, str] | None = None) -> None:
    """Refuse vLLM options that exclude us, and warn of those that work against us.

    Raises:
        UsageError: another scheduler, the front end without Python middleware, several API servers or none.
    """
    environ = os.environ if environ is None else environ
    if "--scheduler-cls" in options:
        raise UsageError("--scheduler-cls: niyama serve sets it; allowed: --policy NAME")
    if environ.get("VLLM_USE_RUST_FRONTEND", "").lower() in ("1", "true"):
        raise UsageError(
            "VLLM_USE_RUST_FRONTEND: it has no Python middleware, QoS classes need it; allowed: 0 or unset"
        )
    for option in _VLLM_SERVE_ONLY:
        if option in options and (options.get(option), option) != ("1", "--api-server-count"):
            raise UsageError(
                f"{option}: niyama serve starts one API server, and only `vllm serve` acts on that; "
                "allowed: `vllm serve` with the environment and options of --print-command"
            )
    for option in options.starting_with("--max-num-queued-"):
        print(
            f"niyama: warning: {option} refuses requests whatever their class; better leave it unset",
            file=sys.stderr,
        )


def check_policy(name: str, chunk: int | None) -> None:
    """Refuse an unknown policy, and a chunk that is no number of tokens or that the policy would not use.

    Raises:
        UsageError: what is allowed.
    """
    if name not in POLICIES:
        raise UsageError(f"--policy: {shown(name)} is unknown; allowed: {listed(sorted(POLICIES))}")
    if chunk is not None and chunk < 1:
        raise UsageError(f"--chunk: {chunk} is not a chunk; allowed: a whole number of tokens >= 1")
    if chunk is not None and not has_fixed_chunk(name):
        fixed = listed([known for known in sorted(POLICIES) if has_fixed_chunk(known)])
        raise UsageError(f"--chunk: {name} chooses its own; allowed: with --policy {fixed}")


def check_writable(path: str, option: str = "--step-log") -> None:
    """Refuse a file of an option that cannot be written.

    Raises:
        UsageError: the reason.
    """
    target = Path(path)
    if target.is_dir():
        reason = "it is a folder"
    elif not target.parent.is_dir():
        reason = f"there is no folder {target.parent}"
    elif os.access(target if target.exists() else target.parent, os.W_OK):
        return
    else:
        reason = "permission denied"
    raise UsageError(f"{option}: {path} cannot be written: {reason}")


def check_folder(path: str, names: Sequence[str], option: str) -> None:
    """Refuse a folder of an option in which files of these names cannot be written; it may be new.

    Raises:
        UsageError: the reason.
    """
    folder = Path(path)
    try:
        there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    except (OSError, ValueError):
        raise UsageError(one_line(f"{option}: {path} cannot be made: no folder has such a name")) from None
    if there == folder and folder.is_dir():
        for name in names:
            check_writable(str(folder / name), option)
    elif not there.is_dir():
        raise UsageError(f"{option}: {path} cannot be made: {there} is not a folder")
    elif not os.access(there, os.W_OK):
        raise UsageError(f"{option}: {path} cannot be made: permission denied in {there}")


def check_outputs(**paths: str | None) -> None:
    """Refuse files that could not be written at the end of a run.

    Args:
        paths: By the option's name without dashes; None, or `-` for stdout, is passed over.

    Raises:
        UsageError: the option and the reason.
    """
    for name, path in paths.items():
        if path is None or path == "-":
            continue
        try:
            check_writable(path, f"--{name}")
        except UsageError as error:
            raise UsageError(one_line(str(error))) from None
        except (OSError, ValueError) as error:  # not even a name that a file can have
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UsageError(one_line(f"--{name}: {path} cannot be written: {reason}")) from None


def check_json(path: str | None, out: str | None) -> None:
    """Refuse a file of `--json` that could not be written at the end of a run.

    Args:
        path: The file; None, or `-` for stdout, is passed over.
        out: The folder of `--out`, or None. The file may lie in it before it is made.

    Raises:
        UsageError: the reason.
    """
    if path not in (None, "-") and out is not None and Path(path).absolute().parent == Path(out).absolute():
        check_folder(out, (Path(path).name,), "--json")
    else:
        check_outputs(json=path)


def check_model(model: str) -> None:
    """Refuse a model that is neither in a folder here nor can be a name on the Hugging Face hub.

    Raises:
        UsageError: what was looked for.
    """
    path = Path(model)
    if path.is_dir():
        if not any((path / name).is_file() for name in _MODEL_FILES) and not any(path.glob("*.gguf")):
            raise UsageError(f"MODEL: the folder {model} has no config.json, so it holds no model")
    elif not path.is_file() and "://" not in model and not _HUB_NAME.fullmatch(model):
        raise UsageError(
            f"MODEL: {model} does not exist; allowed: a folder with config.json, a Hugging Face name, "
            "or no MODEL for the demo model"
        )


def check_port(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        UsageError: the reason.
    """
    if not 1 <= port <= 65535:
        raise UsageError(f"--port: {port} is not a port; allowed: 1 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM's own socket has it
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose --host or --port"
            ) from error
