#!/usr/bin/env bash
# EBEN on each of the five body sensors of Vibravox, from the corpus to one table beside the published figures.
#
#   bash vibravox.sh CORPUS OUT [key=value ...]
#
# CORPUS       folder of the parquet files, CORPUS/speech_clean/train-00000-of-...; downloaded if there are none
# OUT          everything is written below OUT/SUBSET; what is there is not done again, an interrupted training continues
# key=value    settings of the trainings, after those of this recipe
#
# SENSORS="throat_microphone forehead_accelerometer" selects some, SUBSET=speech_clean is the part of the corpus, EPOCHS=500 the
# length of a training, BATCH=32 its batch, MEASURE=1 corrects lag and polarity of each sensor, LIMIT=500 is the number of
# recordings that are inspected, METRICS=[pesq_wb,stoi] scores (stoi chooses the checkpoint). The table is OUT/SUBSET/table/sets.md and sets.csv.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
corpus=$1 out=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
subset=${SUBSET:-speech_clean}
base=$out/$subset
published=$here/vibravox_published.csv
# shellcheck source=recipes/bone_to_air/recorded.sh
source "$here/recorded.sh"

# Hz up to which a sensor picks up speech, in whole bands of 2 kHz: EBEN's p is 4, 2, 2, 1 and 2
declare -A bandwidths=([forehead_accelerometer]=8000 [soft_in_ear_microphone]=4000 [rigid_in_ear_microphone]=4000
  [temple_vibration_pickup]=2000 [throat_microphone]=4000)
read -ra sensors <<<"${SENSORS:-forehead_accelerometer soft_in_ear_microphone rigid_in_ear_microphone temple_vibration_pickup throat_microphone}"
for sensor in "${sensors[@]}"; do
  [ -n "${bandwidths[$sensor]:-}" ] || { echo "vibravox.sh: SENSORS: there is no $sensor; there are ${!bandwidths[*]}" >&2; exit 2; }
done

for sensor in "${sensors[@]}"; do
  prepare_manifest vibravox "$base/$sensor.jsonl" "$corpus/$subset" --sensor "$sensor" --subset "$subset"
  inspect_manifest "$base/$sensor.jsonl"
done
for sensor in "${sensors[@]}"; do
  train_and_score "$sensor" "${bandwidths[$sensor]}" "$base/$sensor.jsonl" "$@"
done
table "${sensors[@]}"
