"""Corpora, simulated sensors, and the path from files to batches.

``manifest`` and ``corpora`` say which utterances there are, ``simulation`` makes the sensors that were not recorded,
``segments`` cuts and reads, ``collate`` batches, ``stream`` orders, and ``datamodule`` holds it together.
"""
