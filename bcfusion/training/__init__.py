"""The engine: from a configuration to a run directory."""
