"""Corpora, simulated sensors, and the path from files to batches.

``corpora`` lists utterances, ``preparation`` writes manifests and shards of a corpus on disk, ``inspect`` finds what is
wrong with recordings, ``simulation`` makes the sensors that were not recorded, ``loading`` turns rows into batches.
"""
