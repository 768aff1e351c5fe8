#!/usr/bin/env bash
# Table and bars: normalised scores on 5 % of D4RL's data by robot, shift and dataset.
# Words given to this script are Hydra overrides, e.g. scale=demo or hydra/launcher=joblib.
# OUT=folder says where results go (outputs/reproduce/dynamics_shift). DATA=local takes the data
# that come along instead of D4RL's. More rows: scripts/install_d3rlpy.sh, then add cql and td3bc.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/dynamics_shift}
for robot in halfcheetah walker2d; do
  if [ "${DATA:-d4rl}" = local ]; then
    targets=local/$robot-medium,local/$robot-medium-replay,local/$robot-medium-good
  else
    targets=$robot-medium-v2,$robot-medium-replay-v2,$robot-medium-expert-v2
  fi
  .venv/bin/python -m experiments.dynamics_shift --multirun hydra.sweep.dir="$out/$robot" \
    scale=paper robot=$robot shift=friction,thigh,gravity target.dataset="$targets" \
    'methods=[zero_shot,bc,iql,scratch,joint,finetune,psec]' seeds=[0,1,2] "$@"
done
.venv/bin/python -m experiments.report dynamics_shift_table "$out"
