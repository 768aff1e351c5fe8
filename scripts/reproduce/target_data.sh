#!/usr/bin/env bash
# Figure beyond the paper: normalized score by the share of the target's data, 1 to 50 %.
# Words given to this script are Hydra overrides, e.g. scale=demo or robot=halfcheetah.
# OUT=folder says where results go (outputs/reproduce/target_data).
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/install.sh

out=${OUT:-outputs/reproduce/target_data}
.venv/bin/python -m experiments.dynamics_shift --multirun hydra.sweep.dir="$out" \
  +study=target_data scale=paper "$@"
.venv/bin/python -m experiments.report target_data "$out"
