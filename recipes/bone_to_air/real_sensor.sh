#!/usr/bin/env bash
# Four folds over recorded pairs: is a network better than the sensor itself on wearers of whom it knows nothing, and
# how much do pairs of the same sensor add? For each fold the sensor is calibrated on the pairs of the three others, a
# network is trained on simulation alone, scored on the held-out pairs, adapted on the others, and scored again. Every
# choice (calibration, checkpoint, number of steps) uses the three other folds alone.
#
#   bash real_sensor.sh PAIRS.jsonl SPEECH OUT [SEED] [EXPERIMENT] [key=value ...]
#
# PAIRS.jsonl  of `bcfusion prepare pairs ... --measure`; SPEECH  folder with train/ and valid/, as for data=folder
# STEPS=N (300) is the length of training; MINUTES=M (5) bounds each adaptation; FOLDS="0 1" does some of the folds.
set -euo pipefail
pairs=$1 speech=$2 out=$3 seed=${4:-0} experiment=${5:-band_gain}
shift $(($# < 5 ? $# : 5))
mkdir -p "$out"
count=4
for fold in ${FOLDS:-0 1 2 3}; do
  dir=$out/$experiment/seed$seed/fold$fold
  mkdir -p "$dir"
  awk -v n=$count -v f="$fold" '(NR - 1) % n == f' "$pairs" >"$dir/held.jsonl"
  awk -v n=$count -v f="$fold" '(NR - 1) % n != f' "$pairs" >"$dir/others.jsonl"
  bcfusion calibrate --pairs "$dir/others.jsonl" --out "$dir/sensor.json"
  bcfusion train experiment="$experiment" data=folder data.root="$speech" seed="$seed" \
    degradation=transfer_function degradation.body.calibration="$dir/sensor.json" \
    trainer.max_steps="${STEPS:-300}" budget.minutes=600 hydra.run.dir="$dir/run" "$@"
  score() { bcfusion evaluate "$1" data=manifest data.path="$dir/held.jsonl" degradation=none output="$dir/$2"; }
  score "$dir/run" simulation
  bcfusion adapt "$dir/run" --pairs "$dir/others.jsonl" --output "$dir/adapted" --minutes "${MINUTES:-5}" --seed "$seed"
  score "$dir/adapted" pairs
done
