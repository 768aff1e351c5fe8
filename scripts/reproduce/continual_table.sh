#!/usr/bin/env bash
# Table: return on S→W, S→R and S+W→R of every method, five seeds, one job a seed.
# Words given to this script are Hydra overrides, e.g. scale=demo or hydra/launcher=joblib.
# OUT=folder says where results go (outputs/reproduce/continual_table).
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/continual_table}
.venv/bin/python -m experiments.continual --multirun hydra.sweep.dir="$out" \
  +study=continual scale=paper "$@"
.venv/bin/python -m experiments.report continual_table "$out"
