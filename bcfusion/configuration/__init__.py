"""The configuration: where it lies, how it is composed, what its targets are, and the check of all of it."""
