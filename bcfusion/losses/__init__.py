"""Losses, adversarial ones too: each an ``nn.Module`` or plain class that can be read alone.

The ``forward`` of a loss names its inputs (``estimate``, ``target``, ``lengths``, ``estimate_judgements``, ...) and
returns a float32 scalar, the mean over items of a value that depends on that item alone. Import classes by module path
(``bcfusion.losses.waveform.L1Loss``), like the ``_target_`` in ``conf/losses/*.yaml``.
"""
