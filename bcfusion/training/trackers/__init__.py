"""Experiment trackers: what a run logs, sent to a service or a store that shows many runs together."""
