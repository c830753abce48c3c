"""Run a trained generator over signals and recordings of any length, in bounded memory.

Needs torch, safetensors, PyYAML and soundfile; neither Lightning nor Hydra.
"""
