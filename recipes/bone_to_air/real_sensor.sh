#!/usr/bin/env bash
# Folds over recorded pairs of a sensor: is a network better than the sensor itself on recordings that took no part in anything?
# Every COUNTth line of PAIRS.jsonl is a fold: list the recordings of a wearer so that they are in one, or the wearer took part.
#
#   bash real_sensor.sh PAIRS.jsonl OTHER.jsonl SPEECH OUT [SEED] [EXPERIMENT] [key=value ...]
#
# PAIRS.jsonl  pairs of the sensor, of `bcfusion prepare pairs ... --measure`
# OTHER.jsonl  pairs of another sensor: the adaptation starts from a network that was trained on a simulation of that one;
#              or the word any: from one that was trained on simulated sensors of all kinds (degradation=any_sensor)
# SPEECH       air speech, a folder with train/ and valid/ as for data=folder; NOISE=DIR leaks into the sensors of any
#
# simulation   the sensor is measured on the pairs of the other folds; a network is trained on its simulation alone, scored on this one
# start        a network trained on the simulation of the other sensor, scored on the pairs of all chosen folds
# adapted      the start, adapted by `bcfusion adapt` on the pairs of the other folds, scored on this one
# fresh        the same from random weights: without the training on air speech
#
# What is in OUT is not trained again: another call adds rows, or goes on. It refuses an OUT of other settings or of another division into folds.
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
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=recipes/going_on.sh
source "$here/../going_on.sh"
lines() { python "$here/../../scripts/manifest_fold.py" "$pairs" "$@"; } # OUT.jsonl: with paths that hold there
made_with "$base" "speech=$speech" "$@" "STEPS=${STEPS:-300}" "NOISE=${NOISE:-}" "${length[*]}"

train() { # CALIBRATION|any RUN [key=value ...]
  local run=$2 sensor=(degradation=transfer_function "degradation.body.calibration=$1")
  [ "$1" != any ] || sensor=(degradation=any_sensor "data.noise_root=${NOISE:-null}")
  shift 2
  train_run "$run" machine=cpu experiment="$experiment" data=folder data.root="$speech" seed="$seed" "${sensor[@]}" trainer.max_steps="${STEPS:-300}" trainer.validate_every=100 budget.minutes=600 \
    trainer.max_test_items=1 trainer.samples=0 "$@"
}
score() { # MODEL PAIRS OUTPUT
  bcfusion evaluate "$1" data=manifest data.path="$2" degradation=none 'metrics=[pesq_wb,stoi,estoi,lsd]' trainer.samples=0 output="$3"
}

if [[ $rows == *" start "* || $rows == *" adapted "* || $rows == *" fresh "* ]]; then
  sensor=any place=any
  if [ "$other" != any ]; then
    sensor=$base/other.json place=$(cd "$(dirname "$other")" && pwd)/$(basename "$other")
  fi
  if [ -f "$base/start.sensor" ] && [[ $(cat "$base/start.sensor") != "$place" && $(cat "$base/start.sensor") != "$other" ]]; then
    echo "$base/start was trained for $(cat "$base/start.sensor"), not $other: choose another OUT" >&2
    exit 2
  fi
  if [ ! -d "$base/start/bundle" ]; then
    [ "$other" = any ] || bcfusion calibrate --pairs "$other" --out "$sensor"
    echo "$place" >"$base/start.sensor"
    train "$sensor" "$base/start" "$@"
  fi
fi
for fold in $folds; do
  dir=$base/fold$fold
  lines "$dir/others.now.jsonl" --count "$count" --without "$fold"
  if [ -f "$dir/others.jsonl" ] && ! cmp -s "$dir/others.jsonl" "$dir/others.now.jsonl"; then
    echo "$dir: its networks were trained on other recordings than $pairs and COUNT=$count give: choose another OUT" >&2
    exit 2
  fi
  mv "$dir/others.now.jsonl" "$dir/others.jsonl"
  lines "$dir/held.jsonl" --count "$count" --fold "$fold" --split test
  if [[ $rows == *" simulation "* ]]; then
    bcfusion calibrate --pairs "$dir/others.jsonl" --out "$dir/sensor.json"
    train "$dir/sensor.json" "$dir/run" "$@"
    score "$dir/run" "$dir/held.jsonl" "$dir/simulation"
  fi
  if [[ $rows == *" adapted "* ]]; then
    [ -f "$dir/adapted/report.json" ] ||
      bcfusion adapt "$base/start" --pairs "$dir/others.jsonl" --speech "$speech" --output "$dir/adapted" "${length[@]}" --seed "$seed"
    score "$dir/adapted" "$dir/held.jsonl" "$dir/adapted-scores"
  fi
  if [[ $rows == *" fresh "* ]]; then
    [ -f "$dir/fresh/report.json" ] ||
      bcfusion adapt "$base/start" --fresh --pairs "$dir/others.jsonl" --speech "$speech" --output "$dir/fresh" "${length[@]}" --seed "$seed"
    score "$dir/fresh" "$dir/held.jsonl" "$dir/fresh-scores"
  fi
done

if [[ $rows == *" start "* ]]; then # on what the other rows are scored on
  for fold in $folds; do cat "$base/fold$fold/held.jsonl"; done >"$base/held.jsonl"
  score "$base/start" "$base/held.jsonl" "$base/start-scores"
fi

# one table of all folds
tables=()
[[ $rows != *" start "* ]] || tables+=("start=$base/start-scores/scores.csv")
for fold in $folds; do
  [[ $rows != *" simulation "* ]] || tables+=("simulation=$base/fold$fold/simulation/scores.csv")
  [[ $rows != *" adapted "* ]] || tables+=("adapted=$base/fold$fold/adapted-scores/scores.csv")
  [[ $rows != *" fresh "* ]] || tables+=("fresh=$base/fold$fold/fresh-scores/scores.csv")
done
bcfusion evaluate --scores "${tables[@]}" 'metrics=[pesq_wb,stoi,estoi,lsd]' output="$base/table"
