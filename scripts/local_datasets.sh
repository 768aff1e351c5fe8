#!/usr/bin/env bash
# Behaviour policies of every local dataset but the walker's: trained, measured, put on the shelf.
# Words given to this script are Hydra overrides, e.g. effort=smoke.
# OUT=folder says where checkpoints and figures go (outputs/collect), SHELF=folder where policies
# and recipes go (psec_jax/assets/behaviour). What is finished there is gone over quickly.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh
.venv/bin/python -c 'import sbx' 2>/dev/null ||
  fail "training behaviour policies needs: .venv/bin/pip install -c constraints.txt -e '.[collect]'"

collect() {
  .venv/bin/python -m experiments.collect "shelf=${SHELF:-psec_jax/assets/behaviour}" \
    hydra.run.dir="${OUT:-outputs/collect}" "$@"
}
sources=('~datasets.medium-replay' '~datasets.medium-good')

collect behaviour=halfcheetah "$@"
collect behaviour=walker2d "$@"
collect behaviour=halfcheetah shift.gravity=2 "${sources[@]}" "$@"
collect behaviour=walker2d shift.gravity=2 policies.good.steps=800_000 "${sources[@]}" "$@"
collect behaviour=carrun "$@"
collect behaviour=ballrun "$@"
collect behaviour=ballcircle "$@"
collect behaviour=halfcheetah shift.friction=0.25 "${sources[@]}" "$@"
collect behaviour=walker2d shift.friction=0.5 "${sources[@]}" "$@"
collect behaviour=halfcheetah shift.thigh=2 "${sources[@]}" "$@"
collect behaviour=walker2d shift.thigh=2 policies.good.steps=800_000 "${sources[@]}" "$@"
