"""What happens between the steps: validation, checkpoints, budget, signals, logs, progress."""
