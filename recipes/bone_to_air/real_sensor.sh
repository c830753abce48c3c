#!/usr/bin/env bash
# Folds over recorded pairs of a sensor: is a network better than the sensor itself on recordings, and wearers, that took
# no part in anything?
#
#   bash real_sensor.sh PAIRS.jsonl OTHER.jsonl SPEECH OUT [SEED] [EXPERIMENT] [key=value ...]
#
# PAIRS.jsonl  pairs of the sensor, of `bcfusion prepare pairs ... --measure`
# OTHER.jsonl  pairs of another sensor: the adaptation starts from a network that was trained on a simulation of that one
# SPEECH       air speech, a folder with train/ and valid/ as for data=folder
#
# simulation   the sensor is measured on the pairs of the other folds; a network is trained on its simulation alone, scored on this one
# start        a network trained on the simulation of the other sensor, scored on all pairs
# adapted      the start, adapted by `bcfusion adapt` on the pairs of the other folds, scored on this one
#
# Whatever is chosen (calibration, checkpoint, number of steps) is chosen without this fold. ROWS="simulation start adapted" selects
# rows, COUNT=4 is the number of folds, FOLDS="0 1 2 3" selects some, STEPS=300 is the length of a training, MINUTES=5 the bound of an
# adaptation, ADAPT_STEPS=180 its largest number of steps instead, which does not depend on how fast the machine is.
set -euo pipefail
pairs=$1 other=$2 speech=$3 out=$4 seed=${5:-0} experiment=${6:-band_gain}
shift $(($# < 6 ? $# : 6))
rows=" ${ROWS:-simulation start adapted} "
count=${COUNT:-4}
folds=${FOLDS:-$(seq 0 $((count - 1)))}
base=$out/$experiment/seed$seed
length=(--minutes "${MINUTES:-5}")
[ -z "${ADAPT_STEPS:-}" ] || length=(--steps "$ADAPT_STEPS")
mkdir -p "$base"

train() { # CALIBRATION RUN [key=value ...]
  local calibration=$1 run=$2
  shift 2
  bcfusion train machine=cpu experiment="$experiment" data=folder data.root="$speech" seed="$seed" degradation=transfer_function \
    degradation.body.calibration="$calibration" trainer.max_steps="${STEPS:-300}" trainer.validate_every=100 budget.minutes=600 \
    trainer.max_test_items=1 trainer.samples=0 hydra.run.dir="$run" "$@"
}
score() { # MODEL PAIRS OUTPUT
  bcfusion evaluate "$1" data=manifest data.path="$2" degradation=none 'metrics=[pesq_wb,stoi,estoi,lsd]' trainer.samples=0 output="$3"
}

if [[ $rows == *" start "* || $rows == *" adapted "* ]] && [ ! -d "$base/start/bundle" ]; then
  bcfusion calibrate --pairs "$other" --out "$base/other.json"
  train "$base/other.json" "$base/start" "$@"
fi
[[ $rows != *" start "* ]] || score "$base/start" "$pairs" "$base/start-scores"
for fold in $folds; do
  dir=$base/fold$fold
  mkdir -p "$dir"
  awk -v n=$count -v f="$fold" '(NR - 1) % n == f' "$pairs" >"$dir/held.jsonl"
  awk -v n=$count -v f="$fold" '(NR - 1) % n != f' "$pairs" >"$dir/others.jsonl"
  if [[ $rows == *" simulation "* ]]; then
    bcfusion calibrate --pairs "$dir/others.jsonl" --out "$dir/sensor.json"
    train "$dir/sensor.json" "$dir/run" "$@"
    score "$dir/run" "$dir/held.jsonl" "$dir/simulation"
  fi
  if [[ $rows == *" adapted "* ]]; then
    bcfusion adapt "$base/start" --pairs "$dir/others.jsonl" --speech "$speech" --output "$dir/adapted" "${length[@]}" --seed "$seed"
    score "$dir/adapted" "$dir/held.jsonl" "$dir/adapted-scores"
  fi
done

# one table of all folds
tables=()
[[ $rows != *" start "* ]] || tables+=("start=$base/start-scores/scores.csv")
for fold in $folds; do
  [[ $rows != *" simulation "* ]] || tables+=("simulation=$base/fold$fold/simulation/scores.csv")
  [[ $rows != *" adapted "* ]] || tables+=("adapted=$base/fold$fold/adapted-scores/scores.csv")
done
bcfusion evaluate --scores "${tables[@]}" 'metrics=[pesq_wb,stoi,estoi,lsd]' output="$base/table"
