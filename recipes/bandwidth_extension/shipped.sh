#!/usr/bin/env bash
# How `bandwidth_8k` was made: 8 to 16 kHz, causal.
#
#   bash shipped.sh SPEECH.jsonl OUT [key=value ...]
#
# SPEECH.jsonl  wide-band speech with train, valid and test, of `bcfusion prepare folder`; without recordings whose source was MP3
#
# STEPS=2500 is the length of the training. The model is written to OUT/models/bandwidth_8k.
set -euo pipefail
speech=$1 out=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=recipes/going_on.sh
source "$here/../going_on.sh"
steps=${STEPS:-2500}
made_with "$out" "speech=$speech" "$@" "STEPS=$steps"
train_run "$out/run" machine=cpu recipe=bandwidth_extension experiment=seanet_streaming seed=0 data=manifest data.path="$speech" \
  scheduler=cosine trainer.max_steps="$steps" trainer.validate_every=$((steps / 10)) budget.minutes=600 trainer.samples=0 "$@"
bcfusion evaluate "$out/run" output="$out/scores" trainer.samples=0
python "$here/../../scripts/ship_model.py" "$out/run" --name bandwidth_8k --card "$here/cards/bandwidth_8k.yaml" --output "$out/models" --overwrite \
  --scores "$out/scores/scores.csv" --metrics lsd,lsd_hf,pesq_wb,stoi
