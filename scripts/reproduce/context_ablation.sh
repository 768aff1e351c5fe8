#!/usr/bin/env bash
# Figure: every level with and without context-awareness on S→W.
# Words given to this script are Hydra overrides, e.g. scale=demo or hydra/launcher=joblib.
# OUT=folder says where results go (outputs/reproduce/context_ablation).
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/context_ablation}
.venv/bin/python -m experiments.continual --multirun hydra.sweep.dir="$out" \
  +study=context scale=paper "$@"
.venv/bin/python -m experiments.report context_ablation "$out"
