"""What happens between the steps: quality, checkpoints, budget, signals, logs, progress."""
