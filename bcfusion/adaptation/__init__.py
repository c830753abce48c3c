"""Adaptation of a trained network to a new sensor, from a few minutes of recorded pairs."""
