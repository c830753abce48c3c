#!/usr/bin/env bash
# How `bandwidth_8k` was made: 8 to 16 kHz, causal.
#
#   bash shipped.sh SPEECH OUT [EXPERIMENT] [key=value ...]
#
# SPEECH  a manifest of wide-band speech with train, valid and test, such as `bcfusion prepare folder ... --measure` writes; the
#         utterances whose speech does not reach 7 kHz (their source was MP3) are left out of training
set -euo pipefail
speech=$1 out=$2 experiment=${3:-seanet_streaming}
shift $(($# < 3 ? $# : 3))
bcfusion train recipe=bandwidth_extension experiment="$experiment" seed=0 data=manifest data.path="$speech" data.min_bandwidth=7000 \
  budget.minutes="${MINUTES:-30}" trainer.samples=0 hydra.run.dir="$out/$experiment" "$@"
bcfusion evaluate "$out/$experiment" output="$out/$experiment/scores" trainer.samples=0
