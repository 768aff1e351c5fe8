#!/usr/bin/env bash
# From a clone to the table: installs where needed, runs the continual experiment.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  cat <<'EOF'
usage: scripts/demo.sh [OVERRIDE ...]

Makes .venv where it is missing, installs psec-jax with pinned versions, and runs the
continual policy shift experiment on demonstrations that come along. Prints the table and
where the figures and the skill library are.

OVERRIDE is any Hydra override, for example
  scripts/demo.sh scale=smoke               seconds: every part runs, nothing is learned
  scripts/demo.sh seeds=[0,1,2]             three seeds
  scripts/demo.sh 'methods=[scratch,psec]'  fewer rows
  scripts/demo.sh --cfg job                 print the configuration, run nothing

PYTHON=/path/to/python chooses the interpreter (3.11 or newer).
EOF
  exit 0
fi

. scripts/install.sh
exec .venv/bin/python -m experiments.continual "$@"
