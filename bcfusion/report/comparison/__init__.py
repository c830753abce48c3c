"""Compare runs by what they wrote: one table, differences with intervals, curves."""
