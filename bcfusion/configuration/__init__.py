"""The configuration: its files, how it is composed and built, and the check of all of it."""
