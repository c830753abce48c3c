"""Discriminators, one file each: a waveform in, one judgement per sub-discriminator out."""
