#!/usr/bin/env bash
# Figure: return while skills and policies from scratch are learned, without composition.
# Words given to this script are Hydra overrides, e.g. scale=demo or hydra/launcher=joblib.
# OUT=folder says where results go (outputs/reproduce/training_curves).
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/training_curves}
.venv/bin/python -m experiments.continual --multirun hydra.sweep.dir="$out" \
  +study=curves scale=paper "$@"
.venv/bin/python -m experiments.report training_curves "$out"
