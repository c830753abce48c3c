"""Networks that restore speech, one file each; ``conf/generator/`` names them by module path."""
