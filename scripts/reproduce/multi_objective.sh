#!/usr/bin/env bash
# Table: normalised reward and cost on DSRL's MetaDrive and Bullet tasks.
# Words given to this script are Hydra overrides, e.g. scale=demo or hydra/launcher=joblib.
# OUT=folder says where results go (outputs/reproduce/multi_objective). DATA=local takes the tasks
# whose data come along instead of DSRL's.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/multi_objective}
if [ "${DATA:-dsrl}" = local ]; then
  tasks=bullet/carrun,bullet/ballrun,bullet/ballcircle,metadrive/easymean,metadrive/mediummean
else
  tasks=$(printf 'bullet/%s,' {ant,ball,car,drone}{run,circle})
  tasks+=$(printf 'metadrive/%s,' {easy,medium,hard}{sparse,mean,dense})
fi
.venv/bin/python -m experiments.multi_objective --multirun hydra.sweep.dir="$out" \
  scale=paper task="${tasks%,}" dataset="${DATA:-dsrl}" \
  'methods=[bc,bc_safe,fisor,asec,nsec,psec]' seeds=[0,1,2] "$@"
.venv/bin/python -m experiments.report multi_objective_table "$out"
