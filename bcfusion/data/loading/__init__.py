"""From a manifest to batches: crops, simulation, collation, order."""
