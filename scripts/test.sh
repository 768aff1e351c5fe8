#!/usr/bin/env bash
# Installs where needed, runs the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  cat <<'EOF'
usage: scripts/test.sh [PYTEST OPTION ...]

Makes .venv where it is missing, installs psec-jax with pinned versions, and runs the tests.

--fast runs only the fast tier: the laws of skills, composition, learners, training and policies,
without simulators, other programs and whole runs; a few minutes on two cores.

The tests' files are shared out over the cores. Options go to pytest, for example
  scripts/test.sh tests/skills      one folder
  scripts/test.sh --fast -x         the fast tier, stopping at the first failure
  scripts/test.sh -k library -x     by name, stopping at the first failure
  scripts/test.sh -n 0 --pdb        one after another, with a debugger

PYTHON=/path/to/python chooses the interpreter (3.11 or newer).
EOF
  exit 0
fi

. scripts/install.sh
exec .venv/bin/python -m pytest \
  -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder "$@"
