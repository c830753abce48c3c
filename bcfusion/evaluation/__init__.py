"""Scores of test sets: worker processes, tables of scores, statistics, and the one procedure that fills them."""
