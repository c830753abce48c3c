"""Using a trained generator: load it (``bundle``), measure it (``probe``), run it over long files (``enhance``).

Needs torch, safetensors, PyYAML and soundfile; neither Lightning nor Hydra.
"""
