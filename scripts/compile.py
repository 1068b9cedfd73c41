"""Compile the hot modules with mypyc (see `niyama.compiled`): about half a minute, nothing if up to date.

python scripts/compile.py

Needs a C compiler, Python's headers and the `dev` extra. If it does not work, one line says so, and the
modules run interpreted: the exit code is 0 all the same. With --strict it is 1, and all that was
printed on the way is shown.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

os.environ["NIYAMA_PURE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from niyama.compiled import FINGERPRINT, FOLDER, MODULES, PACKAGE, fingerprint, is_fresh, source

BUILD = "--build"
MAX_SECONDS = 600


def build(scratch: Path) -> None:
    """Compile everything into `scratch`/lib; runs in a process of its own."""
    from mypyc.build import mypycify
    from setuptools import setup

    os.chdir(PACKAGE.parent)
    files = [str(source(module).relative_to(PACKAGE.parent)) for module in MODULES]
    options = ["--strict", "--config-file=", f"--cache-dir={scratch / 'cache'}", *files]
    # A group name of ours: the default one is a hash.
    extensions = mypycify(options, target_dir=str(scratch), group_name="niyama_compiled")
    command = ["--quiet", "build_ext", f"--build-lib={scratch / 'lib'}", f"--build-temp={scratch}"]
    setup(name="niyama-compiled", ext_modules=extensions, script_args=[*command, "--parallel=2"])


def problem() -> str:
    """Return why nothing can be compiled here; empty if there is no reason."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers are not installed (on Debian: apt install python3-dev)"
    return ""


def compile_all(scratch: Path) -> str:
    """Compile, and put the result in place; return what went wrong, empty if nothing did."""
    found = fingerprint()
    command = [sys.executable, __file__, BUILD, str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS, check=False)
    if done.returncode:
        return done.stdout + done.stderr
    result = scratch / "lib"
    (result / FINGERPRINT).write_text(found, encoding="ascii")
    if FOLDER.exists():
        FOLDER.rename(scratch / "old")
    result.rename(FOLDER)
    return ""


def main() -> int:
    """Compile unless it is done already."""
    if sys.argv[1:2] == [BUILD]:
        build(Path(sys.argv[2]))
        return 0
    if is_fresh():
        return 0
    wrong = problem()
    if not wrong:
        print("compile: the scheduling core and the simulator, about half a minute", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix=".compile-", dir=PACKAGE) as scratch:
            wrong = compile_all(Path(scratch))
    if not wrong:
        return 0
    is_strict = "--strict" in sys.argv[1:]
    last = wrong if is_strict else wrong.strip().splitlines()[-1]
    print(f"compile: not compiled, the modules run interpreted: {last}", file=sys.stderr)
    return int(is_strict)


if __name__ == "__main__":
    raise SystemExit(main())
