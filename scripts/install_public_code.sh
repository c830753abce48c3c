#!/usr/bin/env bash
# Install the public code that tests/parity compares with into the current environment; without it these tests are skipped.
#
#     scripts/install_public_code.sh
#
# Each package comes without its dependencies: those that the compared modules need are in the development environment, and
# nothing that is pinned there changes. In all 10 MB to download and 61 MB on disk.
set -euo pipefail

packages=(
  vibravox==0.1.1            # EBEN: generator, discriminators, losses, balancing, training step
  asteroid==0.7.0            # Conv-TasNet, DCCRN, SI-SDR
  asteroid-filterbanks==0.4.0
  hifi-gan==0.0.2            # HiFi-GAN: vocoder, discriminators, losses
  hifi-gan-bwe==0.1.14       # HiFi-GAN+: network, losses of the content
  encodec==0.1.1             # EnCodec: multi-scale STFT discriminator
  einops==0.8.2              #   which it needs, as NeMo does
  audiocraft==1.3.0          # EnCodec: balancer
  flashy==0.0.2              #   its moving average
  voicefixer==0.1.3          # VoiceFixer: ResUNet
  espnet==202511             # BSRNN
  denoiser==0.1.5            # Demucs: encoder and decoder of SE-Conformer
  nemo_toolkit==3.0.0        # transformer on spectra
)
# vibravox asks for Python 3.12; what is used of it runs on 3.11 too
pip install --quiet --no-deps --ignore-requires-python "${packages[@]}"
