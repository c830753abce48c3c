"""Scores of whole test sets.

``evaluate`` runs a model on the ``utterances`` of a split; ``folders`` scores files that exist already. ``pool``
computes the metrics in ``workers``; ``scores`` is the result. ``summary`` derives ``statistics`` from it, and
``score_files`` writes both for other programs. ``systems`` and ``sample_files`` define the names in tables and files.
"""
