#!/usr/bin/env bash
# Print the tested versions with the hashes of their files, for pip's --require-hashes: no other file is installed then.
#
#   pip install uv
#   scripts/hashed_requirements.sh > requirements.txt              # what bcfusion needs
#   scripts/hashed_requirements.sh metrics serve > requirements.txt    # with these extras
#   pip install --require-hashes -r requirements.txt && pip install --no-deps bcfusion-*.whl
#
# The file holds names, versions, markers and hashes; no addresses of the index that uv has asked.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "uv is needed: pip install uv" >&2; exit 1; }
extras=()
for extra in "$@"; do extras+=(--extra "$extra"); done
made=$(uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
  --constraint constraints.txt ${extras[@]+"${extras[@]}"} pyproject.toml)
if grep -n '://' <<<"$made" >&2; then
  echo "these lines hold addresses: nothing is printed" >&2
  exit 1
fi
printf '%s\n' "$made"
