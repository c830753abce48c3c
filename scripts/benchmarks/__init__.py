"""The rows of scripts/bench.py: one module for each family, and what they share."""
