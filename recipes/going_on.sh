# Scripts of the recipes source this: they can be called again on the same OUT. What is there is not done again, an interrupted training
# goes on, and an OUT of other settings is refused.

made_with() { # FOLDER word ...: refuse a folder that an earlier call filled with other words
  local file=$1/settings.txt now
  now=$(printf '%s\n' "${@:2}")
  # what ended before it had made anything, as with a misspelt word, is no reason to refuse another call
  if [ -f "$file" ] && [ "$(cat "$file")" != "$now" ] && [ -n "$(find "$1" \( -name '*.ckpt' -o -name scores.csv \) -print -quit)" ]; then
    echo "$1 holds results of other settings: choose another OUT. What differs:" >&2
    diff "$file" <(printf '%s\n' "$now") >&2 || true
    exit 2
  fi
  mkdir -p "$1"
  printf '%s\n' "$now" >"$file"
}

train_run() { # RUN key=value ...
  local run=$1
  [ ! -d "$run/bundle" ] || return 0
  if [ -f "$run/checkpoints/last.ckpt" ]; then # it was interrupted
    bcfusion train resume="$run"
  else
    bcfusion train hydra.run.dir="$run" "${@:2}"
  fi
}
