#!/usr/bin/env bash
# How `throat` and `throat_causal` were made: scores out of fold first, then the weights, trained on all pairs.
#
#   bash shipped.sh PAIRS.jsonl SPEECH OUT [EXPERIMENT] [key=value ...]
#
# PAIRS.jsonl  recorded pairs, of `bcfusion prepare pairs ... --measure`; SPEECH  air speech, a folder with train/ and valid/
# EXPERIMENT   band_gain (throat) or band_gain_causal (throat_causal)
#
# The sensor is measured on the pairs that are trained on. Half of the training crops are these pairs, half is speech with the
# simulated sensor; the checkpoint is chosen on speech of other speakers with the simulated sensor. STEPS=600 is the length of a
# training. The model is written to OUT/models/NAME.
set -euo pipefail
pairs=$1 speech=$2 out=$3 experiment=${4:-band_gain}
shift $(($# < 4 ? $# : 4))
count=4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=recipes/going_on.sh
source "$here/../going_on.sh"
made_with "$out/$experiment" "pairs=$pairs" "speech=$speech" "$@" "STEPS=${STEPS:-600}"
declare -A names=([band_gain]=throat [band_gain_causal]=throat_causal)
name=${names[$experiment]}

lines() { python "$here/../../scripts/manifest_fold.py" "$pairs" "$@"; } # OUT.jsonl: with paths that hold there
train() { # FOLDER with train.jsonl [key=value ...]
  local dir=$1
  shift
  bcfusion calibrate --pairs "$dir/train.jsonl" --out "$dir/sensor.json"
  train_run "$dir/run" machine=cpu experiment="$experiment" seed=0 data=mixture data.parts.pairs="$dir/train.jsonl" data.parts.speech="$speech" \
    data.shares.pairs=0.5 'data.evaluate_on=[speech]' degradation=transfer_function degradation.body.calibration="$dir/sensor.json" \
    trainer.max_steps="${STEPS:-600}" trainer.validate_every=100 budget.minutes=600 trainer.max_test_items=1 trainer.samples=0 \
    "$@"
}

scores=()
for ((fold = 0; fold < count; fold++)); do
  dir=$out/$experiment/fold$fold
  lines "$dir/held.jsonl" --count $count --fold $fold --split test
  lines "$dir/train.jsonl" --count $count --without $fold --split train
  train "$dir" "$@"
  bcfusion evaluate "$dir/run" data=manifest data.path="$dir/held.jsonl" degradation=none 'metrics=[pesq_wb,stoi,estoi,lsd]' \
    trainer.samples=0 output="$dir/scores"
  scores+=("$experiment=$dir/scores/scores.csv")
done
bcfusion evaluate --scores "${scores[@]}" 'metrics=[pesq_wb,stoi,estoi,lsd]' output="$out/$experiment/table"

dir=$out/$experiment/all
lines "$dir/train.jsonl" --split train
train "$dir" "$@"
python "$here/../../scripts/ship_model.py" "$dir/run" --name "$name" --card "$here/cards/$name.yaml" --output "$out/models" --overwrite \
  --scores "$out/$experiment"/fold*/scores/scores.csv
