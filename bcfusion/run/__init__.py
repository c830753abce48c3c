"""What a run directory is: layout, checkpoints, bundles, the record of a run, the jobs of a sweep."""
