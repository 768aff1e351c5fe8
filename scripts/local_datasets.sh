#!/usr/bin/env bash
# Behavior policies of every local dataset but the walker's: trained, measured, stored.
# Words given to this script are Hydra overrides, e.g. budget=smoke.
# OUT=folder says where checkpoints and figures go (outputs/collect), FOLDER=folder where policies
# and recipes go (psec_jax/assets/behavior). What is finished there is gone over quickly.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh
.venv/bin/python -c 'import sbx' 2>/dev/null ||
  fail "training behavior policies needs: .venv/bin/pip install -c constraints.txt -e '.[collect]'"

collect() {
  .venv/bin/python -m experiments.collect "folder=${FOLDER:-psec_jax/assets/behavior}" \
    hydra.run.dir="${OUT:-outputs/collect}" "$@"
}
sources=('~datasets.medium-replay' '~datasets.medium-good')

collect behavior=halfcheetah "$@"
collect behavior=walker2d "$@"
collect behavior=halfcheetah shift.gravity=2 "${sources[@]}" "$@"
collect behavior=walker2d shift.gravity=2 policies.good.steps=800_000 "${sources[@]}" "$@"
collect behavior=carrun "$@"
collect behavior=ballrun "$@"
collect behavior=ballcircle "$@"
collect behavior=halfcheetah shift.friction=0.25 "${sources[@]}" "$@"
collect behavior=walker2d shift.friction=0.5 "${sources[@]}" "$@"
collect behavior=halfcheetah shift.thigh=2 "${sources[@]}" "$@"
collect behavior=walker2d shift.thigh=2 policies.good.steps=800_000 "${sources[@]}" "$@"
