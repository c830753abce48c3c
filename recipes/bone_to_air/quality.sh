#!/usr/bin/env bash
# Does an adversary, a critic of PESQ or a differentiable PESQ raise the quality of a network beyond regression?
#
#   bash quality.sh SPEECH OUT [SEED] [EXPERIMENT] [key=value ...]
#
# SPEECH      air speech, a folder with train/, valid/ and test/ of different speakers, as for data=folder
# OUT         one run is the start of all: OUT/EXPERIMENT/start; then OUT/EXPERIMENT/seedSEED/ARM
# EXPERIMENT  its network, data and optimiser (without it eben); losses and balancer are those of this file. key=value changes other settings.
#
# regression      L1 and multi-resolution STFT; every loss of an arm has the same share of the gradient (balancer=gradient)
# adversarial     and a hinge game with DISCRIMINATORS (pqmf_bands), initialised for the level of speech, and feature matching
# metric_gan      and a critic that learns PESQ from the metric workers
# pesq_surrogate  and a differentiable PESQ (pip install 'bcfusion[pesq]')
# combination     all of these
#
# ARMS="regression adversarial" selects some. START_STEPS=1500 and STEPS=1000 are lengths, EVERY=250 the steps between validations.
# MINUTES=8 continues the arms until they have used as many minutes each, and scores them a second time. METRICS score the test split;
# those that are set need bcfusion[metrics].
# What is in OUT is not done again: another call adds arms or seeds, or goes on. It refuses an OUT of other settings.
set -euo pipefail
speech=$1 out=$2 seed=${3:-0} experiment=${4:-eben}
shift $(($# < 4 ? $# : 4))
arms=${ARMS:-regression adversarial metric_gan pesq_surrogate combination}
discriminators=${DISCRIMINATORS:-pqmf_bands}
metrics=${METRICS:-pesq_wb,stoi,estoi,si_sdr,lsd,dnsmos,visqol}
base=$out/$experiment

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=recipes/going_on.sh
source "$here/../going_on.sh"
made_with "$base" "speech=$speech" "$@" "START_STEPS=${START_STEPS:-1500}" "STEPS=${STEPS:-1000}" "EVERY=${EVERY:-250}" "DISCRIMINATORS=$discriminators"

train() { # RUN [key=value ...]
  train_run "$1" machine=cpu experiment="$experiment" data=folder data.root="$speech" balancer=gradient losses.l1.weight=1 losses.mr_stft.weight=1 \
    trainer.validate_every="${EVERY:-250}" trainer.max_valid_items=8 trainer.max_test_items=1 trainer.samples=0 trainer.ema_decay=0.995 \
    budget.minutes=600 "${@:2}"
}
score() { # RUN OUTPUT
  [ -f "$2/scores.csv" ] ||
    bcfusion evaluate "$1" "metrics=[$metrics]" trainer.max_test_items=null trainer.samples=0 output="$2"
}
table() { # NAME
  local tables=()
  for arm in $arms; do tables+=("$arm=$base/seed$seed/$arm/$1/scores.csv"); done
  bcfusion evaluate --scores "${tables[@]}" "metrics=[$metrics]" output="$base/seed$seed/$1"
}

train "$base/start" 'losses=[l1,mr_stft]' 'discriminators=[]' seed=0 trainer.max_steps="${START_STEPS:-1500}" "$@"
for arm in $arms; do
  run=$base/seed$seed/$arm
  losses=l1,mr_stft
  settings=("seed=$seed" "init_from=$base/start" "$@")
  if [[ $arm == pesq_surrogate || $arm == combination ]]; then
    losses+=,pesq_surrogate
    settings+=(losses.pesq_surrogate.weight=1)
  fi
  if [[ $arm == metric_gan || $arm == combination ]]; then
    settings+=('critics=[metric_gan]' critics.metric_gan.weight=1 critics.metric_gan.ramp_steps=50)
  fi
  if [[ $arm == adversarial || $arm == combination ]]; then
    losses+=,feature_matching
    settings+=("discriminators=[$discriminators]" adversarial=hinge adversarial.start_step=0 adversarial.ramp_steps=50
      adversarial.speech_level=0.07 losses.feature_matching.weight=1)
  else
    settings+=('discriminators=[]')
  fi
  settings+=("losses=[$losses]")
  if [ ! -f "$run/equal_steps/scores.csv" ]; then
    train "$run" "${settings[@]}" trainer.max_steps="${STEPS:-1000}"
    score "$run" "$run/equal_steps"
  fi
  if [ -n "${MINUTES:-}" ] && [ ! -f "$run/equal_minutes/scores.csv" ]; then
    if ! bcfusion train resume="$run" trainer.max_steps=null budget.minutes="$MINUTES" 2>"$run/continued.txt"; then
      cat "$run/continued.txt" >&2
      grep -q "is finished" "$run/continued.txt" # it has used its minutes
    fi
    score "$run" "$run/equal_minutes"
  fi
done
table equal_steps
[ -z "${MINUTES:-}" ] || table equal_minutes
