#!/usr/bin/env bash
# Figure: return on S→W by the rank of the skills, beside dense ones.
# Words given to this script are Hydra overrides, e.g. scale=demo or hydra/launcher=joblib.
# OUT=folder says where results go (outputs/reproduce/rank_ablation).
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/rank_ablation}
.venv/bin/python -m experiments.continual --multirun hydra.sweep.dir="$out" \
  +study=rank scale=paper "$@"
.venv/bin/python -m experiments.report rank_ablation "$out"
