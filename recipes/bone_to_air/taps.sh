#!/usr/bin/env bash
# EBEN on the throat sensor of TAPS, from the corpus to a table beside the published figures.
#
#   bash taps.sh CORPUS OUT [key=value ...]
#
# CORPUS       folder of the parquet files, CORPUS/data/train-00000-of-...; downloaded if there are none
# OUT          everything is written below it; what is there is not done again, an interrupted training continues
# key=value    settings of the training, after those of this recipe
#
# EPOCHS=200 is the length of the training, BATCH=32 its batch, MEASURE=1 corrects lag and polarity of the sensor, LIMIT=500 is the
# number of recordings that are inspected, METRICS=[pesq_wb,stoi] scores (stoi chooses the checkpoint). The table is OUT/table/sets.md and sets.csv.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
corpus=$1 out=$2 base=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
published=$here/taps_published.csv
EPOCHS=${EPOCHS:-200}
# shellcheck source=recipes/bone_to_air/recorded.sh
source "$here/recorded.sh"

prepare_manifest taps "$base/throat_microphone.jsonl" "$corpus"
inspect_manifest "$base/throat_microphone.jsonl"
# the sensor was sampled at 8 kHz: it holds speech up to 4 kHz, two bands
train_and_score throat_microphone 4000 "$base/throat_microphone.jsonl" "$@"
table throat_microphone
