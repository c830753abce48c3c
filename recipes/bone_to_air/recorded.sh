# Steps that vibravox.sh and taps.sh share; they source it. Each step leaves out what exists already.
# They set: corpus, out, base (results of this corpus or subset), and published, a CSV for `bcfusion evaluate --sets`.

epochs=${EPOCHS:-500}      # of training; one crop of each utterance is an epoch
batch=${BATCH:-32}         # crops in a batch
metrics=${METRICS:-[pesq_wb,stoi]}
measure=()                 # the sensors as recorded, as in the published training
[ -z "${MEASURE:-}" ] || measure=(--measure)

say() { printf '\n== %s\n' "$*"; }

prepare_manifest() { # NAME MANIFEST FOLDER [option ...]: download if the folder has no parquet files, unpack, write the manifest
  local name=$1 manifest=$2 folder=$3
  shift 3
  [ ! -f "$manifest" ] || return 0
  mkdir -p "$base"
  local download=()
  # the mark stays if a download is interrupted: the folder is then not empty, but not complete either
  if [ -f "$base/downloading" ] || [ -z "$(find "$folder" -name '*.parquet' -print -quit 2>/dev/null)" ]; then
    touch "$base/downloading"
    download=(--download)
  fi
  say "prepare $manifest"
  bcfusion prepare "$name" --root "$corpus" --out "$manifest" --unpack "$base/audio" "${measure[@]}" "${download[@]}" "$@"
  rm -f "$base/downloading"
}

inspect_manifest() { # MANIFEST: findings do not end the recipe, an unusable manifest does
  local status=0
  [ ! -f "${1%.jsonl}.inspect.html" ] || return 0
  say "inspect $1"
  bcfusion inspect "$1" --limit "${LIMIT:-500}" || status=$?
  [ "$status" -le 1 ] || exit "$status"
}

train_and_score() { # SENSOR INPUT-BANDWIDTH MANIFEST [key=value ...]
  local sensor=$1 bandwidth=$2 manifest=$3 run=$base/$1/run scores=$base/$1/scores
  shift 3
  local rows steps
  rows=$(grep -c '"split": "train"' "$manifest" || true)
  [ "$rows" -gt 0 ] || { echo "$manifest has no utterances to train on: was the download complete? Remove it to prepare it again" >&2; exit 2; }
  steps=$(((rows + batch - 1) / batch))
  if [ -f "$run/quality/test.csv" ]; then # of the closing evaluation: the training is complete
    say "$sensor: $run is trained already"
  elif [ -f "$run/checkpoints/last.ckpt" ]; then
    say "$sensor: continue $run"
    bcfusion train resume="$run"
  else
    say "$sensor: $rows utterances, $steps steps per epoch, $((epochs * steps)) steps"
    bcfusion train experiment=eben data=manifest data.path="$manifest" degradation=none input_bandwidth="$bandwidth" machine=gpu \
      data.batch_size="$batch" metrics="$metrics" trainer.keep_best=[stoi] selection=stoi trainer.max_steps=$((epochs * steps)) \
      trainer.validate_every=$((15 * steps)) trainer.max_test_items=1 hydra.run.dir="$run" "$@"
  fi
  if [ ! -f "$scores/scores.csv" ]; then
    say "$sensor: score the test split"
    bcfusion evaluate "$run" metrics="$metrics" output="$scores"
  fi
}

table() { # SENSOR ...: one table of all
  local sets=() sensor
  for sensor; do sets+=("$sensor=$base/$sensor/scores/scores.csv"); done
  say "table of ${sets[*]%%=*}"
  bcfusion evaluate --sets "${sets[@]}" --published "$published" metrics="$metrics" output="$base/table"
}
