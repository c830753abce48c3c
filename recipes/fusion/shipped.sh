#!/usr/bin/env bash
# How `fusion` was made: scores out of fold first, then the weights, trained on all pairs.
#
#   bash shipped.sh PAIRS.jsonl SPEECH NOISE OUT [key=value ...]
#
# PAIRS.jsonl  recorded pairs, of `bcfusion prepare pairs ... --measure`; SPEECH  air speech, a folder with train/ and valid/
# NOISE        recordings of noise: training uses the first 80 % of each file, evaluation the last 20 %
#
# The body sensor is recorded in half of the training crops and simulated as measured in the others; noise is added to the air
# microphone in all of them. STEPS=400 is the length of a training. The model is written to OUT/models/fusion.
set -euo pipefail
pairs=$1 speech=$2 noise=$3 out=$4
shift 4
count=4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=recipes/going_on.sh
source "$here/../going_on.sh"
made_with "$out" "pairs=$pairs" "speech=$speech" "noise=$noise" "$@" "STEPS=${STEPS:-400}"

lines() { python "$here/../../scripts/manifest_fold.py" "$pairs" "$@"; } # OUT.jsonl: with paths that hold there
train() { # FOLDER with train.jsonl [key=value ...]
  local dir=$1
  shift
  bcfusion calibrate --pairs "$dir/train.jsonl" --out "$dir/sensor.json"
  train_run "$dir/run" machine=cpu recipe=fusion experiment=band_gain seed=0 data=mixture data.parts.pairs="$dir/train.jsonl" data.parts.speech="$speech" \
    data.shares.pairs=0.5 'data.evaluate_on=[speech]' data.noise_root="$noise" data.sensor_dropout=0.1 degradation=fusion_measured \
    degradation.body.calibration="$dir/sensor.json" trainer.max_steps="${STEPS:-400}" trainer.validate_every=100 budget.minutes=600 \
    trainer.max_test_items=1 trainer.samples=0 "$@"
}

for ((fold = 0; fold < count; fold++)); do
  dir=$out/fold$fold
  lines "$dir/held.jsonl" --count $count --fold $fold --split test
  lines "$dir/train.jsonl" --count $count --without $fold --split train
  train "$dir" "$@"
  for snr in -5 0 10; do
    bcfusion evaluate "$dir/run" data=manifest data.path="$dir/held.jsonl" data.noise_root="$noise" degradation.noisy.evaluation_snr=$snr \
      'metrics=[pesq_wb,stoi,estoi,lsd]' trainer.samples=0 output="$dir/scores$snr"
  done
done
for snr in -5 0 10; do
  scores=()
  for ((fold = 0; fold < count; fold++)); do scores+=("fusion=$out/fold$fold/scores$snr/scores.csv"); done
  bcfusion evaluate --scores "${scores[@]}" 'metrics=[pesq_wb,stoi,estoi,lsd]' output="$out/table$snr"
done

dir=$out/all
lines "$dir/train.jsonl" --split train
train "$dir" "$@"
python "$here/../../scripts/ship_model.py" "$dir/run" --name fusion --card "$here/cards/fusion.yaml" --output "$out/models" --overwrite \
  --scores "$out"/fold*/scores0/scores.csv
