#!/usr/bin/env bash
# Figure: return on S→W by the number of target demonstrations.
# Words given to this script are Hydra overrides, e.g. scale=demo or hydra/launcher=joblib.
# OUT=folder says where results go (outputs/reproduce/sample_efficiency).
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/sample_efficiency}
.venv/bin/python -m experiments.continual --multirun hydra.sweep.dir="$out" \
  +study=demonstrations scale=paper "$@"
.venv/bin/python -m experiments.report sample_efficiency "$out"
