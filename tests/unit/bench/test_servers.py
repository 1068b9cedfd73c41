"""Servers are started, waited for, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from niyama.bench.servers import ServerError, free_port, serving

HEALTHY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

HOLDER = """
import asyncio, sys
from pathlib import Path
from niyama.bench.client import run_async
from niyama.bench.servers import serving
port, folder = int(sys.argv[1]), Path(sys.argv[2])
with serving([sys.executable, str(folder / "server.py"), str(port)], port, folder / "log", {}):
    (folder / "ready").touch()
    run_async(asyncio.sleep(600))
"""


def is_served(port: int) -> bool:
    probe = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/health', timeout=2)"
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True).returncode == 0


def test_who_is_killed_leaves_no_server_behind(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(HEALTHY)
    (tmp_path / "holder.py").write_text(HOLDER)
    port = free_port()
    holder = subprocess.Popen([sys.executable, str(tmp_path / "holder.py"), str(port), str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        assert holder.poll() is None
        time.sleep(0.05)
    assert is_served(port)
    holder.send_signal(signal.SIGTERM)
    assert holder.wait(60) != 0
    assert not is_served(port)


def test_a_server_that_ends_is_named_with_its_last_error(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "raise SystemExit('Error: no such model')"]
    server = serving(words, free_port(), tmp_path / "log", {})
    with pytest.raises(ServerError, match=r"ended with status 1; .*Error: no such model"), server:
        pass
