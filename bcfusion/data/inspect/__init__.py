"""Inspect a corpus before training on it: what its files hold, and what is wrong with them."""
