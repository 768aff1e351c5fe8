#!/usr/bin/env bash
# Table: normalized reward and cost on DSRL's MetaDrive and Bullet tasks.
# Words given to this script are Hydra overrides, e.g. scale=demo or hydra/launcher=joblib.
# OUT=folder says where results go (outputs/reproduce/multi_objective). DATA=local takes the tasks
# whose data come along instead of DSRL's.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/multi_objective}
data=()
if [ "${DATA:-dsrl}" = local ]; then
  data=(dataset=local guidance.objectives.feasibility.threshold=0.01)
  data+=(task=bullet/carrun,bullet/ballrun,bullet/ballcircle,metadrive/easymean,metadrive/mediummean)
fi
.venv/bin/python -m experiments.multi_objective --multirun hydra.sweep.dir="$out" \
  +study=multi_objective scale=paper "${data[@]}" "$@"
.venv/bin/python -m experiments.report multi_objective_table "$out"
