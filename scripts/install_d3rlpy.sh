#!/usr/bin/env bash
# d3rlpy, for the baselines CQL and TD3+BC, in an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  cat <<'EOF'
usage: scripts/install_d3rlpy.sh

Makes .venv-d3rlpy with d3rlpy 2.8.1 and torch, with pinned versions, once: the baselines CQL
and TD3+BC are trained there (experiments/d3rlpy.py), because d3rlpy asks for an outdated
gymnasium. Makes .venv as well where it is missing.

PYTHON=/path/to/python chooses the interpreter (3.11 or newer).
EOF
  exit 0
fi

# Also chooses $python and says what fail does.
. scripts/install.sh

# All that pip brings along with d3rlpy, as it was when the baselines were last tested.
pins="
  d3rlpy==2.8.1 safetensors==0.8.0
  click==8.5.1 cloudpickle==3.1.2 colorama==0.4.6 dataclasses-json==0.6.7
  Farama-Notifications==0.0.6 filelock==4.2.12 fsspec==2026.9.0 gym==0.26.2 gym-notices==0.1.0
  gymnasium==1.0.0 h5py==3.16.0 Jinja2==3.1.6 joblib==1.6.0 MarkupSafe==3.0.4
  marshmallow==3.26.2 mpmath==1.3.0 mypy_extensions==1.2.0 narwhals==2.29.0 networkx==3.6.1
  numpy==2.4.6 packaging==26.3 scikit-learn==1.9.1 scipy==1.17.1 structlog==26.1.0 sympy==1.14.0
  threadpoolctl==3.8.0 tqdm==4.70.1 typing-inspect==0.9.0 typing_extensions==4.16.0
"
environment=.venv-d3rlpy
stamp=$environment/installed
wanted=$(cksum <scripts/install_d3rlpy.sh)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "installing into $environment (once; a few minutes)"
  log=${log:-$(mktemp)}
  trap 'rm -f "$log"' EXIT
  [ -x "$environment/bin/python" ] || "$python" -m venv "$environment" ||
    fail "could not make $environment with $python; on Debian and Ubuntu: apt install python3-venv"
  pip_install_d3rlpy() {
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@" \
      >"$log" 2>&1 && return
    cat "$log" >&2
    fail "pip could not install $1; its words stand above (no way to a package index?)"
  }
  # First and alone, so that pip takes a CPU build where it knows of one: d3rlpy would be content
  # with any torch, and bring several GB of CUDA.
  pip_install_d3rlpy torch==2.13.0
  # shellcheck disable=SC2086  # one word a package
  pip_install_d3rlpy $pins
  echo "$wanted" >"$stamp"
fi
