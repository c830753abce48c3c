"""Networks that judge waveforms, one file each; ``conf/discriminators/`` names them by module path."""
