#!/usr/bin/env bash
# Table and bars: normalized scores on 5 % of D4RL's data by robot, shift and dataset.
# Words given to this script are Hydra overrides, e.g. scale=demo or hydra/launcher=joblib.
# OUT=folder says where results go (outputs/reproduce/dynamics_shift). DATA=local takes the data
# that come along instead of D4RL's.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/dynamics_shift}
data=()
if [ "${DATA:-d4rl}" = local ]; then
  data=(+target=local-medium,local-medium-replay,local-medium-good)
fi
.venv/bin/python -m experiments.dynamics_shift --multirun hydra.sweep.dir="$out" \
  +study=dynamics_shift scale=paper "${data[@]}" "$@"
.venv/bin/python -m experiments.report dynamics_shift_table "$out"
