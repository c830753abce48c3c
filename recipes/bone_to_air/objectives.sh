#!/usr/bin/env bash
# One network taught in different ways, for the same time: regression, an adversary, a differentiable PESQ, a flow, a bridge.
#
#   bash objectives.sh SPEECH OUT [EXPERIMENT] [key=value ...]
#
# SPEECH      air speech, a folder with train/, valid/ and test/ of different speakers, as for data=folder
# OUT         one run for each way: OUT/WAY; the scores of the test split in OUT/WAY/steps-N, all together in OUT/table
# EXPERIMENT  its network, one on spectra, and its optimiser (unet_causal); key=value changes other settings (recipe=bandwidth_extension, degradation=..., seed=1)
#
# regression  SI-SNR and multi-resolution STFT; in all ways but flow every loss has the same share of the gradient (balancer=gradient)
# gan         and a hinge game with DISCRIMINATORS (pqmf_bands), initialised for the level of speech, and feature matching
# pesq        regression and a differentiable PESQ with twice the share (pip install 'bcfusion[pesq]')
# flow        the velocity of the path from the noisy sensor to the target; scored with 5 steps, and with 1
# bridge      the target from a point of the Schroedinger bridge, by the losses of regression; scored with 1 step and with 5
# bridge_pesq the same by the losses of pesq
#
# WAYS="regression flow" selects some. MINUTES=30 of training each, STEPS a number of steps instead; a validation EVERY=500, which
# chooses the checkpoint, with 5 steps of flow and 1 of the bridge. The adversary of gan joins at START_STEP=1000: well before the end.
# METRICS score the test split; dnsmos needs bcfusion[metrics].
#
# Call it again on the same OUT to add ways, to go on after an interruption, or, with more MINUTES or STEPS, to train each way that much
# longer and score it anew.
set -euo pipefail
speech=$1 out=$2 experiment=${3:-unet_causal}
shift $(($# < 3 ? $# : 3))
own=("$@")
ways=${WAYS:-regression gan pesq flow bridge bridge_pesq}
metrics=${METRICS:-pesq_wb,stoi,estoi,si_sdr,lsd,dnsmos}
length=(trainer.max_steps=null "budget.minutes=${MINUTES:-30}")
[ -z "${STEPS:-}" ] || length=("trainer.max_steps=$STEPS" budget.minutes=600)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=recipes/going_on.sh
source "$here/../going_on.sh"
made_with "$out" "speech=$speech" "experiment=$experiment" "${own[@]}" "EVERY=${EVERY:-500}" "START_STEP=${START_STEP:-1000}" \
  "DISCRIMINATORS=${DISCRIMINATORS:-pqmf_bands}"

train() { # WAY key=value ...
  local run=$out/$1 same=yes each
  shift
  for each in "${length[@]}"; do grep -qxF -- "- $each" "$run/overrides.yaml" 2>/dev/null || same=no; done
  if [ "$same" = no ] && [ -f "$run/checkpoints/last.ckpt" ]; then # it had less time
    if ! bcfusion train resume="$run" "${length[@]}" 2>"$run/continued.txt"; then
      cat "$run/continued.txt" >&2
      grep -q "is finished" "$run/continued.txt" # it has had as much, or more
    fi
    return
  fi
  train_run "$run" machine=cpu experiment="$experiment" data=folder data.root="$speech" trainer.validate_every="${EVERY:-500}" \
    'critics=[]' trainer.max_valid_items=8 trainer.max_test_items=1 trainer.samples=0 trainer.ema_decay=0.999 "${length[@]}" \
    "${own[@]}" "$@"
}
tables=()
score() { # WAY [STEPS]
  local steps=${2:-} scores=$out/$1/steps-${2:-1}
  [ "$scores/scores.csv" -nt "$out/$1/bundle" ] ||
    bcfusion evaluate "$out/$1" ${steps:+steps=$steps} "metrics=[$metrics]" trainer.max_test_items=null \
      trainer.samples=0 output="$scores"
  tables+=("$1${steps:+-$steps}=$scores/scores.csv")
}

alone='discriminators=[]' # an experiment may have some, or another objective
judged=(balancer=gradient losses.si_snr.weight=1 losses.mr_stft.weight=1)
pesq=(losses=[si_snr,mr_stft,pesq_surrogate] "${judged[@]}" losses.pesq_surrogate.weight=2)
for way in $ways; do
  case $way in
    regression)
      train $way objective=regression $alone 'losses=[si_snr,mr_stft]' "${judged[@]}"
      score $way
      ;;
    gan)
      train $way objective=regression 'losses=[si_snr,mr_stft,feature_matching]' "${judged[@]}" losses.feature_matching.weight=1 \
        "discriminators=[${DISCRIMINATORS:-pqmf_bands}]" adversarial=hinge adversarial.start_step="${START_STEP:-1000}" adversarial.ramp_steps=200 \
        adversarial.speech_level=0.07
      score $way
      ;;
    pesq)
      train $way objective=regression $alone "${pesq[@]}"
      score $way
      ;;
    flow)
      train $way $alone objective=flow 'losses=[prediction_mse]'
      score $way 5
      score $way 1
      ;;
    bridge)
      train $way $alone objective=bridge 'losses=[si_snr,mr_stft]' "${judged[@]}"
      score $way 1
      score $way 5
      ;;
    bridge_pesq)
      train $way $alone objective=bridge "${pesq[@]}"
      score $way 1
      score $way 5
      ;;
    *)
      echo "WAYS: $way is none of regression, gan, pesq, flow, bridge, bridge_pesq" >&2
      exit 2
      ;;
  esac
done
bcfusion evaluate --scores "${tables[@]}" "metrics=[$metrics]" output="$out/table"
